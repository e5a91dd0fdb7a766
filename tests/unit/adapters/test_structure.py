"""Structured matrices: equal to their dense form, of the stated size, the identity at first, along any axis."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sam3_hyperet.adapters import STRUCTURES, Banded, BlockDiagonal, Dense, Diagonal, make_structure

VARIANTS = {
    "diagonal": lambda dim: Diagonal(dim),
    "block_diagonal 2": lambda dim: BlockDiagonal(dim, 2),
    "block_diagonal 4": lambda dim: BlockDiagonal(dim, 4),
    "block_diagonal all": lambda dim: BlockDiagonal(dim, dim),
    "banded 0": lambda dim: Banded(dim, 0),
    "banded 2": lambda dim: Banded(dim, 2),
    "banded all": lambda dim: Banded(dim, dim - 1),
    "dense": lambda dim: Dense(dim),
}
N_PARAMS = {
    "diagonal": 12,
    "block_diagonal 2": 24,
    "block_diagonal 4": 48,
    "block_diagonal all": 144,
    "banded 0": 12,
    "banded 2": 12 * 5 - 6,
    "banded all": 144,
    "dense": 144,
}


@pytest.fixture(params=VARIANTS)
def name(request):
    return request.param


@pytest.fixture
def structure(name):
    torch.manual_seed(0)
    structure = VARIANTS[name](12).double()
    with torch.no_grad():
        structure.offset.normal_()
    return structure


@pytest.mark.parametrize(
    ("shape", "axis"), [((12,), 0), ((3, 12), -1), ((2, 12, 4, 5), 1), ((12, 3), 0), ((2, 3, 12, 4), 2)]
)
def test_equals_its_dense_matrix(structure, shape, axis):
    x = torch.randn(shape, dtype=torch.float64)
    expected = (x.movedim(axis, -1) @ structure.as_matrix().T).movedim(-1, axis)
    torch.testing.assert_close(structure.matvec(x, axis), expected)


def test_gradients_equal_those_of_its_dense_matrix(structure):
    x = torch.randn(2, 12, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 12, 3, dtype=torch.float64)
    fused = torch.autograd.grad((structure.matvec(x, 1) * weight).sum(), (x, structure.offset))
    dense = torch.autograd.grad((structure.as_matrix() @ x * weight).sum(), (x, structure.offset))
    torch.testing.assert_close(fused, dense)


def test_number_of_parameters(name, structure):
    assert structure.n_params == sum(p.numel() for p in structure.parameters()) == N_PARAMS[name]


def test_starts_at_the_identity(name):
    structure = VARIANTS[name](12)
    x = torch.randn(2, 12, 3, 3) * 1e20
    assert torch.equal(structure.matvec(x, 1), x)
    assert torch.equal(structure.as_matrix(), torch.eye(12))


def test_its_dense_matrix_keeps_what_half_precision_would_round_away(name):
    structure = VARIANTS[name](12).bfloat16()
    with torch.no_grad():
        structure.offset.fill_(1e-3)
    x = torch.randn(3, 12)
    torch.testing.assert_close(x @ structure.as_matrix().T, structure.matvec(x))


def test_channels_last_memory_is_kept(structure):
    x = torch.randn(2, 12, 4, 5, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    y = structure.matvec(x, 1)
    torch.testing.assert_close(y, structure.matvec(x.contiguous(), 1))
    assert structure.matvec(x.contiguous(), 1).is_contiguous()


class Largest(TorchDispatchMode):
    """Context that notes the number of elements of the largest tensor that is made in it."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for result in results if isinstance(results, list | tuple) else [results]:
            if isinstance(result, torch.Tensor):
                self.numel = max(self.numel, result.numel())
        return results


@pytest.mark.parametrize("name", ["block_diagonal", "banded"])
def test_no_square_matrix_is_formed(name):
    dim = 64
    structure, x = make_structure(name, dim, block_size=4, bandwidth=1), torch.randn(1, dim, 1)
    with Largest() as largest:
        structure.matvec(x, 1)
    assert largest.numel < dim * dim / 8


@pytest.mark.parametrize("name", ["dense"])
def test_a_dense_matrix_is_not_repeated_for_every_position(structure):
    """SAM 3 hands the memory of several prompts on as (positions, B, D), a transposed view."""
    sequences = torch.randn(2, 50, 12, dtype=torch.float64, requires_grad=True)
    expected = structure.matvec(sequences)
    weight = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * weight).sum(), (sequences, structure.offset))
    with Largest() as largest:
        found = structure.matvec(sequences.transpose(0, 1))
        total = (found * weight.transpose(0, 1)).sum()
        again = torch.autograd.grad(total, (sequences, structure.offset))
    assert largest.numel == sequences.numel()
    torch.testing.assert_close(found, expected.transpose(0, 1))
    torch.testing.assert_close(again, gradients)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "sparse", "dim": 8}, "diagonal, block_diagonal, banded, dense"),
        ({"name": "block_diagonal", "dim": 12, "block_size": 5}, r"\[1, 2, 3, 4, 6, 12\]"),
        ({"name": "block_diagonal", "dim": 12, "block_size": 0}, "block_size"),
        ({"name": "banded", "dim": 8, "bandwidth": 8}, "from 0 to 7"),
        ({"name": "dense", "dim": 0}, "at least 1"),
    ],
)
def test_impossible_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_structure(**options)


def test_every_structure_has_a_name():
    assert [type(make_structure(name, 8)) for name in STRUCTURES] == [Diagonal, BlockDiagonal, Banded, Dense]
