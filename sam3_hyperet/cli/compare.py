"""Base and adapted model side by side on a data set's validation pictures: metrics.json and report.html."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.command import write_json
from sam3_hyperet.data.segments import decode
from sam3_hyperet.data.sources import DataOptions, Split, open_split
from sam3_hyperet.evaluation.predictor import Predictor
from sam3_hyperet.evaluation.report import Example, RadiusShift, Report, SemanticExample, write_report
from sam3_hyperet.evaluation.runner import (
    Protocol,
    Result,
    evaluate_instances,
    evaluate_label_maps,
    positions,
    vocabulary_labels,
)
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.inject import adapters_disabled, parameter_report
from sam3_hyperet.modeling.radius_probe import BINS, RadiusProbe
from sam3_hyperet.training.run_log import FILE as HISTORY_FILE
from sam3_hyperet.version import __version__

_SHOWN_PER_PICTURE = 2
_HEADLINE = ("segm/AP", "bbox/AP", "mIoU", "unassigned", "presence/accuracy_absent")
_PACKAGES = ("torch", "torchvision", "sam3", "numpy", "pycocotools", "faster-coco-eval")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"sam3_hyperet": __version__, "python": platform.python_version(), **found}


def compare(
    model: host.Sam3Image,
    data: DataOptions,
    protocol: Protocol,
    run_dir: Path,
    *,
    config_text: str,
    extra: Mapping[str, float],
    console: Console,
    split_name: str = "val",
    adapter: Path | None = None,
    base: host.Sam3Image | None = None,
) -> dict[str, float]:
    """Score the base and the adapted model; write metrics.json and report.html.

    Args:
        extra: more metrics to write.
        adapter: the adapter's file; the report names its hash.
        base: the model to compare with; None is the model itself with its adapters off, if it has any.

    Returns:
        The metrics, flat: `<data>/<metric>` of the adapted model, `base/<data>/<metric>` of the base.
    """
    split = open_split(data, split_name)
    console.print(split.images.summary())
    pairs, maps = _shown(split, protocol)
    results: dict[str, Result] = {}
    if base is not None:
        results["base"] = _evaluate(base, split, protocol, pairs, maps)
    elif hasattr(model, "hyperet_config"):
        with adapters_disabled(model):
            results["base"] = _evaluate(model, split, protocol, pairs, maps)
    with RadiusProbe(model, accumulate=True) as probe:
        results["adapted"] = _evaluate(model, split, protocol, pairs, maps)
    metrics = dict(extra)
    report = parameter_report(model)  # what trains is not a property of the model: the caller says it
    metrics |= {f"params/{key}": report[key] for key in ("added", "total", "added_ratio")}
    for variant, result in results.items():
        prefix = "base/" if variant == "base" else ""
        metrics |= {f"{prefix}{data.name}/{key}": value for key, value in result.metrics.items()}
    metrics |= _radius_metrics(probe)
    write_json(run_dir / "metrics.json", metrics)
    write_report(
        Report(
            title=run_dir.name,
            metrics=metrics,
            history=_history(run_dir),
            protocol=_protocol(data, split, protocol, model, adapter),
            config=config_text,
            versions=versions(),
            examples=_examples(split, results, pairs),
            semantic_examples=_semantic_examples(split, results, maps),
            radius=_radius_shifts(probe),
            dropped=dict(split.images.dropped),
        ),
        run_dir / "report.html",
    )
    return metrics


def _evaluate(
    model: nn.Module,
    split: Split,
    protocol: Protocol,
    pairs: Sequence[tuple[int, int]],
    maps: Sequence[int],
) -> Result:
    both = Result()
    side = resolution(model)
    if split.coco_file:
        names = [category.name for category in split.images.categories]
        predictor = Predictor(model, names, side, protocol.prompts_at_once)
        both = evaluate_instances(predictor, split.images, split.coco_file, protocol, pairs)
    if split.labels:
        names = [category.name for category in split.labels.categories]
        predictor = Predictor(model, names, side, protocol.prompts_at_once)
        semantic = evaluate_label_maps(predictor, split.labels, protocol, maps)
        both = Result({**semantic.metrics, **both.metrics}, both.detections, semantic.label_maps)
    return both


def _shown(split: Split, protocol: Protocol) -> tuple[list[tuple[int, int]], list[int]]:
    """What the report shows: pictures evenly spread over the scored ones, of each a present concept per granularity."""
    scored = positions(split.images, protocol.limit)
    if not protocol.examples:
        return [], []
    chosen = [
        scored[k] for k in np.linspace(0, len(scored) - 1, min(protocol.examples, len(scored))).round().astype(int)
    ]
    pairs = []
    if split.coco_file:
        granularity = {category.id: category.granularity for category in split.images.categories}
        for turn, i in enumerate(chosen):
            there = sorted({one.category_id for one in split.images.instances(i) if not one.crowd})
            levels = sorted({granularity[c] for c in there})
            for level in levels if len(levels) > 1 else levels * _SHOWN_PER_PICTURE:
                left = [c for c in there if granularity[c] == level and (i, c) not in pairs]
                if left:
                    pairs.append((i, left[turn % len(left)]))
    return pairs, (chosen[:4] if split.labels else [])


def _examples(split: Split, results: Mapping[str, Result], pairs: Sequence[tuple[int, int]]) -> list[Example]:
    categories = {category.id: category for category in split.images.categories}
    examples = []
    for i, category_id in pairs:
        truth = [decode(one.rle).astype(bool) for one in split.images.instances(i) if one.category_id == category_id]
        examples.append(
            Example(
                picture=np.asarray(split.images.picture(i)),
                prompt=categories[category_id].name,
                granularity=categories[category_id].granularity,
                truth=tuple(truth),
                base=results["base"].detections[i, category_id] if "base" in results else (),
                adapted=results["adapted"].detections[i, category_id],
            )
        )
    return examples


def _semantic_examples(split: Split, results: Mapping[str, Result], maps: Sequence[int]) -> list[SemanticExample]:
    if not split.labels:
        return []
    names = tuple(category.name for category in split.labels.categories)

    def shown(labels: np.ndarray) -> np.ndarray:
        return np.where(labels < 0, 255, labels).astype(np.int64)

    examples = []
    for i in maps:
        truth = vocabulary_labels(split.labels, i)
        adapted = shown(results["adapted"].label_maps[i])
        base = shown(results["base"].label_maps[i]) if "base" in results else adapted
        examples.append(SemanticExample(np.asarray(split.labels.picture(i)), shown(truth), base, adapted, names))
    return examples


def _radius_metrics(probe: RadiusProbe) -> dict[str, float]:
    figures = {}
    for name, site in probe.sites.items():
        for prefix, (radius, normalised, saturation) in zip(("base/", ""), site.mean().tolist(), strict=True):
            figures[f"{prefix}radius/{name}/mean"] = radius
            figures[f"{prefix}normalized_radius/{name}/mean"] = normalised
            figures[f"{prefix}radius/{name}/saturation"] = saturation
    return figures


def _radius_shifts(probe: RadiusProbe) -> list[RadiusShift]:
    edges = tuple(np.linspace(0.0, 1.0, BINS + 1).tolist())
    shifts = []
    for name, site in probe.sites.items():
        before, after = site.mean().tolist()
        counts = site.histogram.tolist()
        shifts.append(
            RadiusShift(
                site=name,
                edges=edges,
                before=tuple(counts[0]),
                after=tuple(counts[1]),
                before_mean=before[1],
                after_mean=after[1],
                before_radius=before[0],
                after_radius=after[0],
                saturation=after[2],
            )
        )
    return shifts


def _protocol(
    data: DataOptions, split: Split, protocol: Protocol, model: nn.Module, adapter: Path | None
) -> dict[str, str]:
    count = len(positions(split.images, protocol.limit))
    facts = {
        "data": f"{data.name}, {split.name} split, {count} of {len(split.images)} pictures",
        "vocabulary": f"{len(split.images.categories)} names, one prompt each, absent ones included",
        "resolution": f"{resolution(model)} pixels, square",
        "sam3": host.SAM3_VERSION,
        "threads": str(torch.get_num_threads()),
    }
    if adapter:
        facts["adapter"] = f"SHA-256 {hashlib.sha256(adapter.read_bytes()).hexdigest()[:16]}…"
    return facts | {key: str(value) for key, value in asdict(protocol).items()}


def _history(run_dir: Path) -> list[dict[str, float]]:
    file = run_dir / HISTORY_FILE
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def print_headline(console: Console, metrics: Mapping[str, float]) -> None:
    """Print the metrics that a run is judged by, base beside adapted."""
    table = Table("metric", "base", "adapted", "difference")
    for key, value in metrics.items():
        if key.startswith("base/") or not key.endswith(_HEADLINE):
            continue
        base = metrics.get(f"base/{key}")
        row = ("–", f"{value:.4f}", "–") if base is None else (f"{base:.4f}", f"{value:.4f}", f"{value - base:+.4f}")
        table.add_row(key, *row)
    console.print(table)
