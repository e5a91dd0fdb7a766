"""The curvature parameter c of one space: positive, bounded, learnable or fixed."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from sam3_hyperet.choices import CURVATURE_BOUNDS
from sam3_hyperet.hyperbolic.numerics import wide

NO_CURVATURE = "geometry 'euclidean' has no curvature to learn; set learn_curvature=False or choose another"


class Curvature(nn.Module):
    """c = c_min · (c_max/c_min)^sigmoid(raw), the magnitude of a curvature −c.

    `raw` is stored, not c: every real number is a valid curvature, and the gradient vanishes only at the bounds. It is
    a parameter (one scalar) if `learnable`, otherwise a buffer; a checkpoint holds it under the same name either way.
    It stays in fp32 in a model in half precision: c is exponential in it, and its rounding would be a tenth of c.
    Raises ValueError for a value that is not strictly between the bounds.
    """

    BOUNDS = CURVATURE_BOUNDS
    raw: Tensor

    def __init__(self, value: float = 0.01, learnable: bool = False) -> None:
        super().__init__()
        raw = torch.tensor(self._raw(value), dtype=wide(torch.get_default_dtype()))
        if learnable:
            self.raw = nn.Parameter(raw)
        else:
            self.register_buffer("raw", raw)

    def forward(self) -> Tensor:
        """c, a scalar tensor in fp32 or wider that carries the gradient."""
        low, high = map(math.log, self.BOUNDS)
        return torch.exp(low + (high - low) * torch.sigmoid(self.raw.to(wide(self.raw.dtype))))

    @torch.no_grad()
    def set(self, value: float) -> None:
        """Make c `value`, learnable or not (for schedules and controllers)."""
        self.raw.fill_(self._raw(value))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        def kept_wide(tensor: Tensor) -> Tensor:
            moved: Tensor = fn(tensor)
            return moved if moved.dtype == wide(moved.dtype) else tensor.to(moved.device, wide(moved.dtype))

        return super()._apply(kept_wide, recurse)  # type: ignore[no-untyped-call]

    @property
    def learnable(self) -> bool:
        return isinstance(self.raw, nn.Parameter)

    def extra_repr(self) -> str:
        return f"{self.forward().item():.4g}, {'learnable' if self.learnable else 'fixed'}"

    @classmethod
    def _raw(cls, value: float) -> float:
        low, high = cls.BOUNDS
        if not low < value < high:
            raise ValueError(f"curvature must lie strictly between {low:g} and {high:g}, found {value}")
        fraction = math.log(value / low) / math.log(high / low)
        return math.log(fraction / (1.0 - fraction))
