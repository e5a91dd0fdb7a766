"""Time of hyperbolic attention beside ordinary attention, at the size of the official fusion encoder."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import timing
from sam3_hyperet.adapters.attention import ATTENTION_GEOMETRIES, HyperbolicGates, HyperbolicMultiheadAttention
from sam3_hyperet.errors import ConfigError

ORDINARY = "ordinary"
MEASURES = {"forward": timing.forward, "forward_backward": timing.forward_backward}
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
    """Time self-attention over `tokens` tokens, fp32, one image; print a table.

    `operation` is `F.scaled_dot_product_attention` or what replaces it, on `(1, heads, tokens, channels / heads)`;
    `module` is `nn.MultiheadAttention` with projections. The gates are open. Plain is compared with plain, compiled
    with compiled.

    Returns:
        `attention/operation/lorentz/compiled/forward_ratio`, `…/forward_backward_ms` and so on, and the machine's load
        average over the last minute of the run.

    Raises:
        ConfigError: `heads` does not divide `channels`.
    """
    if channels % heads:
        raise ConfigError(f"benchmark attention: heads={heads} does not divide channels={channels}")
    with timing.threads(threads):
        return _run(tokens, channels, heads, repeats)


def _run(tokens: int, channels: int, heads: int, repeats: int) -> dict[str, float]:
    inputs = {
        "operation": list(torch.randn(3, 1, heads, tokens, channels // heads)),
        "module": list(torch.randn(3, 1, tokens, channels)),
    }
    plain = _operations(heads) | _modules(channels, heads)
    results: dict[str, float] = {}
    with torch._dynamo.config.patch(recompile_limit=4 * len(plain)):
        calls = {f"{name}/plain": call for name, call in plain.items()}
        calls |= {f"{name}/compiled": torch.compile(call, fullgraph=True) for name, call in plain.items()}
        for kind, measure in MEASURES.items():
            timed = {name: partial(measure, call, *inputs[name.partition("/")[0]]) for name, call in calls.items()}
            times = timing.in_turn(timed, repeats)
            for name, taken in times.items():
                level, _, mode = name.split("/")
                results[f"attention/{name}/{kind}_ms"] = 1e3 * statistics.median(taken)
                results[f"attention/{name}/{kind}_ratio"] = timing.ratio(taken, times[f"{level}/{ORDINARY}/{mode}"])
    results["attention/load_average"] = os.getloadavg()[0]
    title = f"{tokens} tokens, {heads} heads of {channels // heads}, fp32, {torch.get_num_threads()} threads, CPU"
    _print(results, sorted(calls), title)
    return results


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


def _print(results: dict[str, float], names: list[str], title: str) -> None:
    rows = []
    for name in names:
        row = [name.replace("/", " ")]
        for kind in MEASURES:
            row.append(f"{results[f'attention/{name}/{kind}_ms']:.0f} ms")
            row.append(f"{results[f'attention/{name}/{kind}_ratio']:.2f} ×")
        rows.append(row)
    caption = f"load average of the machine: {results['attention/load_average']:.1f}"
    timing.print_table(title, ("self-attention", "forward", "ratio", "+ backward", "ratio"), rows, caption)
