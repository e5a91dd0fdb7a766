"""The three curved adjustments x ↦ y in closed form: one factor a position, no point formed.

Inputs are tangent vectors at the origin with the geometry along `dim`; z = Mx is computed by the caller.
Written with logarithms of ratios instead of sinh and cosh, so nothing overflows: values and gradients are
finite in fp32 for norms from 0 to 1e30, and y = x to the last bit where M = I and b = 0, except that
`mobius` caps norms beyond the ball's projection radius.

Why one factor is enough. The lift of x has a space part of norm sinh(2a)/√c, with a = √c‖x‖. A map that
scales this norm by κ, followed by the logarithm, gives the normalised norm ρ = ½ asinh(κ sinh 2a). With

    E = e^{−4a},  h = e^{−2a} sinh 2a = (1 − E)/2,  g = e^{−2a} cosh 2a = (1 + E)/2,  R = √(E + κ²h²):
    2ρ − 2a = log(κh + R) = log(1 + (κ − 1)h · (1 + (κ + 1)h/(R + g))),

which is exactly 0 at κ = 1, tends to log κ far out (the radius is shifted), and to 2a(κ − 1) near the origin
(the radius is scaled).
"""

import torch
from torch import Tensor

from sam3_hyperet.hyperbolic.fused import dot, norm, scale
from sam3_hyperet.hyperbolic.lorentz import boost_coefficients
from sam3_hyperet.hyperbolic.numerics import Scalar, max_norm, sqrt_curvature

_TINY = 1e-12
"""Floor of a divisor; what is divided there is multiplied by a vector just as small."""


def mobius(z: Tensor, c: Scalar, dim: int = -1) -> Tensor:
    """y = log_0(M ⊗ exp_0(x)) [1], which cancels to z = Mx with its norm capped at artanh(1 − ε)/√c.

    The cap is the ball's projection, and all that floating point leaves of the geometry.
    """
    cap, length = max_norm(z.dtype), sqrt_curvature(c) * norm(z, dim)
    return scale(z, torch.where(length > cap, cap / length.clamp_min(cap), 1.0), dim)


def lorentz(x: Tensor, z: Tensor, c: Scalar, dim: int = -1) -> Tensor:
    """y = log_o of the hyperboloid point whose space part is M times that of exp_o(x) [5].

    y = asinh(√c‖w‖)/(2√c‖w‖) · w with w = sinh(2a)/a · z, a = √c‖x‖, z = Mx.
    """
    root = sqrt_curvature(c)
    floor = max(_TINY, torch.finfo(z.dtype).tiny)
    length = (root * norm(x, dim)).clamp_min(floor)
    kappa = (root * norm(z, dim)).clamp_min(floor) / length
    return scale(z, radial_factor(length, kappa), dim)


def gyro(z: Tensor, b: Tensor, c: Scalar, dim: int = -1) -> Tensor:
    """y = log_0(exp_0(b) ⊕ (M ⊗ exp_0(x))) [2], which moves the root by b: a Lorentz boost of the lifted z = Mx.

    The boost adds a multiple of b to the space part, so y = φ · (z + k b) with one φ and one k a position.
    b broadcasts against z and has the geometry along `dim`; it is taken no longer than artanh(1 − ε)/√c,
    the ball's projection again.
    """
    root = sqrt_curvature(c)
    b = mobius(b, c, dim)
    along, out = boost_coefficients(b, c, dim)
    # Shorter than √(machine precision), the length has no effect, but its reciprocal would amplify rounding.
    length = (root * norm(z, dim)).clamp_min(torch.finfo(z.dtype).eps ** 0.5)
    product = dot(z, b, dim)
    cosine = product / length
    k = along * cosine - out / root / torch.expm1(-4.0 * length) * (1.0 + torch.exp(-4.0 * length))
    kappa2 = 1.0 + c * k * (2.0 * cosine + k * dot(b, b, dim))
    # Against a long b, κ² would be e^{−4β}, the difference of numbers near 1. There z gives way to its part across b,
    # and all along b is in k: cosh(2β)(1 + cos) − sinh(2a − 2β)/sinh 2a in units of z, 1 + cos from the part across.
    beta = root * norm(b, dim)
    against = (cosine < 0.0) & (length > 0.25) & (beta > 0.5)
    beta = torch.where(beta > 0.5, beta, 1.0)
    z = z - scale(b, torch.where(against, c * product / beta.square(), 0.0), dim)
    across2 = (root * norm(z, dim) / length).square()
    rest = across2 / (1.0 - (root * root * cosine / beta).clamp_max(0.0))  # 1 + cos
    left = torch.expm1(4.0 * (beta - length)) / torch.expm1(-4.0 * length)
    rest = torch.cosh(2.0 * beta) * rest - torch.exp(-2.0 * beta) * left
    k = torch.where(against, rest / beta, k)
    kappa2 = torch.where(against, across2 + rest.square(), kappa2)
    factor = radial_factor(length, kappa2.clamp_min(torch.finfo(z.dtype).eps).sqrt())
    return scale(z, factor, dim) + scale(b, factor * k * length, dim)


def radial_factor(a: Tensor, kappa: Tensor) -> Tensor:
    """asinh(κ sinh 2a) / (2aκ), the factor of the mapped vector; exactly 1 at κ = 1.

    a > 0 is the normalised norm before the map, κ ≥ 0 the ratio of the space part's norms. Below √(machine precision) κ
    is taken as that, so that a singular M has finite gradients far from the origin, where the true ones grow as e^{2a}.
    """
    kappa = kappa.clamp_min(torch.finfo(a.dtype).eps ** 0.5)
    decay = torch.exp(-4.0 * a)
    h, g = -torch.expm1(-4.0 * a) / 2.0, (1.0 + decay) / 2.0
    r = torch.sqrt(decay + (kappa * h).square())
    shift = torch.log1p((kappa - 1.0) * h * (1.0 + (kappa + 1.0) * h / (r + g)))
    return (1.0 + shift / (2.0 * a)) / kappa
