"""`adapted_model` is one call from plain options to a model that trains, and stays what it is in others' hands."""

from __future__ import annotations

import logging

import hydra
import pytest
import torch
from omegaconf import OmegaConf

import sam3_hyperet as hy
from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.fingerprint import base_fingerprint
from sam3_hyperet.modeling.parameters import adapter_parameters

TINY = {"name": "tiny", "checkpoint": "random"}
OPTIONS = {"scheme": "A", "structure": "diagonal", "geometry": "mobius", "levels": [1]}


@pytest.fixture(scope="module")
def adapted():
    """Stage 1. Its mode may be changed, nothing else."""
    return hy.adapted_model(**TINY)


def adapters(model):
    return {name: parameter.detach() for name, parameter in adapter_parameters(model)}


def test_the_model_is_the_base_with_adapters_that_train(adapted, base, picture):
    from sam3_hyperet.inference.predictor import Predictor

    assert isinstance(adapted, host.Sam3Image)
    assert base_fingerprint(adapted) == base_fingerprint(base)
    assert adapted.hyperet_config == hy.HyperETConfig()
    trainable = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trainable == adapters(adapted).keys()
    assert not any(module.training for module in hy.adapted_model(**TINY).modules())
    adapted.eval()
    with hy.adapters_disabled(adapted):
        (ours,), (theirs,) = (list(Predictor(model, ["car"], 128).predict(picture)) for model in (adapted, base))
    assert torch.equal(ours.mask_logits, theirs.mask_logits)


@pytest.mark.parametrize("convert", ["none", "all"])
def test_hydra_can_make_it(convert, caplog):
    target = {"_target_": "sam3_hyperet.adapted_model", **TINY, "resolution": "${side}", "stage": 2}
    config = OmegaConf.create({"model": {**target, "hyperet": {**OPTIONS, "curvature": "${c}"}}, "c": 0.5, "side": 64})
    with caplog.at_level(logging.INFO, "sam3_hyperet.training.sam3_trainer"):
        model = hydra.utils.instantiate(config.model, _convert_=convert)
    assert model.hyperet_config == hy.HyperETConfig(**OPTIONS, curvature=0.5)
    assert hy.resolution(model) == 64
    assert caplog.messages[0].startswith("stage 2: ")
    assert model.transformer.decoder.query_embed.weight.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hyperet": {"schema": "A"}}, r"hyperet\.schema is not an option"),
        ({"hyperet": {"scheme": "none"}}, "stage 1 trains the adapters, and the model has none"),
        ({"stage": 4}, "stage=4 is unknown"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        hy.adapted_model(**TINY, **options)


def test_frozen_parts_stay_in_evaluation_mode_when_it_is_told_to_train(adapted):
    assert adapted.train() is adapted
    training = {name for name, module in adapted.named_modules() if module.training}
    added = {name for name, _ in adapted.named_modules() if name.startswith("backbone.fpn_adjustment")}
    # the last two check-point activations: no dropout is in them, but below them
    assert training == {""} | added | {"transformer.encoder", "transformer.decoder"}
    adapted.eval()
    assert not any(module.training for module in adapted.modules())


def test_when_everything_trains_all_of_it_is_in_training_mode():
    model = hy.adapted_model(**TINY, stage=3).train()
    assert all(module.training for module in model.modules())
    model = hy.adapted_model(**TINY, stage=2).train()
    assert all(module.training for module in model.transformer.decoder.modules())
    assert not any(module.training for module in model.transformer.encoder.layers.modules())


def test_a_step_in_training_mode_reaches_the_adapters_alone(adapted, make_batch):
    adapted.train()
    before = base_fingerprint(adapted)
    loss = GroundingLoss(adapted, LossOptions())
    batch = make_batch([("car", [(10, 10, 50, 40)]), ("sky", [])])
    loss(adapted, batch, adapted(batch))[TOTAL].backward()
    assert {name for name, p in adapted.named_parameters() if p.grad is not None} == adapters(adapted).keys()
    assert all(p.grad.abs().sum() > 0 for _, p in adapter_parameters(adapted))
    adapted.zero_grad()
    assert base_fingerprint(adapted) == before


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model whose adapters have moved, its file of adapters, and the checkpoint that SAM 3's trainer makes of it."""
    model = hy.adapted_model(**TINY, hyperet=OPTIONS)
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    folder = tmp_path_factory.mktemp("trained")
    hy.save_adapter(model, folder / "adapter.safetensors")
    torch.save({"model": model.state_dict(), "optimizer": {"state": {}}, "epoch": 1}, folder / "checkpoint.pt")
    return model, folder


@pytest.mark.parametrize(
    ("file", "hyperet"),
    [("adapter.safetensors", None), ("adapter.safetensors", OPTIONS), ("checkpoint.pt", OPTIONS)],
)
def test_adapters_to_start_from(trained, file, hyperet):
    model, folder = trained
    again = hy.adapted_model(**TINY, hyperet=hyperet, adapter=folder / file)
    assert again.hyperet_config == model.hyperet_config
    assert adapters(again).keys() == adapters(model).keys()
    assert all(torch.equal(value, adapters(model)[name]) for name, value in adapters(again).items())


def test_the_base_may_come_from_the_checkpoint_as_well(trained, tmp_path):
    model = hy.adapted_model(**TINY, seed=8, stage=3)
    torch.save({"model": model.state_dict()}, tmp_path / "checkpoint.pt")
    again = hy.adapted_model("tiny", tmp_path / "checkpoint.pt", adapter=tmp_path / "checkpoint.pt")
    assert base_fingerprint(again) == base_fingerprint(model) != base_fingerprint(trained[0])


def test_adapters_that_do_not_fit_are_refused(trained, tmp_path):
    _, folder = trained
    with pytest.raises(CheckpointError, match=r"adapter.safetensors: holds .*diagonal.*, the model has .*dense"):
        hy.adapted_model(**TINY, hyperet={"structure": "dense"}, adapter=folder / "adapter.safetensors")
    with pytest.raises(CheckpointError, match=r"checkpoint.pt: 1 of 2 adapter parameters found; .* hyperet="):
        hy.adapted_model(**TINY, adapter=folder / "checkpoint.pt")
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    name = next(name for name in content["model"] if "fpn_adjustment" in name)
    content["model"][name] = torch.ones(3)
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other.pt: .*fpn_adjustment.* has shape \(3,\), expected \(64,\)"):
        hy.adapted_model(**TINY, hyperet=OPTIONS, adapter=tmp_path / "other.pt")
