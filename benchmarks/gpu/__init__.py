"""What one GPU makes of the package: speed and memory of the official architecture, precision, exactness.

bench: the card, the clock and the model. operators, inference, training: the sections. No weights and no network are
needed; the weights are random, so figures of precision on `large` say less than those on the tiny model, which is
trained.
"""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.gpu import inference, operators, training
from benchmarks.gpu.bench import Bench, Figures
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.files import replacing
from sam3_hyperet.options import one_of

SECTIONS: dict[str, tuple[Callable[[Bench], Figures], float]] = {  # and the most seconds of each
    "ceilings": (operators.ceilings, 15),
    "moving": (inference.moving, 20),
    "identity": (inference.identity, 60),
    "steps": (training.steps, 120),
    "synchronisations": (training.synchronisations, 15),
    "parts": (training.parts, 20),
    "evaluation": (inference.evaluation, 80),
    "merging": (inference.merging, 30),
    "attention": (operators.attention, 40),
    "operators": (operators.operators, 40),
    "everything": (training.everything, 40),
    "compiled operators": (operators.compiled_operators, 60),
    "regions": (operators.regions, 60),
    "compiled steps": (training.compiled_steps, 90),
    "compiled evaluation": (inference.compiled_evaluation, 60),
}


def run(
    tiny: bool = False,
    compiled: bool = True,
    repeats: int = 20,
    seconds: int = 450,
    folder: str = "runs/benchmark-gpu",
    sections: Sequence[str] = [],
) -> dict[str, object]:
    """Measure every section in turn; a section that fails is recorded with its error, and the others go on.

    Each section has a time of its own, and what does not fit in it is named. `gpu.json` and `gpu.md` in `folder` are
    written anew after every section.

    Args:
        tiny: the tiny model and small tensors, on the CPU where there is no GPU: a dry run.
        repeats: timed calls of an operator; a step and an image get a quarter of them.
        seconds: for everything.
        sections: only these of `SECTIONS`, in this order; all of them where none is named.

    Returns:
        `card`, `model`, `seconds`, and under `sections` for each its `seconds`, its `figures` or its `error` and
        `traceback`, and what was `left_out`.

    Raises:
        ConfigError: no GPU, and not `tiny`; or a section that there is not.
    """
    started = time.perf_counter()
    for name in sections:
        one_of("benchmark gpu: sections", name, SECTIONS)
    if not torch.cuda.is_available() and not tiny:
        raise ConfigError("benchmark gpu: there is no CUDA device; tiny=true makes a dry run on the CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bench = Bench(device, "tiny" if tiny else "large", repeats, started + seconds, compiled)
    results: dict[str, object] = {"card": bench.card, "model": bench.architecture}
    measured: dict[str, dict[str, object]] = {}
    for name in sections or SECTIONS:
        section, budget = SECTIONS[name]
        begun = time.perf_counter()
        measured[name] = _guarded(section, bench, budget) | {"seconds": time.perf_counter() - begun}
        results |= {"seconds": time.perf_counter() - started, "sections": measured}
        _write(Path(folder), results)
        print(_table(name, measured[name]), flush=True)  # noqa: T201
    return results


def _guarded(section: Callable[[Bench], Figures], bench: Bench, budget: float) -> dict[str, object]:
    torch.manual_seed(0)
    bench.begin(budget)
    try:
        found: dict[str, object] = {"figures": _finite(section(bench))}
    except Exception as error:  # time on a card is scarce: one section's fault must not cost the others
        lines = str(error).strip().splitlines() or [""]
        found = {
            "error": f"{type(error).__name__}: {lines[0][:300]}",
            "traceback": traceback.format_exc().splitlines()[-24:],
        }
    return found | ({"left_out": bench.left_out} if bench.left_out else {})


def _finite(figures: Figures) -> Figures:
    """What was measured; infinity and NaN, which JSON has not, as text."""
    measured = {key: figure for key, figure in figures.items() if figure is not None}
    return {key: str(f) if isinstance(f, float) and not math.isfinite(f) else f for key, f in measured.items()}


def _write(folder: Path, results: Mapping[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sections: dict[str, dict[str, object]] = results["sections"]  # type: ignore[assignment]
    tables = [_table(name, section) for name, section in sections.items()]
    title = f"# {results['model']} on one {results['card']}, random weights, {results['seconds']:.0f} s"
    for name, text in (
        ("gpu.json", json.dumps(results, indent=1, allow_nan=False)),
        ("gpu.md", "\n".join([title, "", *tables])),
    ):
        with replacing(folder / name) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def _table(name: str, section: Mapping[str, object]) -> str:
    lines = [f"## {name} ({section['seconds']:.1f} s)", ""]
    if "error" in section:
        lines += [f"failed: {section['error']}", "", "```", *section["traceback"], "```", ""]  # type: ignore[misc]
    if figures := section.get("figures"):
        lines += ["| figure | value |", "|---|---|"]
        lines += [f"| {key} | {_short(value)} |" for key, value in figures.items()]  # type: ignore[attr-defined]
    if left_out := section.get("left_out"):
        lines += ["", f"no time was left for: {'; '.join(left_out)}"]  # type: ignore[arg-type]
    return "\n".join([*lines, ""])


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
