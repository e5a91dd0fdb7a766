"""The probe sees what goes into an adjustment and what comes out, and changes nothing."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import torch
from PIL import Image

import sam3_hyperet as hy
from sam3_hyperet.hyperbolic.radius import normalized_radius, radius
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.latest_radii import LatestRadii
from sam3_hyperet.modeling.parameters import adapter_sites
from sam3_hyperet.modeling.probe import watchable_base
from sam3_hyperet.modeling.radius_sums import BINS, RadiusSums


@pytest.fixture
def adapted(model, randomized):
    adapted = randomized(hy.inject(model, hy.HyperETConfig(curvature=0.1)), scale=0.05)
    hy.set_stage(adapted, 1)
    return adapted


@pytest.fixture
def pyramid():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 64, side, side, generator=generator) for side in (8, 4)]


def means(*tensors):
    """Mean radius and mean normalised radius over all positions of all tensors."""
    kinds = (lambda x: radius(x, 1), lambda x: normalized_radius(x, 0.1, 1))
    return [float(torch.cat([kind(x).flatten() for x in tensors]).mean()) for kind in kinds]


def site(model):
    (found,) = adapter_sites(model).values()
    return found


def test_sums_over_everything_seen(adapted, pyramid):
    adjustment = site(adapted)
    other = [0.3 * x for x in pyramid]
    with RadiusSums(adapted) as probe, torch.no_grad():
        adjustment(pyramid)
        adjustment(other)
    assert list(probe.sites) == ["fpn.0", "fpn.1"]
    for level, radii in enumerate(probe.sites.values()):
        assert radii.positions == 2 * 2 * pyramid[level].shape[-1] ** 2
        assert radii.histogram.shape == (2, BINS)
        assert radii.histogram.sum(dim=1).tolist() == [radii.positions] * 2
        seen = [pyramid[level], other[level]]
        with torch.no_grad():
            after = [adjustment.level(level)(x) for x in seen]
        assert radii.mean()[0, :2].tolist() == pytest.approx(means(*seen), rel=1e-5)
        assert radii.mean()[1, :2].tolist() == pytest.approx(means(*after), rel=1e-5)
        assert ((radii.mean()[:, 2] >= 0) & (radii.mean()[:, 2] <= 1)).all()


def test_the_latest_features_as_metrics(adapted, pyramid):
    adjustment = site(adapted)
    with LatestRadii(adapted) as probe, torch.no_grad():
        assert not [name for name in probe.latest() if not name.startswith("adapter/")]
        adjustment([10 * x for x in pyramid])
        outputs = adjustment(pyramid)
        figures = probe.latest()
    assert figures["base/radius/fpn.0/mean"] == pytest.approx(float(radius(pyramid[0], 1).mean()), rel=1e-5)
    assert figures["radius/fpn.1/mean"] == pytest.approx(float(radius(outputs[1], 1).mean()), rel=1e-5)
    assert figures["adapter/fpn.0/identity_gap"] > 0
    assert {"normalized_radius/fpn.0/mean", "base/radius/fpn.1/std"} <= figures.keys()
    assert all(math.isfinite(value) for value in figures.values())


def test_the_probe_changes_nothing_and_leaves_nothing(adapted, pyramid):
    adjustment = site(adapted)
    hooks = [len(module._forward_hooks) for module in adapted.modules()]
    with torch.no_grad():
        plain = adjustment(pyramid)
        with contextlib.suppress(ZeroDivisionError), RadiusSums(adapted):
            watched = adjustment(pyramid)
            1 / 0
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert [len(module._forward_hooks) for module in adapted.modules()] == hooks


def test_what_is_not_seen_is_not_counted(adapted, base, pyramid):
    with RadiusSums(adapted) as probe, hy.adapters_disabled(adapted), torch.no_grad():
        site(adapted)(pyramid)
    assert [radii.positions for radii in probe.sites.values()] == [0, 0]
    assert probe.sites["fpn.0"].mean().tolist() == [[0.0] * 3] * 2
    with LatestRadii(base) as latest, RadiusSums(base) as sums:
        assert sums.sites == {}
        assert latest.latest() == {}


def test_a_shared_adjustment_counts_every_level(model, pyramid):
    adapted = hy.inject(model, hy.HyperETConfig(share=True))
    with RadiusSums(adapted) as probe, torch.no_grad():
        site(adapted)(pyramid)
    assert {name: radii.positions for name, radii in probe.sites.items()} == {"fpn": 2 * (64 + 16)}


def test_the_latest_features_of_a_shared_adjustment_are_those_of_every_level(model, pyramid, randomized):
    adapted = randomized(hy.inject(model, hy.HyperETConfig(share=True)))
    hy.set_stage(adapted, 1)
    pyramid = [4.0 * pyramid[0], pyramid[1]]
    with LatestRadii(adapted) as latest, RadiusSums(adapted) as sums, torch.no_grad():
        site(adapted)([7.0 * x for x in pyramid])
        sums.take()
        outputs = site(adapted)(pyramid)
    expected = sums.take()["fpn"]
    figures = latest.latest()
    assert figures["base/radius/fpn/mean"] == pytest.approx(float(expected.mean()[0, 0]), rel=1e-5)
    assert figures["radius/fpn/mean"] == pytest.approx(float(expected.mean()[1, 0]), rel=1e-5)
    assert figures["radius/fpn/saturation"] == pytest.approx(float(expected.mean()[1, 2]))
    every = torch.cat([radius(x, 1).flatten() for x in outputs])
    assert figures["radius/fpn/std"] == pytest.approx(float(every.std(correction=0)), rel=1e-5)
    assert torch.equal(latest.histograms()["normalized_radius/fpn"], expected.histogram[1])
    assert {name: behind.shape for name, (_, behind) in latest.maps().items()} == {"fpn 8×8": (8, 8), "fpn 4×4": (4, 4)}


def test_a_shared_level_that_is_called_again_displaces_no_other(model, pyramid):
    """As the pixel decoder's lowest, once for every few prompts."""
    adapted = hy.inject(model, hy.HyperETConfig(share=True))
    with LatestRadii(adapted) as probe, torch.no_grad():
        for level in (0, 1, 1, 1):
            site(adapted).adjusted(level, pyramid[level])
        assert len(probe.maps()) == 2
        assert probe.latest()["radius/fpn/mean"] == pytest.approx(means(*pyramid)[0], rel=1e-5)


def test_the_latest_features_of_layers_that_share_an_adjustment(model, randomized):
    randomized(hy.inject(model, hy.HyperETConfig(scheme="B", share=True)))
    outputs = []
    for layer in model.transformer.encoder.layers:
        layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with LatestRadii(model) as probe, torch.no_grad():
        list(Predictor(model, ["car"], 128).predict(Image.new("RGB", (20, 20))))
        list(Predictor(model, ["car", "house"], 128).predict(Image.new("RGB", (20, 20), "red")))
    count = len(model.transformer.encoder.layers)
    assert count > 1
    expected = float(torch.cat([radius(x).flatten() for x in outputs[-count:]]).mean())
    assert probe.latest()["radius/encoder_layer/mean"] == pytest.approx(expected, rel=1e-5)


def test_features_far_out_are_counted_as_saturated(adapted):
    with RadiusSums(adapted) as probe, torch.no_grad():
        site(adapted)([torch.full((1, 64, 3, 3), 1e4), torch.zeros(1, 64, 2, 2)])
    far, near = probe.sites["fpn.0"], probe.sites["fpn.1"]
    assert far.mean()[0, 2] == 1
    assert int(far.histogram[0, -1]) == far.positions == 9
    assert near.mean().abs().max() == 0
    assert int(near.histogram[0, 0]) == near.positions == 4


def test_features_in_half_precision_at_the_cap_are_counted_as_saturated(model):
    adapted = hy.inject(model, hy.HyperETConfig(geometry="mobius"))
    features = [1e3 * torch.randn(1, 64, 9, 9, generator=torch.Generator().manual_seed(0)).bfloat16()] * 2
    with LatestRadii(adapted) as latest, RadiusSums(adapted) as sums, torch.no_grad():
        site(adapted)(features)
    assert sums.take()["fpn.0"].mean()[:, 2].tolist() == [1.0, 1.0]
    assert latest.latest()["radius/fpn.0/saturation"] == 1.0


def test_weights_and_gates_report_themselves_and_have_no_radii(model, randomized, picture):
    randomized(hy.inject(model, hy.HyperETConfig(scheme="B+C+P", structure="diagonal")))
    with LatestRadii(model) as latest, RadiusSums(model) as sums, torch.no_grad():
        model.backbone.forward_image(torch.zeros(1, 3, 128, 128))
    assert list(sums.sites) == ["encoder_layer.0", "encoder_layer.1"]
    figures = latest.latest()
    assert figures["adapter/trunk_qv.3.v/identity_gap"] > 0
    assert figures["adapter/encoder_layer.1/identity_gap"] > 0
    assert {"adapter/attention.0.self/distance_gate", "adapter/attention.1.cross/curvature"} <= figures.keys()


def test_histograms_of_the_latest_features(adapted, pyramid):
    with LatestRadii(adapted) as probe, RadiusSums(adapted) as sums, torch.no_grad():
        assert probe.histograms() == {}
        site(adapted)(pyramid)
        histograms = probe.histograms()
    assert histograms.keys() == {f"{side}normalized_radius/fpn.{n}" for side in ("", "base/") for n in (0, 1)}
    for name, radii in sums.sites.items():
        for counts, side in zip(radii.histogram, ("base/", ""), strict=True):
            assert torch.equal(counts, histograms[f"{side}normalized_radius/{name}"])
    assert not torch.equal(histograms["normalized_radius/fpn.0"], histograms["base/normalized_radius/fpn.0"])


def test_maps_are_those_of_the_features_around_an_adjustment(model, randomized):
    adapted = randomized(hy.inject(model, hy.HyperETConfig()))
    with LatestRadii(adapted) as probe, torch.inference_mode():
        out = adapted.backbone.forward_image(torch.zeros(1, 3, 128, 128))
    maps = probe.maps()
    assert list(maps) == ["fpn.0", "fpn.1"]
    for level, (before, after) in enumerate(maps.values()):
        features = out["backbone_fpn"][level][0]
        assert before.shape == after.shape == features.shape[1:]
        np.testing.assert_allclose(after, np.tanh(0.1 * features.norm(dim=0).numpy()), rtol=1e-5)
        assert np.abs(after - before).max() > 1e-3


def test_padding_of_texts_is_not_counted(model, randomized):
    """A context has 32 tokens, of which the words take a few; what stands behind them is no text."""
    adapted = randomized(hy.inject(model, hy.HyperETConfig(scheme="prompt", curvature=0.1)))
    adjustment, reported, latest = site(adapted), [], []
    with RadiusSums(adapted) as sums, LatestRadii(adapted) as probe, torch.no_grad():
        texts = adapted.backbone.forward_text(["car", "a red house"], device="cpu")
        features, padding = texts["language_features"], texts["language_mask"]
        reported.append(sums.take()["prompt"])
        latest.append({**probe.latest(), **probe.histograms()})
        for far in (0.0, 1e4):
            x = torch.where(padding.t()[..., None], far, features)
            adjustment(x, x, padding)
            reported.append(sums.take()["prompt"])
            latest.append(probe.latest())
    real = ~padding.t()
    assert 0 < int(real.sum()) < real.numel() / 2
    expected = float(radius(features)[real].mean())
    assert float(reported[0].mean()[1, 0]) == pytest.approx(expected, rel=1e-5)
    assert reported[0].positions == int(real.sum()) == int(reported[0].histogram[1].sum())
    assert latest[0]["radius/prompt/mean"] == pytest.approx(expected, rel=1e-5)
    assert torch.equal(latest[0]["normalized_radius/prompt"], reported[0].histogram[1])
    assert torch.equal(reported[1].mean(), reported[2].mean())
    assert torch.equal(reported[1].histogram, reported[2].histogram)
    assert latest[1] == latest[2]


@pytest.mark.parametrize("scheme", ["A+B", "B+C"])
def test_only_the_base_s_features_are_called_the_base_s(model, randomized, scheme):
    """Those of a site behind another are not, nor any once base weights train."""
    randomized(hy.inject(model, hy.HyperETConfig(scheme=scheme)))
    hy.set_stage(model, 1)
    with LatestRadii(model) as probe, torch.no_grad():
        list(Predictor(model, ["car"], 128).predict(Image.new("RGB", (20, 20))))
    of_base = {"fpn.0", "fpn.1"} if scheme == "A+B" else set()
    for keys in (probe.latest(), {**probe.histograms()}):
        found = {key.split("/")[2] for key in keys if key.startswith("base/")}
        assert found == of_base
        assert any("encoder_layer.1" in key and key.endswith("_before") for key in keys)
    next(model.backbone.parameters()).requires_grad_(True)
    assert not [key for key in probe.latest() if key.startswith("base/")]


def test_the_base_is_measured_at_the_sites_of_the_adapters(model, another, randomized):
    """Also at sites behind others, and where the adapted model has base weights of its own."""
    adapted = randomized(hy.inject(model, hy.HyperETConfig(scheme="A+B+P")))
    base = another()
    image, picture = Image.new("RGB", (20, 20), (200, 30, 90)), {}
    with torch.no_grad():
        model.transformer.encoder.layers[0].linear1.weight.mul_(1.5)
    hook = base.transformer.encoder.layers[1].register_forward_hook(lambda *args: picture.update(out=args[2]))
    list(Predictor(base, ["car"], 128).predict(image))
    hook.remove()
    twin = watchable_base(adapted, base)
    with RadiusSums(twin) as probe:
        (answer,) = Predictor(twin, ["car"], 128).predict(image)
    (expected,) = Predictor(base, ["car"], 128).predict(image)
    assert torch.equal(answer.mask_logits, expected.mask_logits)
    radii = probe.take()
    assert list(radii) == ["fpn.0", "fpn.1", "encoder_layer.0", "encoder_layer.1"]
    assert float(radii["encoder_layer.1"].mean()[0, 0]) == pytest.approx(
        float(radius(picture["out"], -1).mean()), rel=1e-5
    )
    assert probe.take()["fpn.0"].positions == 0
    assert all(site.enabled for site in adapter_sites(adapted).values())
