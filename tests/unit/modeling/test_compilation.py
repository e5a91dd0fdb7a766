"""Compiled regions: the same numbers for every number of prompts, a bounded number of graphs, the same names."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

import sam3_hyperet as hy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.mask_head import shares_work
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss
from sam3_hyperet.modeling.build import build_model
from sam3_hyperet.modeling.compilation import compiled_regions, uncompiled_class
from sam3_hyperet.modeling.copies import shared_copy
from sam3_hyperet.modeling.radius_sums import RadiusSums
from sam3_hyperet.training.shared_work import shared_work
from sam3_hyperet.training.stages import set_training_mode

PROMPTS = [("car", [(20, 20, 80, 70)]), ("sky", []), ("tree", [(5, 60, 60, 120)]), ("red house", [])]


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected[1:].abs().max()))


@pytest.fixture
def adapted(model, randomized):
    torch._dynamo.reset()
    counters.clear()
    model.compiles = True
    hy.set_stage(randomized(hy.inject(model, {"scheme": "A", "levels": [1]}), scale=0.1), 1)
    yield model
    torch._dynamo.reset()


def test_a_step_is_the_same(adapted, make_batch):
    """In one graph each, of which there are no more for a third number of prompts; names, hooks and copies work on."""

    def gradient(count):
        set_training_mode(adapted)
        batch = make_batch(PROMPTS[:count])
        total = GroundingLoss(adapted)(adapted, batch, adapted(batch))[TOTAL]
        found = torch.autograd.grad(total, [p for p in adapted.parameters() if p.requires_grad])
        return torch.cat([total.detach()[None], *(one.flatten() for one in found)])

    expected = {count: gradient(count) for count in (2, 3, 4)}
    names = list(adapted.state_dict())
    modules = [id(module) for module in adapted.modules()]
    seen = []
    with shared_work(adapted), compiled_regions([adapted], "eager"):
        assert list(adapted.state_dict()) == names
        assert list(shared_copy(adapted).state_dict()) == names
        (adjustment,) = adapted.backbone.fpn_adjustment.adjustments
        handle = adjustment.register_forward_hook(lambda *_: seen.append(1))
        for count in (2, 3):
            assert_same(gradient(count), expected[count])
        graphs = counters["stats"]["unique_graphs"]
        assert graphs >= 3
        assert_same(gradient(4), expected[4])
        assert counters["stats"]["unique_graphs"] == graphs
        handle.remove()
    assert len(seen) == 3
    assert [id(module) for module in adapted.modules()] == modules


def test_a_probe_made_before_sees_what_runs(adapted):
    """As in an evaluation, which opens its models first."""
    probe = RadiusSums(adapted)
    with compiled_regions([adapted], "eager"), probe, torch.no_grad():
        adapted.backbone.fpn_adjustment.adjusted(1, torch.randn(2, 64, 5, 3))
    assert {name: radii.positions for name, radii in probe.take().items()} == {"fpn": 2 * 5 * 3}


def test_a_compiled_pixel_decoder_shares_its_work(adapted):
    head, pyramid = adapted.segmentation_head, [torch.zeros(1, 64, side, side) for side in (32, 16, 8)]
    assert shares_work(head, pyramid)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Parameter, "is_cuda", True)
        with compiled_regions([adapted], "eager"):
            assert type(head.pixel_decoder) is not uncompiled_class(head.pixel_decoder)
            assert shares_work(head, pyramid)
    assert type(head.pixel_decoder) is uncompiled_class(head.pixel_decoder)


def test_a_third_dial_is_no_further_graph(adapted):
    """As in an evaluation along the dial, whose models share the compiled code."""
    x = torch.randn(2, 64, 5, 3)
    site, seen = adapted.backbone.fpn_adjustment.requires_grad_(False), []
    with compiled_regions([adapted], "aot_eager"):
        for dial in (0.25, 0.5, 1.25):
            site.dial = dial
            found = site.adjusted(1, x)
            seen.append(counters["stats"]["unique_graphs"])
            full = super(type(site.level(1)), site.level(1)).forward(x)
            torch.testing.assert_close(found, x + dial * (full - x))
    assert seen == [1, 1, 1]


def test_regions_are_not_split_for_gradient_buckets(adapted):
    """Some versions of PyTorch refuse to, in processes that train together."""
    before = torch._dynamo.config.optimize_ddp
    with compiled_regions([adapted], "eager"):
        assert torch._dynamo.config.optimize_ddp is False
    assert torch._dynamo.config.optimize_ddp == before


def test_only_a_model_that_is_to_be_compiled_is(base):
    modules = [id(module) for module in base.modules()]
    with compiled_regions([base]):
        assert [id(module) for module in base.modules()] == modules


@pytest.mark.parametrize(("cuda", "found"), [(False, "CXX"), (True, "Triton")])
def test_a_missing_compiler_is_refused_before_the_model_is_built(monkeypatch, cuda, found):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    monkeypatch.setattr("sam3_hyperet.modeling.build.assemble", lambda *_: pytest.fail("built"))
    with pytest.raises(ConfigError, match=f"model.compile=true needs .*{found}.*model.compile=false"):
        build_model("tiny", compile=True)
