"""The builders: reproducible, fully initialised, and at the official size exactly the official model."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from official import image_model, on_meta

import sam3_hyperet as hy
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.build import ARCHITECTURES, Architecture, assemble, build_model, resolution
from sam3_hyperet.modeling.opening import check_checkpoint


def weights(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def test_same_seed_same_weights(base):
    again = build_model("tiny", checkpoint="random", seed=0)
    assert weights(again).keys() == weights(base).keys()
    assert all(torch.equal(p, weights(base)[name]) for name, p in again.named_parameters())
    assert not any(module.training for module in again.modules())


def test_another_seed_other_weights_and_the_same_state_otherwise(base):
    """Base weights are the named parameters alone: every buffer is derived from the architecture."""
    other = build_model("tiny", checkpoint="random", seed=1)
    drawn = [name for name, p in other.named_parameters() if p.unique().numel() > 2]
    assert len(drawn) > 100
    assert not [name for name in drawn if torch.equal(weights(other)[name], weights(base)[name])]
    buffers = dict(base.named_buffers())
    assert all(torch.equal(b, buffers[name]) for name, b in other.named_buffers())


def test_building_leaves_global_randomness_alone():
    states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    build_model("tiny", checkpoint="random", seed=5)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]


def test_only_the_cpu_generator_is_seeded(monkeypatch):
    """`torch.manual_seed` would seed every accelerator, and nothing would put their state back."""
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("seeds every device"))
    build_model("tiny", checkpoint="random")


def test_every_parameter_is_initialised():
    """Memory that is not written before it is read holds NaN here."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        assert torch.empty(3).isnan().all(), "the test would not notice"
        model = build_model("tiny", checkpoint="random")
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = before
    assert not [name for name, p in model.named_parameters() if not p.isfinite().all()]
    assert not [name for name, b in model.named_buffers() if b.isnan().any()]
    text = model.backbone.language_backbone.encoder
    for parameter in (text.positional_embedding, text.text_projection):
        assert 0.015 < parameter.std() < 0.025


@pytest.mark.parametrize(
    ("name", "side", "near"),
    [
        ("tiny", 100, "64, 128"),
        ("tiny", 150, "128, 192"),
        ("tiny", 0, "64, 128"),
        ("tiny", -64, "64, 128"),
        ("tiny", 63, "64, 128"),
        ("large", 1000, "672, 1008"),
        ("large", 1024, "1008, 1344"),
    ],
)
def test_an_impossible_resolution_is_refused_with_the_valid_ones_near(name, side, near):
    with pytest.raises(ConfigError, match=rf"resolution={side} .*multiple of (64|336) .*near it: {near}$"):
        build_model(name, checkpoint="random", resolution=side)


@pytest.mark.parametrize("side", [64, 192])
def test_another_resolution_runs_with_the_same_weights(base, picture, side):
    model = build_model("tiny", checkpoint="random", resolution=side)
    assert resolution(model) == side
    assert all(torch.equal(p, weights(base)[name]) for name, p in model.named_parameters())
    (answer,) = Predictor(model, ["car"], side).predict(picture)
    assert answer.mask_logits.shape[-2:] == (side // 4, side // 4)
    assert answer.mask_logits.isfinite().all()


def test_resolution_of_the_tiny_model(base):
    assert resolution(base) == 128


def test_an_unknown_model_is_refused():
    with pytest.raises(ConfigError, match=r"model 'huge' is unknown; expected one of large, tiny"):
        build_model("huge")


def test_random_weights_of_the_official_model_have_to_be_said():
    message = (
        "of model 'large' is not given, and the package has no weights for it; expected facebook/sam3 .*, or random"
    )
    for build in (build_model, hy.adapted_model):
        with pytest.raises(ConfigError, match=message):
            build("large")
    with pytest.raises(ConfigError, match=message):
        check_checkpoint({"name": "large", "checkpoint": None})


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere.pt: no such file"):
        build_model("tiny", checkpoint=tmp_path / "nowhere.pt")


FILLED_WHEN_FIRST_USED = {"compilable_cord_cache", "compilable_stored_size"}  # by the official builder, on "cuda"


def test_large_is_exactly_the_official_model():
    with on_meta():
        ours = assemble(Architecture())
        official = image_model()

    def described(model):
        return {name: (tuple(p.shape), p.dtype, p.requires_grad) for name, p in model.named_parameters()}

    assert described(ours) == described(official)
    assert {n: tuple(b.shape) for n, b in ours.named_buffers()} == {
        n: tuple(b.shape) for n, b in official.named_buffers()
    }
    assert list(ours.state_dict()) == list(official.state_dict())
    assert 840e6 < sum(p.numel() for p in ours.parameters()) < 841e6
    assert resolution(ours) == resolution(official) == 1008
    for name, module in official.named_modules():
        mine = ours.get_submodule(name)
        assert isinstance(mine, type(module)), name
        settings = {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str | tuple)}
        settings = {k: v for k, v in settings.items() if k not in FILLED_WHEN_FIRST_USED}
        different = {k: (vars(mine).get(k), v) for k, v in settings.items() if vars(mine).get(k) != v}
        assert not different, (name, different)


def test_tiny_is_the_same_design_at_other_sizes():
    assert ARCHITECTURES["large"] == Architecture()
    assert replace(ARCHITECTURES["tiny"], **vars(Architecture())) == Architecture()
