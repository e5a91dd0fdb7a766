"""What each stage trains, and the mode that every module is then in."""

from __future__ import annotations

import pytest
import torch

import sam3_hyperet as hy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.training.options import KEY_LAYERS
from sam3_hyperet.training.stages import set_training_mode


def size(parameters):
    return sum(p.numel() for p in parameters)


@pytest.fixture
def adapted(model):
    return hy.inject(model, hy.HyperETConfig())


def test_counts_of_the_stages(adapted):
    everything = dict(adapted.named_parameters())
    added = dict(adapter_parameters(adapted))
    prefixes = ("transformer.decoder.", "dot_prod_scoring.", "segmentation_head.")
    key = {name: p for name, p in everything.items() if name.startswith(prefixes)}
    for stage, expected in ((1, added), (2, {**added, **key}), (3, everything)):
        report = hy.set_stage(adapted, stage)
        assert {name for name, p in adapted.named_parameters() if p.requires_grad} == expected.keys()
        assert report.stage == stage
        assert report.trainable == size(expected.values()) == hy.parameter_report(adapted)["trainable"]
        assert report.trainable + report.frozen == size(everything.values())
        assert f"{report.trainable:,} parameters train" in str(report)
    assert size(added.values()) == 2 * 64 * 64
    report = hy.set_stage(adapted, 2)
    assert report.matched.keys() == set(KEY_LAYERS)
    assert sum(report.matched.values()) == len(key)
    hy.set_stage(adapted, 1)
    assert size(p for p in adapted.parameters() if p.requires_grad) == 2 * 64 * 64


def test_layers_of_stage_2_are_patterns_from_the_start_of_a_name(adapted):
    report = hy.set_stage(adapted, 2, layers=[r"transformer\.encoder\.layers\.1\.", r".*norm"])
    names = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert report.matched[r"transformer\.encoder\.layers\.1\."] == sum(
        name.startswith("transformer.encoder.layers.1.") for name in names
    )
    assert "dot_prod_scoring.prompt_mlp.out_norm.weight" in names
    assert "dot_prod_scoring.hs_proj.weight" not in names


@pytest.mark.parametrize("layers", [["encoder"], [r"transformer\.decoder\.", "no such layer"]])
def test_a_pattern_that_matches_nothing_is_an_error(adapted, layers):
    with pytest.raises(ConfigError, match=rf"stage 2: no parameter's name matches {layers[-1]}"):
        hy.set_stage(adapted, 2, layers=layers)


@pytest.mark.parametrize("stage", [0, 4, "1", None])
def test_an_unknown_stage_is_refused(adapted, stage):
    with pytest.raises(ConfigError, match="is unknown; expected 1, 2 or 3"):
        hy.set_stage(adapted, stage)


def test_stage_1_needs_adapters(base):
    with pytest.raises(ConfigError, match="the model has none"):
        hy.set_stage(base, 1)


def modes(model):
    return {name: module.training for name, module in model.named_modules()}


def test_frozen_modules_are_in_evaluation_mode(adapted):
    hy.set_stage(adapted, 1)
    adapted.train()
    set_training_mode(adapted)
    training = {name for name, mode in modes(adapted).items() if mode}
    assert "" in training  # the root: this is how SAM 3 is asked for what its losses need
    assert training - {""} == {name for name in modes(adapted) if name.startswith("backbone.fpn_adjustment")}
    adapted.eval()
    assert not any(modes(adapted).values())


def test_in_stage_3_all_layers_are_in_training_mode(adapted):
    hy.set_stage(adapted, 3)
    set_training_mode(adapted)
    training = {name for name, mode in modes(adapted).items() if mode}
    with_dropout = {name for name, module in adapted.named_modules() if isinstance(module, torch.nn.Dropout)}
    inside = {name for name in with_dropout if name.startswith(("transformer.", "dot_prod_scoring"))}
    assert inside
    frozen_and_steering = {"transformer.encoder", "transformer.decoder"}
    with_parameters = {
        name for name, module in adapted.named_modules() if next(module.parameters(), None) is not None
    } - frozen_and_steering
    assert with_parameters <= training
    assert inside <= training


def test_activation_checkpointing_changes_no_gradient(another, make_batch, randomized):
    gradients = []
    batch = make_batch([("car", [(10, 10, 50, 40)]), ("sky", [])])
    for checkpointing in (False, True):
        model = randomized(hy.inject(another(), hy.HyperETConfig()), scale=0.05)
        hy.set_stage(model, 1)
        set_training_mode(model, checkpoint_activations=checkpointing)
        loss = GroundingLoss(model, LossOptions())
        loss(model, batch, model(batch))[TOTAL].backward()
        gradients.append([p.grad for _, p in adapter_parameters(model)])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-4, atol=1e-6)


def test_text_layers_run_once_a_step_in_stage_3(another, make_batch):
    model = hy.inject(another(), hy.HyperETConfig())
    hy.set_stage(model, 3)
    model.train()  # as SAM 3's own trainer has it
    runs = []
    for layer in model.backbone.language_backbone.encoder.transformer.resblocks:
        layer.register_forward_pre_hook(lambda *_, layer=layer: runs.append(layer))
    batch = make_batch([("car", [(10, 10, 50, 40)])])
    GroundingLoss(model, LossOptions())(model, batch, model(batch))[TOTAL].backward()
    assert len(runs) == len(set(runs)) > 0
