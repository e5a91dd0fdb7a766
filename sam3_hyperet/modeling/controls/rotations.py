"""OFT and BOFT as controls: orthogonal rotations of what the layers that feed HyperET's sites read.

W = W_0 R^T, where R is block-diagonal with blocks (I + Q)(I - Q)^-1, the Cayley transform of a skew-symmetric Q = 0 at
first [Qiu et al. 2023]: HyperET's orthogonal, Euclidean twin. BOFT's R is a product of such matrices, between
which channels are permuted as by a butterfly, so that blocks mix [Liu et al. 2024, BOFT]. A convolution's W is
flattened to a matrix.

Not by peft's layers, whose merged OFT, up to the transpose of R, and butterfly are references of the tests. As of peft
0.21, its OFT of a convolution sums patches that overlap, and is neither the base at first nor what it merges to; its
BOFT compiles a CUDA kernel when it is made, and has one factor, which is OFT, where that fails.
"""

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.conversion import converted
from sam3_hyperet.adapters.module import AdapterModule, interpolated
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.hyperbolic.numerics import wide
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.controls.matching import layer_shape, matched_size
from sam3_hyperet.modeling.sites.site import stock

FACTORS = {"oft": 1, "boft": 2}


class Rotation(AdapterModule):
    """Rotation of the rows, of length `dim`, of one layer's weight: `factors` matrices of blocks of side `block`.

    `skew` (factors, dim / block, block (block - 1) / 2) are the entries of each Q above the diagonal.
    """

    def __init__(self, name: str, dim: int, block: int, factors: int) -> None:
        super().__init__(name)
        self.block = block
        self.skew = nn.Parameter(torch.zeros(factors, dim // block, block * (block - 1) // 2))

    def fold(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        layers = [m for m in model.modules() if isinstance(m, RotatedLinear | RotatedConv2d) and m.rotation is self]
        exact = copy.deepcopy(self).cpu().double()
        exact.enabled = True
        return [(layer.weight, exact(layer.weight.detach().cpu().double())) for layer in layers]

    def forward(self, weight: Tensor) -> Tensor:
        """W_0 + dial (W_0 R^T - W_0), at least in fp32; W_0 is (outputs, …)."""
        if not self.enabled or self.dial == 0.0:
            return weight
        with torch.autocast(weight.device.type, enabled=False):
            start = weight.to(wide(weight.dtype))
            rows = start.flatten(1)
            for level, skew in enumerate(self.skew):
                rows = self._rotated(rows, skew, 2**level)
            rotated = rows.view_as(start)
            return interpolated(start, rotated, self.dial).to(weight.dtype)

    def _rotated(self, rows: Tensor, skew: Tensor, stride: int) -> Tensor:
        """Rotate each block of the rows' entries; a block is two runs of block/2, so many such runs apart."""
        offset = _cayley_offset(skew.to(rows.dtype), self.block)
        if stride > 1:
            rows = _transposed(rows, (2, stride), self.block // 2)
        blocks = rows.view(len(rows), -1, self.block)
        rows = (blocks + torch.einsum("okb,kcb->okc", blocks, offset)).flatten(1)
        return rows if stride == 1 else _transposed(rows, (stride, 2), self.block // 2)


def _cayley_offset(skew: Tensor, block: int) -> Tensor:
    """(I + Q)(I - Q)^-1 - I = 2 (I - Q)^-1 Q for (blocks, block, block) matrices Q."""
    rows, columns = torch.triu_indices(block, block, 1, device=skew.device)
    upper = skew.new_zeros(len(skew), block, block).index_put(
        (torch.arange(len(skew), device=skew.device)[:, None], rows, columns), skew
    )
    q = upper - upper.mT
    identity = torch.eye(block, dtype=q.dtype, device=q.device)
    offset: Tensor = torch.linalg.solve_ex(identity - q, 2.0 * q).result  # never singular; `solve` waits for the device
    return offset


def _transposed(rows: Tensor, grid: tuple[int, int], run: int) -> Tensor:
    """Rows with each grid of runs of entries transposed."""
    return rows.view(len(rows), -1, *grid, run).transpose(2, 3).flatten(1)


class RotatedLinear(nn.Linear):
    """A linear layer with a rotated weight; the frozen one keeps its name, `weight`."""

    rotation: Rotation

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.rotation(self.weight), self.bias)


class RotatedConv2d(nn.Conv2d):
    """A convolution with a rotated weight; the frozen one keeps its name, `weight`."""

    rotation: Rotation

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(x, self.rotation(self.weight), self.bias)
        return y


def install_rotations(
    model: host.Sam3Image, config: HyperETConfig, names: list[str], budget: Callable[[], int]
) -> None:
    """Rotate what the layers `names` read, by blocks of `config.oft_block_size` or of at most `budget()` parameters."""
    if not names:
        return
    factors = FACTORS[config.adapter]
    dims = {name: layer_shape(model, name, config.adapter).inputs for name in names}
    block = config.oft_block_size
    blocks = _blocks(math.gcd(*dims.values()), factors)
    if not blocks or (block is not None and block not in blocks):
        rows = ", ".join(map(str, sorted(set(dims.values()))))
        possible = ", ".join(map(str, sorted(blocks))) or "no side does"
        found = f"adapter={config.adapter}: oft_block_size={block}"
        raise ConfigError(f"{found}; expected a side that divides every layer's row of {rows} weights: {possible}")
    if block is None:
        costs = ((b, {name: factors * dim * (b - 1) // 2 for name, dim in dims.items()}) for b in blocks)
        block, names = matched_size(config.adapter, "oft_block_size", costs, budget())
    for name in names:
        layer = model.get_submodule(name)
        cls, parent = (RotatedLinear, nn.Linear) if isinstance(layer, nn.Linear) else (RotatedConv2d, nn.Conv2d)
        rotated = converted(stock(layer, parent), cls)
        rotation = Rotation(config.adapter, dims[name], block, factors)
        rotated.rotation = rotation.to(layer.get_parameter("weight").device).train(layer.training)
        model.set_submodule(name, rotated)


def _blocks(dim: int, factors: int) -> list[int]:
    """Sides of the blocks that `dim` values can have, from the largest down."""
    step = 2 ** (factors - 1)  # a butterfly pairs the halves of blocks
    return [side for side in range(dim, 1, -1) if dim % (side * step) == 0 and (factors == 1 or side % 2 == 0)]
