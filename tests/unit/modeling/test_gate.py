"""Gates per prompt: the base at first, read off the text alone and on every path, trained, saved, shown and refused."""

from __future__ import annotations

import copy

import pytest
import torch
from answers import answers, equal, largest_relative_difference

import sam3_hyperet as hy
from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.gate import PromptGate, mean_text
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss
from sam3_hyperet.modeling.config import GATED_SITES, SITES
from sam3_hyperet.modeling.gates import prompt_gates
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.modeling.sites.tokens import text_of
from sam3_hyperet.training.optimizer import build_optimizer
from sam3_hyperet.training.options import OptimizerOptions
from sam3_hyperet.training.shared_work import shared_work
from sam3_hyperet.training.stages import set_stage, set_training_mode
from sam3_hyperet.training.text_features import text_features_once

GATED = hy.HyperETConfig(sites=GATED_SITES, gate="prompt")
PROMPTS = ("car", "the window of a house", "sky")
NAMES = ("prompt", "encoder_layer.0", "encoder_layer.1", "encoder_out")


@pytest.fixture
def gated(base, randomized):
    """Gated adapters, moved from where they start, on the tensors of the base."""
    return randomized(hy.adapted_copy(base, GATED), scale=0.1).eval()


class Recorded:
    """Context that records the gates of every pass, (gates in the model's order, prompts)."""

    def __init__(self, model):
        self._gates = [module for module in model.modules() if isinstance(module, PromptGate)]

    def __enter__(self):
        self._found = {gate: [] for gate in self._gates}
        self._hooks = [gate.register_forward_hook(self._record) for gate in self._gates]
        return self

    def __exit__(self, *error):
        for hook in self._hooks:
            hook.remove()

    def _record(self, gate, inputs, output):
        self._found[gate].append(output.detach().flatten())

    def values(self):
        return torch.stack([torch.cat(of_gate) for of_gate in self._found.values()])


def test_gates_start_at_the_base_bit_for_bit(base, picture):
    model = hy.adapted_copy(base, GATED)
    assert equal(answers(model, picture), answers(base, picture))
    for precision in ("32-true", "bf16-mixed"):
        found, expected = (
            next(Predictor(one.eval(), PROMPTS, 128, precision=precision).predict(picture, [1]))
            for one in (model, base)
        )
        assert torch.equal(found.scores, expected.scores)
        assert torch.equal(found.semantic_logits, expected.semantic_logits)
    assert set(prompt_gates(model, PROMPTS)["car"].values()) == {1.0}
    assert prompt_gates(base, PROMPTS) == {}


def test_gates_are_of_the_text_alone_and_the_same_on_every_path(gated, picture, make_batch):
    expected = prompt_gates(gated, PROMPTS)
    assert tuple(expected) == PROMPTS
    assert all(sorted(one) == sorted(NAMES) for one in expected.values())
    rows = torch.tensor([list(one.values()) for one in expected.values()]).t()
    assert (rows[:, 1:] - rows[:, :1]).abs().min() > 1e-3

    with Recorded(gated) as recorded:  # without the padding that all prompts have, encoder passes of 2 and 1 prompts
        list(Predictor(gated, PROMPTS, 128, prompts_at_once=2).predict(picture))
    torch.testing.assert_close(recorded.values(), rows, rtol=1e-5, atol=1e-6)

    set_stage(gated, 1)
    set_training_mode(gated, checkpoint_activations=True)
    square = [(10, 10, 60, 60)]
    batch = make_batch([("car", square), ("the window of a house", [])], [("sky", square)])
    with shared_work(gated), text_features_once(gated):
        with Recorded(gated) as recorded:
            output = gated(batch)
        GroundingLoss(gated)(gated, batch, output)[TOTAL].backward()
    torch.testing.assert_close(recorded.values(), rows, rtol=1e-5, atol=1e-6)
    gradients = {name: p.grad for name, p in adapter_parameters(gated) if ".gate." in name}
    assert len(gradients) == 2 * len(NAMES)
    assert all(gradient.abs().min() > 0.0 for gradient in gradients.values())


def test_geometry_behind_the_text_is_not_pooled(gated):
    text, padding = torch.randn(32, 2, 64), torch.arange(32).expand(2, 32) > torch.tensor([[5], [31]])
    for geometry in (1, 4):
        prompt = torch.cat([text, torch.randn(geometry, 2, 64)])
        found, mask = text_of(prompt, torch.cat([padding, torch.zeros(2, geometry, dtype=torch.bool)], dim=1))
        assert torch.equal(found, text)
        assert torch.equal(mask, padding)
    found, mask = text_of(torch.cat([text[:6], torch.randn(1, 2, 64)]), torch.zeros(2, 7, dtype=torch.bool))
    assert torch.equal(found, text[:6])
    assert mask.shape == (2, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_does_not_change_a_gate(dtype):
    gate = PromptGate(7, batch_dim=0)
    torch.manual_seed(0)
    with torch.no_grad():
        gate.weight.normal_()
        gate.bias.normal_()
    text = torch.randn(5, 1, 7).to(dtype)
    padded = torch.cat([text, torch.full((4, 1, 7), torch.inf)])
    padding = (torch.arange(9) > 4)[None]
    with torch.autocast("cpu", torch.bfloat16):
        found = gate(padded, padding)
    assert (found.dtype, found.shape) == (torch.float32, (1, 1, 1))
    torch.testing.assert_close(found, gate(text, None))
    t = torch.nn.functional.layer_norm(text.float().mean(0)[0], (7,))
    torch.testing.assert_close(found.flatten(), 2 * torch.sigmoid(gate.weight @ t + gate.bias))


def test_the_gate_multiplies_the_change_with_the_dial(gated):
    site = gated.transformer.encoder.layers[0].adjustment
    x, text = torch.randn(2, 11, 64), torch.randn(6, 2, 64)
    with torch.no_grad():
        g, full = site.gate(text, None), site.hyperet(x)
        for dial in (1.0, 0.4):
            site.dial = dial
            assert torch.equal(site(x, text), x + dial * g * (full - x))
        site.dial = 0.0
        assert site(x, text) is x


def test_off_saved_loaded_and_counted(gated, base, picture, tmp_path):
    found, expected = answers(gated, picture), answers(base, picture)
    assert largest_relative_difference(found, expected) > 1e-3
    with hy.adapters_disabled(gated):
        assert equal(answers(gated, picture), expected)
        shown = prompt_gates(gated, PROMPTS)  # which are those of the adapter, whatever is switched off
    hy.set_dial(gated, 0)
    assert equal(answers(gated, picture), expected)
    hy.set_dial(gated, 1)
    hy.save_adapter(gated, tmp_path / "adapter.safetensors")
    loaded = hy.adapted_copy(base, tmp_path / "adapter.safetensors")
    assert equal(answers(loaded, picture), found)
    assert shown.keys() == prompt_gates(loaded, PROMPTS).keys()
    ungated = hy.adapted_copy(base, hy.HyperETConfig(sites=GATED_SITES))
    added = [hy.parameter_report(model)["added"] for model in (gated, ungated)]
    assert added[0] - added[1] == len(NAMES) * 65
    shared = hy.adapted_copy(base, hy.HyperETConfig(scheme="B", share=True, gate="prompt"))
    assert hy.parameter_report(shared)["added"] == 64 * 64 + 65


def test_the_number_of_a_gate_does_not_decay(gated):
    set_stage(gated, 1)
    optimizer = build_optimizer(gated, OptimizerOptions(weight_decay=0.5))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in adapter_parameters(gated):
        if ".gate." in name:
            assert decays[id(parameter)] == (0.0 if name.endswith("bias") else 0.5)


def test_a_gated_prompt_does_not_fold(base):
    model = hy.adapted_copy(base, hy.HyperETConfig(sites=["prompt"], geometry="euclidean", gate="prompt"))
    with pytest.raises(ConfigError, match=r"site prompt does not fold .*: its gate differs from prompt to prompt"):
        hy.merge(model)


def test_gates_that_would_read_no_prompt_are_refused(base):
    for site in set(SITES) - set(GATED_SITES):
        with pytest.raises(ConfigError, match=rf"site {site} does not see.*encoder_layer, encoder_out, prompt"):
            hy.HyperETConfig(sites=["prompt", site], gate="prompt")
    with pytest.raises(ConfigError, match="adapter=lora has no gates"):
        hy.HyperETConfig(scheme="B", adapter="lora", gate="prompt")
    with pytest.raises(ConfigError, match="gate="):
        hy.HyperETConfig(scheme="B", gate="word")
    model = copy.copy(base)
    model._modules = {**base._modules, "geometry_encoder": copy.copy(base.geometry_encoder)}
    model.geometry_encoder._modules = {**base.geometry_encoder._modules, "cls_embed": None}
    assert isinstance(model, host.Sam3Image)
    with pytest.raises(ConfigError, match="no token of its own"):
        hy.inject(model, GATED)


def test_the_mean_of_a_text_leaves_padding_out():
    features, padding = torch.arange(12.0).view(3, 2, 2), torch.tensor([[False, False, True], [False, True, True]])
    assert mean_text(features, padding).tolist() == [[2.0, 3.0], [2.0, 3.0]]
    assert mean_text(features, torch.ones(2, 3, dtype=torch.bool)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert mean_text(features, None).tolist() == features.mean(dim=0).tolist()
