"""The curvature parameter: positive, bounded, and a parameter only if it is learnt."""

from __future__ import annotations

import pytest
import torch

from sam3_hyperet.hyperbolic import Curvature


@pytest.mark.parametrize("value", [1e-6, 0.01, 1.0, 10.0])
def test_starts_at_its_value(value):
    for learnable in (False, True):
        torch.testing.assert_close(Curvature(value, learnable)().item(), value, rtol=1e-5, atol=0.0)


def test_only_a_learnable_one_is_a_parameter():
    assert not list(Curvature(0.01).parameters())
    assert sum(p.numel() for p in Curvature(0.01, learnable=True).parameters()) == 1
    assert list(Curvature().state_dict()) == list(Curvature(learnable=True).state_dict()) == ["raw"]


def test_stays_within_its_bounds():
    curvature = Curvature(0.01, learnable=True)
    low, high = Curvature.BOUNDS
    for raw in (-1e9, 1e9):
        with torch.no_grad():
            curvature.raw.fill_(raw)
        assert low * 0.999 <= curvature().item() <= high * 1.001


def test_learns_and_can_be_set():
    curvature = Curvature(0.01, learnable=True)
    curvature().backward()
    assert curvature.raw.grad.item() > 0.0
    curvature.set(0.5)
    torch.testing.assert_close(curvature().item(), 0.5, rtol=1e-5, atol=0.0)
    assert "learnable" in repr(curvature)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("learnable", [False, True])
def test_a_model_in_half_precision_has_the_same_curvature(dtype, learnable):
    for value in (0.01, 1.0):
        curvature = torch.nn.Sequential(Curvature(value, learnable)).to(dtype)[0]
        assert curvature.raw.dtype == curvature().dtype == torch.float32
        assert torch.equal(curvature(), Curvature(value)())
        curvature.set(0.3)
        torch.testing.assert_close(curvature().item(), 0.3, rtol=1e-5, atol=0.0)
        with torch.autocast("cpu", dtype):
            assert curvature().dtype == torch.float32
    curvature.load_state_dict({"raw": Curvature(0.5)().to(dtype)}, assign=True)
    assert curvature().dtype == torch.float32
    assert curvature.double().raw.dtype == torch.float64


def test_moves_like_any_module():
    curvature = Curvature(0.01, learnable=True)
    curvature().backward()
    assert curvature.to("meta", torch.bfloat16).raw.device.type == "meta"
    assert curvature.raw.dtype == torch.float32
    assert curvature.to_empty(device="cpu").raw.device.type == "cpu"


@pytest.mark.parametrize("value", [0.0, -1.0, 1e9, float("nan")])
def test_impossible_values_are_refused(value):
    with pytest.raises(ValueError, match="between"):
        Curvature(value)
