"""What the report of a comparison shows besides the metrics: pictures, the protocol, the run's history."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from sam3_hyperet import sam3_host as host
from sam3_hyperet.data.sources import Split
from sam3_hyperet.evaluation.comparison import Comparison, Outcome
from sam3_hyperet.evaluation.fingerprint import versions
from sam3_hyperet.evaluation.metrics.examples import ExampleEvaluator
from sam3_hyperet.evaluation.metrics.radius import RadiusEvaluator
from sam3_hyperet.evaluation.runner import records_of
from sam3_hyperet.evaluation.task import vocabulary_labels
from sam3_hyperet.masks import decode
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.probe import BINS
from sam3_hyperet.report.evidence import (
    adapted_names,
    extremes,
    instance_counts,
    precision_recall,
    radius_maps,
    risk_coverage,
    tree_confusion,
)
from sam3_hyperet.report.extremes import Extreme
from sam3_hyperet.report.figures.pictures import Detection
from sam3_hyperet.report.report import Example, RadiusShift, Report, SemanticExample, write_report, write_tables
from sam3_hyperet.report.table_rows import number
from sam3_hyperet.training.run_log import FILE as HISTORY_FILE
from sam3_hyperet.training.run_log import read_history

_SHOWN_PER_PICTURE = 2
_LABEL_MAPS = 4
_RADIUS_MAPS = 3
_EXTREMES = 3  # pictures that gained most, and as many that lost most


def shown_examples(split: Split, scored: Sequence[int], count: int) -> tuple[list[tuple[int, int]], list[int]]:
    """What a report shows of `count` of the scored pictures, evenly spread.

    Returns:
        (position, category id) of a present concept for each granularity, and positions of label maps.
    """
    if not count:
        return [], []
    chosen = [scored[k] for k in np.linspace(0, len(scored) - 1, min(count, len(scored))).round().astype(int)]
    pairs: list[tuple[int, int]] = []
    if split.coco_file:
        granularity = {category.id: category.granularity for category in split.images.categories}
        for turn, i in enumerate(chosen):
            there = sorted({one.category_id for one in split.images.instances(i) if not one.crowd})
            levels = sorted({granularity[c] for c in there})
            for level in levels if len(levels) > 1 else levels * _SHOWN_PER_PICTURE:
                left = [c for c in there if granularity[c] == level and (i, c) not in pairs]
                if left:
                    pairs.append((i, left[turn % len(left)]))
    return pairs, (chosen[:_LABEL_MAPS] if split.labels else [])


def write_comparison(comparison: Comparison, run_dir: Path, config_text: str) -> None:
    """Write report.html, comparison.md and comparison.tex; pictures and radii are those of the last model."""
    base = comparison.outcomes[0] if len(comparison.outcomes) > 1 else None
    adapted, names, suite = comparison.outcomes[-1], adapted_names(comparison), comparison.suite
    gained, lost = extremes(comparison, _EXTREMES) if suite.shown else ((), ())
    report = Report(
        title=run_dir.name,
        metrics=comparison.metrics,
        history=read_history(run_dir / HISTORY_FILE),
        protocol=protocol_facts(comparison),
        config=config_text,
        versions=versions(),
        models=names,
        examples=_examples(comparison, suite.shown),
        gained=_extreme_examples(comparison, gained),
        lost=_extreme_examples(comparison, lost),
        semantic_examples=_semantic_examples(comparison, base, adapted),
        radius=_radius_shifts(adapted),
        radius_maps=radius_maps(comparison, list(dict.fromkeys(i for i, _ in suite.shown))[:_RADIUS_MAPS]),
        precision_recall=precision_recall(comparison),
        risk_coverage=risk_coverage(comparison),
        confusion=tree_confusion(comparison),
        instances=instance_counts(comparison),
        dropped=dict(comparison.split.images.dropped),
        notes=[f"Pictures and radii are those of {names[-1]}."] if names else (),
    )
    write_report(report, run_dir / "report.html")
    write_tables(report, run_dir)


def protocol_facts(comparison: Comparison) -> dict[str, str]:
    """How the numbers came about, for people."""
    split, suite = comparison.split, comparison.suite
    facts = {
        "data": f"{comparison.data.name}, {split.name} split, {len(suite.positions)} of {len(split.images)} pictures",
        "vocabulary": f"{len(suite.vocabulary)} prompts, absent ones included",
        "resolution": f"{resolution(comparison.outcomes[-1].variant.model)} pixels, square",
        "sam3": host.SAM3_VERSION,
        "threads": str(torch.get_num_threads()),
    }
    files = {one.variant.name: one.variant.adapter for one in comparison.outcomes if one.variant.adapter}
    for name, file in files.items():
        facts["adapter" if len(files) == 1 else f"adapter {name}"] = (
            f"SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}…"
        )
    return facts | {key: str(value) for key, value in asdict(suite.protocol).items()}


def _examples(comparison: Comparison, pairs: Sequence[tuple[int, int]], captions: Sequence[str] = ()) -> list[Example]:
    """What the base and the last model answered on (position, category id) pairs."""
    images = comparison.split.images
    categories = {category.id: category for category in images.categories}
    base = comparison.outcomes[0] if len(comparison.outcomes) > 1 else None
    examples = []
    for (i, category_id), caption in zip(pairs, captions or [""] * len(pairs), strict=True):
        truth = [decode(one.rle).astype(bool) for one in images.instances(i) if one.category_id == category_id]
        examples.append(
            Example(
                picture=np.asarray(images.picture(i)),
                prompt=categories[category_id].name,
                granularity=categories[category_id].granularity,
                truth=tuple(truth),
                base=_detections(base, i, category_id) if base else (),
                adapted=_detections(comparison.outcomes[-1], i, category_id),
                caption=caption,
            )
        )
    return examples


def _extreme_examples(comparison: Comparison, found: Sequence[Extreme]) -> list[Example]:
    captions = [f"F1 of the picture {number(one.base)} → {number(one.adapted)}" for one in found]
    return _examples(comparison, [(one.picture, one.category) for one in found], captions)


def _semantic_examples(comparison: Comparison, base: Outcome | None, adapted: Outcome) -> list[SemanticExample]:
    labels = comparison.split.labels
    if labels is None:
        return []
    names = tuple(category.name for category in labels.categories)
    return [
        SemanticExample(
            np.asarray(labels.picture(i)),
            _for_people(vocabulary_labels(labels, i)),
            _for_people(_label_map(base or adapted, i)),
            _for_people(_label_map(adapted, i)),
            names,
        )
        for i in comparison.suite.shown_maps
    ]


def _radius_shifts(outcome: Outcome) -> list[RadiusShift]:
    evaluator = outcome.contender.evaluators.get("radius")
    if not isinstance(evaluator, RadiusEvaluator):
        return []
    shifts = []
    for name, (before, after) in evaluator.histograms(records_of(outcome.records, "radius")).items():
        if not before.any():
            continue
        radius, normalised, saturation = (
            f"radius/{name}/mean",
            f"normalized_radius/{name}/mean",
            f"radius/{name}/saturation",
        )
        shifts.append(
            RadiusShift(
                site=name,
                edges=tuple(np.linspace(0.0, 1.0, BINS + 1).tolist()),
                before=tuple(before.tolist()),
                after=tuple(after.tolist()),
                before_mean=outcome.metrics[f"{normalised}_before"],
                after_mean=outcome.metrics[normalised],
                before_radius=outcome.metrics[f"{radius}_before"],
                after_radius=outcome.metrics[radius],
                saturation=outcome.metrics[saturation],
            )
        )
    return shifts


def _detections(outcome: Outcome, i: int, category_id: int) -> tuple[Detection, ...]:
    evaluator = outcome.contender.evaluators["examples"]
    assert isinstance(evaluator, ExampleEvaluator)
    found = evaluator.detections(i, category_id, outcome.record("examples", i))
    return tuple(Detection(decode(rle).astype(bool), score) for rle, score in found)


def _label_map(outcome: Outcome, i: int) -> np.ndarray:
    return outcome.record("label_maps", i)["shown"]


def _for_people(labels: np.ndarray) -> np.ndarray:
    return np.where(labels < 0, 255, labels).astype(np.int64)
