"""HyperET, an adjustment of a feature's hyperbolic radius and direction."""

import math

import torch
from torch import Tensor, nn

from sam3_hyperet.adapters.module import interpolated
from sam3_hyperet.adapters.structure import along_channels, make_structure
from sam3_hyperet.choices import FORMER_GEOMETRIES, GEOMETRIES
from sam3_hyperet.hyperbolic import closed_form
from sam3_hyperet.hyperbolic.curvature import NO_CURVATURE, Curvature
from sam3_hyperet.hyperbolic.numerics import wide
from sam3_hyperet.hyperbolic.radius import radius_statistics


class HyperET(nn.Module):
    """y = f(x), or with a residual y = x + α(f(x) − x), along one axis of any tensor.

    M is the structured matrix, c the curvature; x and y are tangent vectors at the origin:

    - `euclidean`  f(x) = Mx, the control;
    - `mobius`     f(x) = log_0(M ⊗ exp_0(x)) [1], which is Mx with its norm capped;
    - `lorentz`    f(x) = log_o(M applied to the space part of exp_o(x)) [5], which shifts the radius of far points;
    - `gyro`       f(x) = log_0(exp_0(b) ⊕ (M ⊗ exp_0(x))) [2], b learnt from 0, which moves the root.

    The input has `dim` (D) channels along `channel_dim` and any other axes; the output has its shape, dtype and layout
    in memory. Inside autocast, and for half precision, the arithmetic is fp32. At initialisation y is x to the last
    bit, except where `mobius` caps the norm.

    Args:
        structure: `diagonal`, `block_diagonal` (`block_size`), `banded` (half-width `bandwidth`) or `dense`.
        curvature: c > 0; trained if `learn_curvature`.
        residual: α, or None for y = f(x); trained if `learn_residual`. At 0, nothing below a norm cap has a gradient.
        channel_dim: the axis of the channels, 1 for `(B, D, H, W)`; nothing is permuted in memory.

    Raises ValueError for options that cannot be, and for an input whose channel axis has another size.
    """

    alpha: Tensor | None

    def __init__(
        self,
        dim: int,
        structure: str = "dense",
        geometry: str = "lorentz",
        curvature: float = 0.01,
        learn_curvature: bool = False,
        residual: float | None = None,
        learn_residual: bool = False,
        channel_dim: int = -1,
        block_size: int = 4,
        bandwidth: int = 1,
    ) -> None:
        super().__init__()
        geometry = FORMER_GEOMETRIES.get(geometry, geometry)
        if geometry not in GEOMETRIES:
            raise ValueError(f"geometry must be one of {', '.join(GEOMETRIES)}; found {geometry!r}")
        if geometry == "euclidean" and learn_curvature:
            raise ValueError(NO_CURVATURE)
        if residual is None and learn_residual:
            raise ValueError("learn_residual=True needs a residual to start from, such as 0.1; found residual=None")
        if residual is not None and not math.isfinite(residual):
            raise ValueError(f"residual={residual}; expected a finite number, such as 0.1, or None")
        self.dim, self.channel_dim = dim, channel_dim
        self.structure, self.geometry = structure, geometry
        self.matrix = make_structure(structure, dim, block_size, bandwidth)
        self.curvature = Curvature(curvature, learn_curvature)
        self.translation = nn.Parameter(torch.zeros(dim)) if geometry == "gyro" else None
        if residual is None:
            self.alpha = None
        elif learn_residual:
            self.alpha = nn.Parameter(torch.tensor(float(residual)))
        else:
            self.register_buffer("alpha", torch.tensor(float(residual)))

    def forward(self, x: Tensor, strength: Tensor | float = 1.0) -> Tensor:
        """y, or x + `strength`·(y − x): x itself at the number 0, and no further arithmetic at 1.

        A tensor is fp32, and shaped to multiply x.
        """
        if not isinstance(strength, Tensor) and strength == 0.0:
            return x
        if not -x.ndim <= self.channel_dim < x.ndim or x.shape[self.channel_dim] != self.dim:
            shape = tuple(x.shape)
            raise ValueError(f"expected {self.dim} channels along axis {self.channel_dim}, found shape {shape}")
        if not x.is_floating_point():
            raise TypeError(f"expected a floating-point tensor, found {x.dtype}")
        with torch.autocast(x.device.type, enabled=False):
            v = x.to(wide(x.dtype))
            y = self._map(v)
            if self.alpha is not None:
                y = v + self.alpha * (y - v)
            y = interpolated(v, y, strength).to(x.dtype)
        # in x's layout: the kernels behind would round otherwise, and M = I would not be the base to the last bit
        return y if y.stride() == x.stride() else torch.empty_like(x).copy_(y)

    def _map(self, v: Tensor) -> Tensor:
        z = self.matrix.matvec(v, self.channel_dim)
        if self.geometry == "euclidean":
            return z
        c = self.curvature().to(v.dtype)
        if self.geometry == "mobius":
            return closed_form.mobius(z, c, self.channel_dim)
        if self.translation is None:
            return closed_form.lorentz(v, z, c, self.channel_dim)
        b = along_channels(self.translation.to(v.dtype), v, self.channel_dim)
        return closed_form.gyro(z, b, c, self.channel_dim)

    @torch.no_grad()
    def statistics(self, x: Tensor | None = None) -> dict[str, float]:
        """State of the adjustment: `identity_gap` ‖M − I‖_F, `curvature`; `residual` and `translation` ‖b‖ if any.

        With features x, also the radius statistics of the adjusted features (see `radius_statistics`).
        """
        matrix = self.matrix.as_matrix()
        gap = (matrix - torch.eye(self.dim).to(matrix)).norm()
        statistics = {"identity_gap": gap.item(), "curvature": self.curvature().item()}
        if self.alpha is not None:
            statistics["residual"] = self.alpha.item()
        if self.translation is not None:
            statistics["translation"] = self.translation.norm().item()
        if x is not None:
            statistics |= radius_statistics(self(x), self.curvature(), self.channel_dim)
        return statistics

    def extra_repr(self) -> str:
        text = f"{self.dim}, structure={self.structure}, geometry={self.geometry}, channel_dim={self.channel_dim}"
        if self.alpha is not None:
            text += f", residual={self.alpha.item():.4g} ({'learnable' if self.alpha.requires_grad else 'fixed'})"
        return text


class Unadjusted(HyperET):
    """An adjustment of the base, which passes features unchanged to a probe."""

    def forward(self, x: Tensor, strength: Tensor | float = 1.0) -> Tensor:
        return x
