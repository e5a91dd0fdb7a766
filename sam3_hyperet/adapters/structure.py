"""Structured matrices M = I + Δ that start at the identity: diagonal, block diagonal, banded, dense.

Each stores Δ as its one parameter, `offset`, and adds Δx to x: at initialisation Mx is x to the last bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3_hyperet.choices import STRUCTURES
from sam3_hyperet.hyperbolic.numerics import wide


class Structure(nn.Module, ABC):
    """A D × D matrix applied along one axis of a tensor."""

    def __init__(self, dim: int, *offset_shape: int) -> None:
        super().__init__()
        self.dim = dim
        self.offset = nn.Parameter(torch.zeros(offset_shape))

    @abstractmethod
    def matvec(self, x: Tensor, channel_dim: int = -1) -> Tensor:
        """Mx along `channel_dim`, the other axes kept; computed in x's dtype."""

    @abstractmethod
    def difference(self) -> Tensor:
        """Δ = M − I as a dense `(D, D)` tensor, differentiable in the parameters."""

    def as_matrix(self) -> Tensor:
        """M as a dense `(D, D)` tensor in fp32 or wider: in half precision, I + Δ would be I for a small Δ."""
        difference = self.difference()
        difference = difference.to(wide(difference.dtype))
        return torch.eye(self.dim).to(difference) + difference

    @property
    def n_params(self) -> int:
        """How many numbers describe M."""
        return self.offset.numel()

    def extra_repr(self) -> str:
        return f"dim={self.dim}, n_params={self.n_params}"


class Diagonal(Structure):
    """One factor per channel: D parameters."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim)

    def matvec(self, x: Tensor, channel_dim: int = -1) -> Tensor:
        return x * along_channels(1.0 + self.offset.to(x.dtype), x, channel_dim)

    def difference(self) -> Tensor:
        return torch.diag(self.offset)


class BlockDiagonal(Structure):
    """Independent b × b blocks along the diagonal: D·b parameters. Raises ValueError unless b divides D."""

    def __init__(self, dim: int, block_size: int = 4) -> None:
        if block_size < 1 or dim % block_size:
            divisors = [b for b in range(1, min(dim, 64) + 1) if dim % b == 0]
            raise ValueError(f"block_size must divide dim={dim}: one of {divisors}, found {block_size}")
        super().__init__(dim, dim // block_size, block_size, block_size)
        self.block_size = block_size

    def matvec(self, x: Tensor, channel_dim: int = -1) -> Tensor:
        axis = channel_dim % x.ndim
        blocks = x.reshape(*x.shape[:axis], -1, self.block_size, *x.shape[axis + 1 :])
        columns = self.offset.to(x.dtype).reshape(-1, self.block_size, self.block_size, *[1] * (x.ndim - axis - 1))
        y = blocks
        for j in range(self.block_size):
            y = y + columns[:, :, j] * blocks.narrow(axis + 1, j, 1)
        return y.reshape(x.shape)

    def difference(self) -> Tensor:
        n_blocks = self.dim // self.block_size
        spread = torch.eye(n_blocks).to(self.offset)[:, None, :, None] * self.offset[:, :, None, :]
        return spread.reshape(self.dim, self.dim)


class Banded(Structure):
    """The 2k + 1 diagonals within half-width k: D(2k + 1) − k(k + 1) parameters. Raises ValueError unless 0 ≤ k < D."""

    def __init__(self, dim: int, bandwidth: int = 1) -> None:
        if not 0 <= bandwidth < dim:
            raise ValueError(f"bandwidth must be from 0 to {dim - 1} for dim={dim}, found {bandwidth}")
        super().__init__(dim, dim * (2 * bandwidth + 1) - bandwidth * (bandwidth + 1))
        self.bandwidth = bandwidth

    def matvec(self, x: Tensor, channel_dim: int = -1) -> Tensor:
        axis = channel_dim % x.ndim
        padded = F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [self.bandwidth, self.bandwidth])
        y = x
        for shift, diagonal in self._diagonals():
            row = F.pad(diagonal, (max(0, -shift), max(0, shift))).to(x.dtype)
            y = y + along_channels(row, x, channel_dim) * padded.narrow(axis, self.bandwidth + shift, self.dim)
        return y

    def difference(self) -> Tensor:
        zero = self.offset.new_zeros(self.dim, self.dim)
        return sum((torch.diag(diagonal, shift) for shift, diagonal in self._diagonals()), zero)

    def _diagonals(self) -> Iterator[tuple[int, Tensor]]:
        """(s, the diagonal M[i, i + s]) for s = −k … k, cut from `offset` in this order."""
        start = 0
        for shift in range(-self.bandwidth, self.bandwidth + 1):
            length = self.dim - abs(shift)
            yield shift, self.offset.narrow(0, start, length)
            start += length


class Dense(Structure):
    """Every entry free: D² parameters."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, dim)

    def matvec(self, x: Tensor, channel_dim: int = -1) -> Tensor:
        axis, offset = channel_dim % x.ndim, self.offset.to(x.dtype)
        channels_last = x.movedim(axis, -1)
        if axis in (0, x.ndim - 1) or channels_last.is_contiguous():
            rows = channels_last.reshape(-1, self.dim)
            return torch.addmm(rows, rows, offset.mT).view(channels_last.shape).movedim(-1, axis)
        # a product for each index in front, and a D × D gradient: few of them in a feature map;
        # a view if x is contiguous, as for a 1 × 1 convolution; no Python length, which an export would keep
        flat = x.reshape(-1, self.dim, x.shape[axis + 1 :].numel())
        return torch.baddbmm(flat, offset.expand(flat.shape[0], -1, -1), flat).view(x.shape)

    def difference(self) -> Tensor:
        return self.offset


def make_structure(name: str, dim: int, block_size: int = 4, bandwidth: int = 1) -> Structure:
    """The structure called `name`; raises ValueError for an unknown name or an impossible size."""
    if dim < 1:
        raise ValueError(f"dim must be at least 1, found {dim}")
    if name not in STRUCTURES:
        raise ValueError(f"structure must be one of {', '.join(STRUCTURES)}; found {name!r}")
    if name == "block_diagonal":
        return BlockDiagonal(dim, block_size)
    if name == "banded":
        return Banded(dim, bandwidth)
    return Diagonal(dim) if name == "diagonal" else Dense(dim)


def along_channels(vector: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    """A `(D,)` vector shaped to broadcast along axis `channel_dim` of x."""
    shape = [1] * x.ndim
    shape[channel_dim] = -1
    return vector.view(shape)
