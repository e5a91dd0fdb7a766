"""What hyperbolic attention costs beside ordinary attention, at the size of the official fusion encoder."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sam3_hyperet.adapters.attention import ATTENTION_GEOMETRIES, HyperbolicGates, HyperbolicMultiheadAttention
from sam3_hyperet.errors import ConfigError

ORDINARY = "ordinary"
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


class OneOutput(nn.Module):
    """An `nn.MultiheadAttention` as a function of queries, keys and values alone."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output: Tensor = self.attention(query, key, value, need_weights=False)[0]
        return output


def run(
    tokens: int = 5184, channels: int = 256, heads: int = 8, repeats: int = 9, threads: int = 2
) -> dict[str, float]:
    """Time self-attention over `tokens` tokens, fp32, one picture; print a table.

    `operation` is `F.scaled_dot_product_attention` or what replaces it, on `(1, heads, tokens, channels / heads)`;
    `module` is `nn.MultiheadAttention` with projections. The gates are open. All are timed in turn, and a ratio is the
    median of the ratios within a turn, so that a busy machine slows both sides alike; plain is compared with plain,
    compiled with compiled. Forward is without gradients, forward + backward with those of inputs and parameters. With
    one thread the times are those of the processor, which other jobs hardly touch; with more, those of the clock.

    Returns flat figures such as `attention/operation/lorentz/compiled/forward_ratio`, and the machine's load average
    over the run's last minute. Raises ConfigError unless `heads` divides `channels`.
    """
    if channels % heads:
        raise ConfigError(f"benchmark attention: heads={heads} does not divide channels={channels}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return _run(tokens, channels, heads, repeats)
    finally:
        torch.set_num_threads(before)


def _run(tokens: int, channels: int, heads: int, repeats: int) -> dict[str, float]:
    inputs = {
        "operation": list(torch.randn(3, 1, heads, tokens, channels // heads)),
        "module": list(torch.randn(3, 1, tokens, channels)),
    }
    plain = _operations(heads) | _modules(channels, heads)
    with torch._dynamo.config.patch(recompile_limit=4 * len(plain)):
        calls = {f"{name}/plain": call for name, call in plain.items()}
        calls |= {f"{name}/compiled": torch.compile(call, fullgraph=True) for name, call in plain.items()}
        times = {
            "forward": _interleaved(calls, inputs, repeats, _forward),
            "forward_backward": _interleaved(calls, inputs, repeats, _forward_backward),
        }
    figures = {"attention/load_average": os.getloadavg()[0]}
    for kind, of_kind in times.items():
        for name, seconds in of_kind.items():
            level, _, mode = name.split("/")
            ratios = [t / r for t, r in zip(seconds, of_kind[f"{level}/{ORDINARY}/{mode}"], strict=True)]
            figures[f"attention/{name}/{kind}_ms"] = 1e3 * statistics.median(seconds)
            figures[f"attention/{name}/{kind}_ratio"] = statistics.median(ratios)
    title = f"{tokens} tokens, {heads} heads of {channels // heads}, fp32, {torch.get_num_threads()} threads, CPU"
    _print(figures, sorted(calls), title)
    return figures


def _open_gates(heads: int, geometry: str) -> HyperbolicGates:
    gates = HyperbolicGates(heads, geometry=geometry, learn_curvature=geometry == "lorentz")
    with torch.no_grad():
        gates.curvature_gate.uniform_()
        gates.distance_gate.uniform_()
    return gates


def _operations(heads: int) -> dict[str, Attention]:
    gates = {f"operation/{geometry}": _open_gates(heads, geometry) for geometry in ATTENTION_GEOMETRIES}
    return {f"operation/{ORDINARY}": F.scaled_dot_product_attention, **gates}


def _modules(channels: int, heads: int) -> dict[str, Attention]:
    attention = nn.MultiheadAttention(channels, heads, batch_first=True).eval()
    modules: dict[str, Attention] = {f"module/{ORDINARY}": OneOutput(attention)}
    for geometry in ATTENTION_GEOMETRIES:
        gates = _open_gates(heads, geometry)
        modules[f"module/{geometry}"] = OneOutput(HyperbolicMultiheadAttention.from_attention(attention, gates))
    return modules


def _interleaved(
    calls: dict[str, Attention],
    inputs: dict[str, list[Tensor]],
    repeats: int,
    timed: Callable[[Attention, list[Tensor]], float],
) -> dict[str, list[float]]:
    """Seconds of each call in each of `repeats` turns, after one more that compiles and warms the caches."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + repeats):
        for name, call in calls.items():
            times[name].append(timed(call, inputs[name.partition("/")[0]]))
    return {name: seconds[1:] for name, seconds in times.items()}


def _forward(call: Attention, inputs: list[Tensor]) -> float:
    with torch.no_grad():
        start = _seconds()
        call(*inputs)
        return _seconds() - start


def _forward_backward(call: Attention, inputs: list[Tensor]) -> float:
    leaves = [x.detach().requires_grad_() for x in inputs]
    if isinstance(call, nn.Module):
        call.zero_grad(set_to_none=True)
    gradient = torch.ones_like(leaves[0])
    start = _seconds()
    call(*leaves).backward(gradient)
    return _seconds() - start


def _seconds() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def _print(figures: dict[str, float], names: list[str], title: str) -> None:
    table = Table(title=title, caption=f"load average of the machine: {figures['attention/load_average']:.1f}")
    table.add_column("self-attention", no_wrap=True)
    for heading in ("forward", "ratio", "+ backward", "ratio"):
        table.add_column(heading, justify="right")
    for name in names:
        cells = [name.replace("/", " ")]
        for kind in ("forward", "forward_backward"):
            cells.append(f"{figures[f'attention/{name}/{kind}_ms']:.0f} ms")
            cells.append(f"{figures[f'attention/{name}/{kind}_ratio']:.2f} ×")
        table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    run()
