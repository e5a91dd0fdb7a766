"""OFT and BOFT rotate weights as their papers say and as peft merges them, by orthogonal matrices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sam3_hyperet as hy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.controls.rotations import Rotation
from sam3_hyperet.modeling.parameters import adapter_parameters, adapter_sites, base_state_dict

CONVS, LAYERS = "backbone.vision_backbone.convs", "transformer.encoder.layers"


def rotation(dim, block, factors, scale=0.5, dtype=torch.float32):
    module = Rotation("oft", dim, block, factors).to(dtype)
    with torch.no_grad():
        module.skew.add_(scale * torch.randn(module.skew.shape, generator=torch.Generator().manual_seed(3)).to(dtype))
    return module.requires_grad_(False)


def skew_symmetric(entries, block):
    q = torch.zeros(len(entries), block, block, dtype=entries.dtype)
    rows, columns = torch.triu_indices(block, block, 1)
    q[:, rows, columns] = entries
    return q - q.mT


def cayley(entries, block):
    """R = (I + Q)(I - Q)^-1 [Qiu et al. 2023], written out."""
    q, identity = skew_symmetric(entries, block), torch.eye(block, dtype=entries.dtype)
    return (identity + q) @ torch.linalg.inv(identity - q)


@pytest.mark.parametrize(("block", "factors"), [(2, 1), (8, 1), (24, 1), (2, 2), (4, 3), (6, 2)])
@pytest.mark.parametrize("scale", [0.05, 3.0])
def test_what_it_rotates_by_is_orthogonal(block, factors, scale):
    matrix = rotation(48, block, factors, scale)(torch.eye(48))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(48), rtol=0, atol=1e-5)
    assert (matrix - torch.eye(48)).abs().max() > scale / 2 / (1 + scale)


@pytest.mark.parametrize("shape", [(5, 48), (5, 12, 2, 2)])
def test_oft_is_its_equation(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    module = rotation(48, 8, 1, dtype=torch.float64)
    matrix = torch.block_diag(*cayley(module.skew[0], 8))
    expected = (weight.flatten(1) @ matrix.T).view(shape)
    torch.testing.assert_close(module(weight), expected)
    module.dial = 1.4
    torch.testing.assert_close(module(weight), weight + 1.4 * (expected - weight))


def test_boft_is_its_equation_with_pefts_butterfly():
    from peft.tuners.boft.layer import BOFTLayer

    dim, block, factors = 48, 6, 3
    module, expected = rotation(dim, block, factors, dtype=torch.float64), torch.eye(dim, dtype=torch.float64)
    for level in range(factors):
        order = BOFTLayer.block_butterfly_perm(None, dim, dim // block // 2**level, block // 2, factors - 1)
        permutation = BOFTLayer.perm2mat(None, order).double()
        diagonal = torch.block_diag(*cayley(module.skew[level], block))
        expected = permutation @ diagonal @ permutation.T @ expected
    torch.testing.assert_close(module(torch.eye(dim, dtype=torch.float64)), expected.T)


@pytest.mark.parametrize("layer", [nn.Linear(16, 6), nn.Conv2d(4, 6, 2)], ids=["linear", "convolution"])
def test_peft_merges_to_the_same_weight(layer):
    from peft import OFTConfig, inject_adapter_in_model

    weight = layer.weight.detach().clone()
    config = OFTConfig(oft_block_size=4, use_cayley_neumann=False, target_modules=["0"])
    (theirs,) = inject_adapter_in_model(config, nn.Sequential(layer))
    ours = rotation(16, 4, 1)
    assert theirs.oft_R["default"].weight.shape == ours.skew[0].shape
    with torch.no_grad():
        theirs.oft_R["default"].weight.copy_(-ours.skew[0])  # their Q is the transposed
    x = torch.randn(3, 16)
    if weight.dim() == 2:
        torch.testing.assert_close(theirs(x), nn.functional.linear(x, ours(weight), layer.bias), rtol=1e-5, atol=1e-5)
    theirs.merge()
    torch.testing.assert_close(theirs.get_base_layer().weight, ours(weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("adapter", "options", "block", "dims"),
    [
        ("oft", {}, 12, [576, 576]),
        ("oft", {"scheme": "B"}, 64, [128, 128]),
        ("oft", {"scheme": "A+B"}, 16, [128, 128, 576, 576]),
        ("oft", {"scheme": "P", "structure": "diagonal"}, 4, [96, 96, 96, 96]),
        ("oft", {"sites": ["prompt"], "oft_block_size": 4}, 4, [64]),
        ("oft", {"scheme": "C"}, 2, [64]),
        ("oft", {"scheme": "none"}, 2, []),
        ("boft", {}, 8, [576, 576]),
        ("boft", {"scheme": "P"}, 48, [96, 96, 96, 96]),
    ],
)
def test_the_matched_block(model, adapter, options, block, dims):
    hy.inject(model, {"adapter": adapter, **options})
    sites = adapter_sites(model).values()
    factors = 2 if adapter == "boft" else 1
    assert {site.block for site in sites} <= {block}
    assert sorted(site.skew.shape[1] * block for site in sites) == dims
    assert hy.parameter_report(model)["added"] == factors * sum(dims) * (block - 1) // 2


@pytest.mark.parametrize(
    ("adapter", "block", "possible"),
    [("oft", 7, r"row of 128, 576 weights: 2, 4, 8, 16, 32, 64$"), ("boft", 64, r"weights: 2, 4, 8, 16, 32$")],
)
def test_blocks_that_do_not_divide(model, adapter, block, possible):
    with pytest.raises(ConfigError, match=rf"adapter={adapter}: oft_block_size={block}; expected .*{possible}"):
        hy.inject(model, {"adapter": adapter, "scheme": "A+B", "oft_block_size": block})
    assert not adapter_sites(model)


def test_names_of_the_base_stay_and_a_half_precision_base_keeps_its_dtype(model, base):
    hy.inject(model, {"adapter": "oft", "scheme": "A+B"})
    assert base_state_dict(model).keys() == dict(base.named_parameters()).keys()
    assert next(name for name, _ in adapter_parameters(model)) == f"{CONVS}.0.conv_3x3.rotation.skew"
    layer = model.get_submodule(f"{LAYERS}.0.linear2").to(torch.bfloat16)
    assert layer.rotation(layer.weight).dtype == torch.bfloat16
    assert torch.equal(layer.rotation(layer.weight), layer.weight)
