"""SAM 3's own builder at the official size: its weights in our model, our weights in it, and adapters put into it."""

from __future__ import annotations

import copy

import pytest
import torch
from moved_adapters import moved
from official import SMALLEST, CudaElsewhere
from PIL import Image
from torch import nn

import sam3_hyperet as hy
from sam3_hyperet.inference.predictor import Predictor, PromptPrediction

pytestmark = pytest.mark.slow
OUTPUTS = ("query_scores", "boxes", "mask_logits", "semantic_logits")


def ask(model: nn.Module) -> PromptPrediction:
    gradient = Image.linear_gradient("L")
    picture = Image.merge("RGB", (gradient, gradient.rotate(90), gradient.rotate(180))).resize((400, 300))
    with CudaElsewhere("cpu"):  # memory is not pinned
        (answer,) = Predictor(model, ["a red car"], SMALLEST).predict(picture)
    return answer


def difference(one: PromptPrediction, other: PromptPrediction) -> float:
    gaps = [float((getattr(one, name) - getattr(other, name)).abs().max()) for name in OUTPUTS]
    return max(*gaps, abs(one.presence - other.presence))


def test_weights_go_from_the_stock_builder_to_ours_and_merged_back(stock_model, official_file, build_stock, capsys):
    with CudaElsewhere("cpu", draw=False):  # whatever the file does not fill stays what the memory held
        ours = hy.build_model("large", checkpoint=official_file, resolution=SMALLEST)
    state = ours.state_dict()
    assert list(stock_model.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[key]) for key, tensor in stock_model.state_dict().items())
    answer = ask(ours)
    assert difference(answer, ask(stock_model)) <= 1e-5
    assert all(getattr(answer, name).std() > 1e-4 for name in OUTPUTS)

    hy.inject(ours, hy.HyperETConfig(scheme="A+P", geometry="euclidean"))
    moved(ours, 0.02, seed=1)
    adapted = ask(ours)
    assert difference(adapted, answer) > 1e-3
    hy.merge(ours)
    official_file.unlink()
    hy.save_official(ours, official_file)
    del ours, state
    capsys.readouterr()
    again = build_stock(checkpoint_path=str(official_file))
    assert capsys.readouterr().out == ""  # it prints the keys that are missing
    written = torch.load(official_file, mmap=True, weights_only=True)
    assert list(written) == [f"detector.{key}" for key in again.state_dict()]
    assert all(torch.equal(tensor, written[f"detector.{key}"]) for key, tensor in again.state_dict().items())
    assert difference(ask(again), adapted) <= 1e-5


@pytest.fixture
def stock_with_features(stock_model, monkeypatch):
    """The stock model on one picture's features of the trunk, which no adjustment behind it touches."""
    features = 0.5 * torch.randn(1, 1024, SMALLEST // 14, SMALLEST // 14, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(stock_model.backbone.vision_backbone.trunk, "forward", lambda pixels: [features])
    return stock_model


def sharing(model: nn.Module) -> nn.Module:
    """A copy to be injected into, on the same weights."""
    tokenizer = model.backbone.language_backbone.tokenizer
    return copy.deepcopy(model, {id(x): x for x in (tokenizer, *model.parameters(), *model.buffers())})


@pytest.mark.parametrize("scheme", ["A", "B", "C"])
def test_schemes_in_the_stock_builders_model(stock_with_features, scheme):
    before = ask(stock_with_features)
    model = hy.inject(sharing(stock_with_features), hy.HyperETConfig(scheme=scheme))
    assert difference(ask(model), before) <= 1e-5
    moved(model, 0.02, seed=1)
    adapted = ask(model)
    assert difference(adapted, before) > 1e-4
    assert all(getattr(adapted, name).isfinite().all() for name in OUTPUTS)
    with hy.adapters_disabled(model):
        assert difference(ask(model), before) == 0


@torch.no_grad()
def test_scheme_p_in_the_stock_builders_model(stock_model):
    """All 32 weights are the base's to the last bit, so the trunk is the same function."""
    model = hy.inject(sharing(stock_model), hy.HyperETConfig(scheme="P"))
    projections = [block.attn.qkv for block in model.backbone.vision_backbone.trunk.blocks]
    assert len(projections) == 32
    assert all(torch.equal(qkv.adjusted_weight(), qkv.weight) for qkv in projections)
    moved(model, 0.02, seed=1)
    for qkv in (projections[0], projections[-1]):
        q, k, v = (qkv.adjusted_weight() - qkv.weight).chunk(3)
        assert min(q.abs().max(), v.abs().max()) > 1e-4
        assert not k.any()
