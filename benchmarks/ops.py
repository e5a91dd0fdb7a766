"""Time of every adjustment on one FPN-sized tensor, beside the cheapest plain layers of the same shape."""

from __future__ import annotations

import contextlib
import statistics
import warnings
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import timing
from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.choices import GEOMETRIES

GEOOPT = "geoopt exp-mul-log"
PLAIN_REPEATS = 3
MEASURES = {"forward": timing.forward, "forward_backward": timing.forward_backward}


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

    Compiled calls have `repeats` turns, the others three. Diagonal is compared with a per-channel multiply, dense with
    a 1 × 1 convolution, compiled with compiled and plain with plain; geoopt (if installed) is not compiled, and is
    compared with the compiled multiply.

    Returns:
        `ops/diagonal/lorentz/compiled/forward_ms`, `…/forward_ratio`, `…/forward_backward_ratio` and so on, and
        `…/forward_geoopt_speedup` of the diagonal ones.
    """
    with timing.threads(threads):
        return _run(channels, size, repeats)


def _run(channels: int, size: int, repeats: int) -> dict[str, float]:
    x = torch.randn(1, channels, size, size)
    modules = _modules(channels)
    results: dict[str, float] = {}
    with torch._dynamo.config.patch(recompile_limit=4 * len(modules)):
        calls = {f"{name}/plain": module for name, module in modules.items()}
        # geoopt stays as its users have it: its own jit.script kernels inside plain PyTorch.
        calls |= {f"{name}/compiled": torch.compile(m, fullgraph=True) for name, m in modules.items() if name != GEOOPT}
        few = {name: PLAIN_REPEATS for name in calls if name.endswith("plain")}
        for kind, measure in MEASURES.items():
            times = timing.in_turn({name: partial(measure, call, x) for name, call in calls.items()}, repeats, few)
            for name, taken in times.items():
                results[f"ops/{name}/{kind}_ms"] = 1e3 * statistics.median(taken)
                results[f"ops/{name}/{kind}_ratio"] = timing.ratio(taken, times[_reference(name)])
                if name.startswith("diagonal") and GEOOPT in modules:
                    results[f"ops/{name}/{kind}_geoopt_speedup"] = timing.ratio(times[f"{GEOOPT}/plain"], taken)
    _print(results, list(calls), tuple(x.shape))
    return results


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
    """Name of the call that a row is compared with."""
    layer = "convolution" if name.startswith(("dense", "convolution")) else "multiply"
    compiled = name.endswith("compiled") or name.startswith(GEOOPT)
    return f"{layer}/{'compiled' if compiled else 'plain'}"


def _print(results: dict[str, float], names: list[str], shape: tuple[int, ...]) -> None:
    rows = []
    for name in sorted(names, key=lambda name: (name.rpartition("/")[2], _reference(name))):
        row = [name.replace("/", " "), _reference(name).replace("/", " ")]
        for kind in MEASURES:
            row += [f"{results[f'ops/{name}/{kind}_ms']:.1f} ms", f"{results[f'ops/{name}/{kind}_ratio']:.2f} ×"]
        speedups = [results.get(f"ops/{name}/{kind}_geoopt_speedup") for kind in MEASURES]
        rows.append([*row, " / ".join(f"{s:.0f} ×" for s in speedups if s is not None)])
    headings = ("operation", "against", "forward", "ratio", "forward + backward", "ratio", "geoopt takes")
    timing.print_table(f"One tensor {shape}, fp32, {torch.get_num_threads()} threads, CPU", headings, rows)
