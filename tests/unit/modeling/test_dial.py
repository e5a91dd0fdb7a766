"""The dial: the base at 0, the adapters at 1, to the last bit; in between as defined, saved, merged and never stale."""

from __future__ import annotations

import pytest
import torch
from answers import equal, largest_relative_difference
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import sam3_hyperet as hy
from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.adapters.attention import HyperbolicGates, HyperbolicMultiheadAttention
from sam3_hyperet.choices import GEOMETRIES
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.config import SITES
from sam3_hyperet.modeling.copies import shared_copy
from sam3_hyperet.modeling.dial import dial_of
from sam3_hyperet.modeling.fingerprint import model_facts
from sam3_hyperet.modeling.parameters import adapter_sites
from sam3_hyperet.modeling.sites.site import SiteAdjustment
from sam3_hyperet.modeling.sites.trunk_qv import weights_kept
from sam3_hyperet.training.warm_start import load_to_train

EVERYWHERE = hy.HyperETConfig(sites=SITES, residual=0.7)
PROMPTS = ["red car", "the window of a house", "sky"]


def prediction(model, picture, precision="32-true"):
    """What a model says of a picture."""
    return said(Predictor(model.eval(), PROMPTS, 128, precision=precision), picture)


def said(predictor, picture):
    found = list(predictor.predict(picture))
    with torch.inference_mode():
        masks = {f"mask{k}": one.keep(torch.arange(2)).mask_logits for k, one in enumerate(found)}
    scores = torch.stack([torch.cat([one.scores, torch.tensor([one.presence])]) for one in found])
    return {"scores": scores, **masks}


@pytest.fixture
def adapted(base, randomized):
    """Adapters at every site, on the tensors of the base."""
    return randomized(hy.adapted_copy(base, EVERYWHERE), scale=0.1)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_base_at_0_and_the_adapters_at_1_bit_for_bit(adapted, base, picture, precision):
    of_base, of_adapters = prediction(base, picture, precision), prediction(adapted, picture, precision)
    hy.set_dial(adapted, 0.5)
    between = prediction(adapted, picture, precision)
    assert not equal(between, of_base)
    assert not equal(between, of_adapters)
    with hy.adapters_disabled(adapted):
        assert equal(prediction(adapted, picture, precision), of_base)
    hy.set_dial(adapted, 0)
    assert equal(prediction(adapted, picture, precision), of_base)
    hy.set_dial(adapted, 1)
    assert equal(prediction(adapted, picture, precision), of_adapters)


def test_each_site_alone_at_0_is_that_site_switched_off(adapted, picture):
    sites = {}
    for site in adapter_sites(adapted).values():
        sites.setdefault(site.name.partition(".")[0], []).append(site)
    assert sites.keys() == set(SITES)
    for name, of_kind in sites.items():
        for site in of_kind:
            site.dial = 0.0
        dialled = prediction(adapted, picture)
        for site in of_kind:
            site.dial, site.enabled = 1.0, False
        assert equal(dialled, prediction(adapted, picture)), name
        for site in of_kind:
            site.enabled = True


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adjustment_between_and_beyond(geometry, dtype, randomized):
    module = SiteAdjustment("prompt", HyperET(7, "banded", geometry, curvature=0.3, residual=0.5))
    x = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
        full = module.hyperet(x.float())
        for dial in (0.3, 1.7):
            module.dial = dial
            expected = (x.float() + dial * (full - x.float())).to(dtype)
            assert torch.equal(module(x), expected)
        module.dial = 0.0
        assert module(x) is x


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_between(batch_first):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(12, 3, batch_first=batch_first).eval()
    hyperbolic = HyperbolicMultiheadAttention.from_attention(attention, HyperbolicGates(3))
    x, padding = torch.randn(5, 5, 12), torch.arange(5).expand(5, 5) > 3
    with torch.no_grad():
        hyperbolic.gates.distance_gate.add_(0.7)
        of_base, full = (m(x, x, x, padding, need_weights=False)[0] for m in (attention, hyperbolic))
        hyperbolic.gates.dial = 0.25
        between = hyperbolic(x, x, x, padding)[0]
        one = hyperbolic(x[0], x[0], x[0])[0]
        hyperbolic.gates.dial = 0.0
        assert torch.equal(hyperbolic(x, x, x, padding)[0], of_base)
    assert torch.equal(between, of_base + 0.25 * (full - of_base))
    assert not torch.equal(full, of_base)
    assert one.shape == (5, 12)


@pytest.mark.parametrize("sites", [["fpn", "prompt"], ["trunk_qv"]])
def test_merged_at_a_dial_is_unmerged_at_it(sites, base, another, picture, randomized):
    geometry = "lorentz" if sites == ["trunk_qv"] else "mobius"
    model = hy.inject(another(), hy.HyperETConfig(sites=sites, geometry=geometry, residual=0.8))
    randomized(model, scale=0.02)
    hy.set_dial(model, 0.4)
    expected = prediction(model, picture)
    assert largest_relative_difference(expected, prediction(base, picture)) > 1e-4
    assert largest_relative_difference(prediction(hy.merge(model), picture), expected) <= 1e-5


def test_the_dial_is_saved_and_loaded(adapted, base, tmp_path):
    path = tmp_path / "adapter.safetensors"
    for dial in (0.35, 1.0):
        hy.set_dial(adapted, dial)
        hy.save_adapter(adapted, path)
        assert dial_of(hy.adapted_copy(base, path)) == dial
    hy.set_dial(adapted, 0.35)
    assert dial_of(hy.load_adapter(adapted, path)) == 1.0

    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, path, {key: value for key, value in metadata.items() if key != "dial"})
    assert dial_of(hy.adapted_copy(base, path)) == 1.0
    for odd in ("3", "nan", "much"):
        save_file(tensors, path, {**metadata, "dial": odd})
        with pytest.raises(CheckpointError, match=r"its dial cannot be read"):
            hy.adapted_copy(base, path)


def test_training_begins_at_1_with_a_file_of_another_dial(adapted, base, tmp_path):
    hy.set_dial(adapted, 0.35)
    hy.save_adapter(adapted, tmp_path / "adapter.safetensors")
    model = shared_copy(base)
    assert load_to_train(model, tmp_path / "adapter.safetensors") == 0.35
    assert dial_of(model) == 1.0


def test_copies_have_dials_and_facts_of_their_own(adapted, base):
    other = shared_copy(adapted)
    hy.set_dial(other, 0.5)
    assert (dial_of(adapted), dial_of(other)) == (1.0, 0.5)
    at_0 = shared_copy(adapted)
    hy.set_dial(at_0, 0)
    facts = [one["adapter"] for one in model_facts([adapted, other, at_0, base])]
    assert facts[1] == f"{facts[0]} dial=0.5"
    assert facts[2:] == [None, None]


def test_nothing_computed_at_another_dial_is_used(adapted, base, picture):
    """Neither a vocabulary's text, nor the trunk's kept weights, nor a cascade's first look."""
    predictor = Predictor(adapted.eval(), PROMPTS, 128)
    expected = prediction(base, picture)
    with weights_kept([adapted]):
        predictor.spare(1e-9)
        scores = predictor.first_look(predictor.encode(picture), range(3))
        assert not equal(said(predictor, picture), expected)
        hy.set_dial(adapted, 0)
        assert equal(said(predictor, picture), expected)
        of_base = Predictor(base.eval(), PROMPTS, 128, spare_below=1e-9)
        first = predictor.first_look(predictor.encode(picture), range(3))
    assert torch.equal(first, of_base.first_look(of_base.encode(picture), range(3)))
    assert not torch.equal(first, scores)


def test_what_is_no_dial_is_refused(adapted, base):
    for odd in (-0.1, 2.1, float("nan"), float("inf"), True, "1", None):
        with pytest.raises(ConfigError, match=r"dial=.*expected a number from 0"):
            hy.set_dial(adapted, odd)
    with pytest.raises(ConfigError, match="no adapters, so no dial"):
        hy.set_dial(base, 0.5)
    next(iter(adapter_sites(adapted).values())).dial = 0.5
    with pytest.raises(ConfigError, match="different dials"):
        dial_of(adapted)
