"""Adjustments behind a layer fold into it only where the merged model is the adapted one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sam3_hyperet as hy
from sam3_hyperet.choices import STRUCTURES
from sam3_hyperet.errors import ConfigError


class Standardised(nn.Conv2d):
    """A convolution that transforms its weight, as timm's StdConv2d."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class Convolutions(nn.Module):
    """An encoder with one layer to be wrapped, and one behind it."""

    def __init__(self, layer, tied=False):
        super().__init__()
        self.layer, self.next = layer, nn.Conv2d(8, 8, 1)
        if tied:
            self.next.weight = layer.weight

    def forward(self, x):
        return self.next(self.layer(x))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_an_adapter_in_bfloat16_merges_before_it_is_rounded(structure):
    torch.manual_seed(0)
    model = hy.wrap(Convolutions(nn.Conv2d(8, 8, 1)), "^layer$", {"geometry": "euclidean", "structure": structure})
    model = model.to(torch.bfloat16)
    matrix = model.layer.hyperet_adjustment.hyperet.matrix
    with torch.no_grad():
        matrix.offset.normal_(std=0.003)
        rows = model.layer.weight.double().reshape(8, 8)
        expected = matrix.matvec(rows, 0).to(torch.bfloat16)
    assert (expected != model.layer.weight.reshape(8, 8)).any()
    assert torch.equal(hy.merge(model).layer.weight.reshape(8, 8), expected)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: nn.Conv2d(8, 8, 3, groups=2), "mixes channels of different groups of a convolution, groups=2"),
        (lambda: nn.Conv2d(8, 8, 3, groups=8), "mixes channels of different groups of a convolution, groups=8"),
        (lambda: Standardised(8, 8, 3), "no nn.Linear or nn.Conv2d .*; layer is a Standardised"),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3)), "layer is a ParametrizedConv2d"),
        (lambda: nn.utils.spectral_norm(nn.Conv2d(8, 8, 3)), "the weight of layer is computed from other"),
    ],
)
def test_a_layer_into_which_nothing_folds_says_why(layer, message, randomized):
    torch.manual_seed(0)
    model = randomized(hy.wrap(Convolutions(layer()), "^layer$", {"geometry": "euclidean"}, channels=8, channel_dim=1))
    x = torch.randn(2, 8, 5, 5)
    with torch.no_grad():
        before = model.eval()(x)
        with pytest.raises(ConfigError, match=f"does not fold into the base weights: .*{message}"):
            hy.merge(model)
        assert torch.equal(model(x), before)


def test_a_tied_weight_is_not_folded_into(randomized):
    model = randomized(hy.wrap(Convolutions(nn.Conv2d(8, 8, 1), tied=True), "^layer$", {"geometry": "euclidean"}))
    with pytest.raises(ConfigError, match="the weight of layer is also that of next, which is not adjusted by it"):
        hy.merge(model)


@pytest.mark.parametrize(("groups", "structure"), [(8, "diagonal"), (2, "diagonal"), (2, "block_diagonal")])
def test_a_matrix_within_the_groups_of_a_convolution_folds(groups, structure, randomized):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, groups=groups)
    model = hy.wrap(Convolutions(layer), "^layer$", {"geometry": "euclidean", "structure": structure})
    x = torch.randn(2, 8, 5, 5)
    with torch.no_grad():
        adapted = randomized(model).eval()(x)
        torch.testing.assert_close(hy.merge(model)(x), adapted)


def test_an_adjustment_along_another_axis_does_not_fold(randomized):
    """Where the sizes are equal, it takes them for the layer's outputs."""
    model = nn.Sequential(nn.Linear(8, 8))
    randomized(hy.wrap(model, "^0$", {"geometry": "euclidean"}, channels=8, channel_dim=1))
    with pytest.raises(ConfigError, match="the channels of 0 are adjusted along axis 1, which is not that of its outp"):
        hy.merge(model)
    assert model(torch.zeros(2, 8, 8)).shape == (2, 8, 8)
