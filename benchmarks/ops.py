"""What an adjustment costs on one FPN-sized tensor, beside the cheapest plain layers of the same shape."""

from __future__ import annotations

import contextlib
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.choices import GEOMETRIES

GEOOPT = "geoopt exp-mul-log"
PLAIN_REPEATS = 3
Timed = dict[str, list[float]]


class ChannelMultiply(nn.Module):
    """One learnt factor per channel of `(B, D, H, W)`: the least that a per-channel adjustment can cost."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.9, 1.1, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(1, -1, 1, 1)


class GeooptScaling(nn.Module):
    """The same factor applied in the ball by geoopt's primitives: expmap0, pointwise product, logmap0."""

    def __init__(self, channels: int, curvature: float = 0.01) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import geoopt.manifolds.stereographic.math as ball
        self.ball = ball
        self.k = torch.tensor(-curvature)
        self.weight = nn.Parameter(torch.linspace(0.9, 1.1, channels))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.view(1, -1, 1, 1)
        point = self.ball.expmap0(x, k=self.k, dim=1)
        return self.ball.logmap0(self.ball.mobius_pointwise_mul(weight, point, k=self.k, dim=1), k=self.k, dim=1)


def run(channels: int = 256, size: int = 288, repeats: int = 11, threads: int = 2) -> dict[str, float]:
    """Time every geometry, diagonal and dense, on a `(1, channels, size, size)` fp32 tensor; print a table.

    All are timed in turn, the compiled `repeats` times and the others three times, and a ratio is the median of
    the ratios within a turn, so that a busy machine slows both sides alike. Forward is without gradients, forward +
    backward with those of input and parameters. Diagonal is compared with a per-channel multiply, dense with a
    1 × 1 convolution, compiled with compiled and plain with plain; geoopt (if installed) is uncompiled, and compared
    with the compiled multiply. Returns flat figures such as `ops/diagonal/lorentz/compiled/forward_ms` and
    `…/forward_backward_ratio`.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return _run(channels, size, repeats)
    finally:
        torch.set_num_threads(before)


def _run(channels: int, size: int, repeats: int) -> dict[str, float]:
    x, gradient = torch.randn(2, 1, channels, size, size).unbind()
    modules = _modules(channels)
    with torch._dynamo.config.patch(recompile_limit=4 * len(modules)):
        # geoopt stays as its users have it: its own jit.script kernels inside plain PyTorch.
        compiled = {name: torch.compile(m, fullgraph=True) for name, m in modules.items() if name != GEOOPT}
        calls: dict[str, nn.Module] = {f"{name}/plain": module for name, module in modules.items()}
        calls |= {f"{name}/compiled": module for name, module in compiled.items()}
        forward = _interleaved(calls, lambda call: _forward(call, x), repeats)
        both = _interleaved(calls, lambda call: _forward_backward(call, x, gradient), repeats)
    figures: dict[str, float] = {}
    for name in calls:
        reference = _reference(name)
        for kind, times in (("forward", forward), ("forward_backward", both)):
            figures[f"ops/{name}/{kind}_ms"] = 1e3 * statistics.median(times[name])
            ratios = [t / r for t, r in zip(times[name], times[reference], strict=False)]
            figures[f"ops/{name}/{kind}_ratio"] = statistics.median(ratios)
    for name in [name for name in calls if name.startswith("diagonal") and f"{GEOOPT}/plain" in calls]:
        for kind, times in (("forward", forward), ("forward_backward", both)):
            faster = [g / t for g, t in zip(times[f"{GEOOPT}/plain"], times[name], strict=False)]
            figures[f"ops/{name}/{kind}_geoopt_speedup"] = statistics.median(faster)
    _print(figures, list(calls), tuple(x.shape))
    return figures


def _modules(channels: int) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {
        "multiply": ChannelMultiply(channels),
        "convolution": nn.Conv2d(channels, channels, 1, bias=False),
    }
    for structure in ("diagonal", "dense"):
        for geometry in GEOMETRIES:
            adjustment = HyperET(channels, structure, geometry, channel_dim=1)
            with torch.no_grad():
                for parameter in adjustment.parameters():
                    parameter.add_(0.02 * torch.randn_like(parameter))
            modules[f"{structure}/{geometry}"] = adjustment
    with contextlib.suppress(ImportError):
        modules[GEOOPT] = GeooptScaling(channels)
    return modules


def _reference(name: str) -> str:
    """What a row is compared with."""
    layer = "convolution" if name.startswith(("dense", "convolution")) else "multiply"
    compiled = name.endswith("compiled") or name.startswith(GEOOPT)
    return f"{layer}/{'compiled' if compiled else 'plain'}"


def _interleaved(calls: dict[str, nn.Module], timed: Callable[[nn.Module], float], repeats: int) -> Timed:
    for call in calls.values():
        timed(call)  # compiles, and warms the caches
    times: Timed = {name: [] for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            if turn < PLAIN_REPEATS or name.endswith("compiled"):
                times[name].append(timed(call))
    return times


def _forward(call: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        start = time.perf_counter()
        call(x)
        return time.perf_counter() - start


def _forward_backward(call: nn.Module, x: Tensor, gradient: Tensor) -> float:
    leaf = x.detach().requires_grad_()
    call.zero_grad(set_to_none=True)
    start = time.perf_counter()
    call(leaf).backward(gradient)
    return time.perf_counter() - start


def _print(figures: dict[str, float], names: list[str], shape: tuple[int, ...]) -> None:
    table = Table(title=f"One tensor {shape}, fp32, {torch.get_num_threads()} threads, CPU")
    for heading in ("operation", "against", "forward", "ratio", "forward + backward", "ratio", "geoopt takes"):
        table.add_column(heading, justify="left" if heading in ("operation", "against") else "right")
    for name in sorted(names, key=lambda name: (name.rpartition("/")[2], _reference(name))):
        cells = [name.replace("/", " "), _reference(name).replace("/", " ")]
        for kind in ("forward", "forward_backward"):
            cells += [f"{figures[f'ops/{name}/{kind}_ms']:.1f} ms", f"{figures[f'ops/{name}/{kind}_ratio']:.2f} ×"]
        speedups = [figures.get(f"ops/{name}/{kind}_geoopt_speedup") for kind in ("forward", "forward_backward")]
        cells.append(" / ".join(f"{s:.0f} ×" for s in speedups if s is not None))
        table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    run()
