"""The report of a run: one HTML file that opens with the answer, then shows the evidence.

Whatever is missing is left out; a value that is not finite, or COCO's -1 for "nothing to
find", is shown as "–".
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from sam3_hyperet.evaluation.pictures import (
    Detection,
    Example,
    SemanticExample,
    instance_panels,
    semantic_panels,
)
from sam3_hyperet.evaluation.plots import RadiusShift, radius_plots, training_plots

__all__ = ["Detection", "Example", "RadiusShift", "Report", "SemanticExample", "headline", "write_report"]

UNMOVED = 0.005  # a smaller difference of an AP or mIoU is called none
SMALL = 0.02  # and one up to here small

_MISSING = "–"
_DATA_SETS = {"coco": "COCO", "ade20k": "ADE20K", "camvid": "CamVid", "": "the data"}
_GRANULARITIES = ("part", "object", "group", "class")
_FUSIONS = ("fused", "instance", "semantic")
_CATEGORY = re.compile(r"^(?:(?P<scope>.*?)/)?(?P<metric>segm/AP|bbox/AP|IoU)/(?P<name>.+)$", re.DOTALL)


@dataclass(frozen=True)
class Report:
    """All that a report shows; `metrics` as in metrics.json, `history` the lines of metrics.jsonl."""

    title: str
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, float]]
    protocol: Mapping[str, str]
    config: str
    versions: Mapping[str, str]
    examples: Sequence[Example] = ()
    semantic_examples: Sequence[SemanticExample] = ()
    radius: Sequence[RadiusShift] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Metric:
    """A metric of the headline table; keys end in `suffix`."""

    suffix: str
    name: str
    meaning: str
    lower_is_better: bool = False


METRICS = (
    Metric(
        "segm/AP",
        "Mask AP",
        "Average precision of the masks: mean over IoU thresholds .50 to .95 and over categories.",
    ),
    Metric("mIoU", "mIoU", "Intersection over union of a class’s pixels, averaged over the classes that occur."),
    Metric("bbox/AP", "Box AP", "Average precision of the boxes, otherwise as for masks."),
    Metric(
        "presence/absent_accuracy",
        "Right about what is absent",
        "Share of prompts for something that is not in the picture where the model says so.",
    ),
    Metric(
        "presence/present_accuracy",
        "Right about what is present",
        "Share of prompts for something that is in the picture where the model says so.",
    ),
    Metric(
        "unassigned",
        "Unassigned",
        "Share of the labelled pixels that no class was given to; they count as missed. Lower is better.",
        lower_is_better=True,
    ),
)
_FACTS = (
    ("params/trainable", "trainable parameters"),
    ("params/total", "parameters in all"),
    ("train/seconds", "seconds of training"),
    ("train/best_step", "best step"),
    ("train/skipped_steps", "steps skipped"),
    ("speed/images_per_s", "images a second"),
)
_ALIASES = {"accuracy_absent": "absent_accuracy", "accuracy_present": "present_accuracy"}


@dataclass(frozen=True)
class Row:
    """One figure of both models, None where there is none; `scope` stands before the metric in its key."""

    metric: Metric
    scope: tuple[str, ...]
    base: float | None
    adapted: float | None

    @property
    def key(self) -> str:
        return "/".join((*self.scope, self.metric.suffix))

    @property
    def difference(self) -> float | None:
        return None if self.base is None or self.adapted is None else self.adapted - self.base

    @property
    def verdict(self) -> str:
        """better, worse or same; "" without a difference."""
        if self.difference is None:
            return ""
        if abs(self.difference) < UNMOVED:
            return "same"
        return "better" if (self.difference > 0) != self.metric.lower_is_better else "worse"

    @property
    def label(self) -> str:
        names = [_DATA_SETS.get(self.scope[0], self.scope[0]), *self.scope[1:]] if self.scope else ["all"]
        return " · ".join(names)


def write_report(report: Report, path: Path, *, score_threshold: float = 0.5) -> Path:
    """Write one self-contained HTML file, whole or not at all; its folder is made.

    score_threshold: the pictures show the detections whose score is at least that.
    Raises DataError, naming the prompt, for masks that do not fit their picture.
    """
    path = Path(path)
    page = _template().render(_view(report, score_threshold)).encode("utf-8", "replace")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(page)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def headline(metrics: Mapping[str, float]) -> str:
    """The answer in one sentence, worded after the sign and size of each difference."""
    chosen = _headline_rows(rows(metrics))
    clauses = [_clause(row, several=len({row.scope[:1] for row in chosen}) > 1) for row in chosen[:5]]
    verdicts = {row.verdict for row in chosen}
    opening = ""
    if not clauses:
        clauses = ["neither an AP nor an mIoU was measured"]
    elif verdicts == {"same"}:
        opening = "Adaptation moved nothing: "
    elif verdicts == {"worse"}:
        opening = "Adaptation made it worse: "
    if len(chosen) > 5:
        clauses.append(f"{len(chosen) - 5} more below")
    if (added := value(metrics, "params/added")) is not None:
        ratio = value(metrics, "params/added_ratio")
        share = "" if ratio is None else f" ({100 * ratio:.2g} % of the base)"
        clauses.append(f"{added:,.0f} added parameters{share}")
    if chosen and all(row.base is None for row in chosen):
        clauses.append("the base model was not evaluated beside it")
    sentence = opening + "; ".join(clauses) + "."
    return sentence if sentence.startswith("mIoU") else sentence[0].upper() + sentence[1:]


def rows(metrics: Mapping[str, float]) -> list[Row]:
    """The rows of the headline table, by metric, then data set, then granularity."""
    found = []
    for metric in METRICS:
        for key, name in _names(metrics).items():
            if (name == metric.suffix or name.endswith(f"/{metric.suffix}")) and not _CATEGORY.match(name):
                scope = tuple(part for part in name[: -len(metric.suffix)].split("/") if part)
                found.append(Row(metric, scope, value(metrics, f"base/{key}"), value(metrics, key)))
    return sorted(found, key=lambda row: (METRICS.index(row.metric), row.scope[:1], [_rank(p) for p in row.scope[1:]]))


def value(metrics: Mapping[str, float], key: str) -> float | None:
    """A finite metric; None for a missing one, NaN, and -1 (a correlation may be -1)."""
    found = metrics.get(key)
    if found is None or not math.isfinite(found) or (found == -1 and not key.endswith("MCC")):
        return None
    return float(found)


def _names(metrics: Mapping[str, float]) -> dict[str, str]:
    """Every key without `base/`, once, and the same with the names of `METRICS`."""
    keys = dict.fromkeys(key.removeprefix("base/") for key in metrics)
    return {key: re.sub("accuracy_(?:absent|present)$", lambda m: _ALIASES[m[0]], key) for key in keys}


def _rank(part: str) -> tuple[int, str]:
    order = (*_GRANULARITIES, *_FUSIONS)
    return (order.index(part) if part in order else len(order), part)


def _headline_rows(table: Sequence[Row]) -> list[Row]:
    """One AP for each granularity or split of a data set, one mIoU for each data set; large changes first."""
    with_masks = {row.scope for row in table if row.metric.suffix == "segm/AP"}
    chosen: dict[tuple[str, tuple[str, ...]], Row] = {}
    for row in table:
        kind = row.metric.suffix
        if (row.base is None and row.adapted is None) or (kind == "bbox/AP" and row.scope in with_masks):
            continue
        if kind == "mIoU":
            chosen.setdefault((kind, row.scope[:1]), row)
        elif kind in ("segm/AP", "bbox/AP"):
            split = any(r.metric.suffix == kind and r.scope[:1] == row.scope[:1] and r.scope[1:] for r in table)
            if row.scope[1:] or not split:
                chosen[("AP", row.scope)] = row
    return sorted(chosen.values(), key=lambda row: (row.metric.suffix == "mIoU", -abs(row.difference or 0.0)))


def _clause(row: Row, several: bool) -> str:
    kind = {"segm/AP": "AP", "bbox/AP": "box AP"}.get(row.metric.suffix, row.metric.name)
    inner = " ".join(row.scope[1:])
    if kind == "mIoU":
        label = f"mIoU ({inner})" if inner else "mIoU"
    else:
        label = f"{inner}-level {kind}" if inner in _GRANULARITIES else f"{inner} {kind}".strip()
    if several or not inner or kind == "mIoU":
        data_set = row.scope[0] if row.scope else ""
        label += f" on {_DATA_SETS.get(data_set, data_set)}"
    base, adapted, difference = row.base, row.adapted, row.difference
    if adapted is None:
        return f"{label} could not be computed for the adapted model (base {number(base)})"
    if base is None or difference is None:
        return f"{label} is {number(adapted)}"
    if abs(difference) < UNMOVED:
        a, b = number(base, 3), number(adapted, 3)
        return f"{label} stayed at {b}" if a == b else f"{label} hardly moved ({a} to {b})"
    up, small = difference > 0, abs(difference) < SMALL
    verb = ("edged up" if up else "slipped") if small else ("rose" if up else "fell")
    digits = 3 if small else 2
    step = round(adapted, digits) - round(base, digits)  # so that the sentence adds up
    return f"{label} {verb} from {number(base, digits)} to {number(adapted, digits)} ({signed(step, digits)})"


def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"share": number, "signed": signed, "figure": _figure}
    source = files("sam3_hyperet.evaluation").joinpath("report.html.j2")
    return environment.from_string(source.read_text(encoding="utf-8"))


def _view(report: Report, score_threshold: float) -> dict[str, Any]:
    """What the template shows."""
    metrics = report.metrics
    table = rows(metrics)
    shown = {row.key for row in table}
    rest = [key for key, name in _names(metrics).items() if name not in shown and not _CATEGORY.match(name)]
    counts = [key for key in metrics if key.endswith("/images") and not key.startswith("base/")]
    facts = (*((key, "pictures scored") for key in counts[:1]), *_FACTS)
    best = value(metrics, "train/best_step")
    plots = training_plots(report.history, best)
    return {
        "report": report,
        "headline": headline(metrics),
        "blocks": [(m, found) for m in METRICS if (found := [row for row in table if row.metric is m])],
        "has_base": any(row.base is not None for row in table),
        "facts": [(text, name) for key, name in facts if (text := _figure(value(metrics, key), key)) != _MISSING],
        "plots": [(plot, Markup(plot.svg)) for plot in plots],
        "radius": list(zip(report.radius, map(Markup, radius_plots(report.radius)), strict=True)),
        "score_threshold": score_threshold,
        "examples": [(e, instance_panels(e, score_threshold)) for e in report.examples],
        "semantic": [semantic_panels(e) for e in report.semantic_examples],
        "categories": _categories(metrics),
        "rest": [(key, value(metrics, f"base/{key}"), value(metrics, key)) for key in sorted(rest)],
    }


def _categories(metrics: Mapping[str, float]) -> list[tuple[str, list[Row]]]:
    """A table for each scope: categories by falling difference, masks where there are masks and boxes."""
    found = [(match, key) for key in _names(metrics) if (match := _CATEGORY.match(key))]
    with_masks = {match["scope"] for match, _ in found if match["metric"] == "segm/AP"}
    tables: dict[str, list[Row]] = {}
    for match, key in found:
        if match["metric"] == "bbox/AP" and match["scope"] in with_masks:
            continue
        kind = Metric("", {"segm/AP": "mask AP", "bbox/AP": "box AP"}.get(match["metric"], "IoU"), "")
        scope = tuple((match["scope"] or "").split("/"))
        row = Row(kind, (match["name"],), value(metrics, f"base/{key}"), value(metrics, key))
        tables.setdefault(f"{Row(kind, scope, None, None).label}: {kind.name}", []).append(row)
    for table in tables.values():
        table.sort(key=lambda row: (row.difference is None, -(row.difference or 0.0), row.scope))
    return list(tables.items())


def _figure(x: float | None, key: str = "") -> str:
    """Any metric: counts with commas, seconds and rates short, ratios as percent, shares to three places."""
    if x is None or not math.isfinite(x):
        return _MISSING
    if key.endswith("_ratio"):
        return f"{100 * x:.2g} %"
    if float(x).is_integer() and (abs(x) > 1 or "step" in key or key.startswith("params/")):
        return f"{x:,.0f}".replace("-", "−")
    return number(x, 3) if abs(x) <= 1 else f"{x:,.1f}".replace("-", "−")


def number(x: float | None, digits: int = 2) -> str:
    """A share as .34, 1.00 or –; with a minus sign where negative."""
    if x is None or not math.isfinite(x):
        return _MISSING
    text = f"{abs(x):.{digits}f}"
    text = text[1:] if text.startswith("0") else text
    return f"−{text}" if x < 0 and text.strip(".0") else text


def signed(x: float | None, digits: int = 3) -> str:
    """A difference as +.33 or −.07; ±.000 where it rounds to nothing."""
    text = number(x, digits)
    if x is None or text.startswith(("−", _MISSING)):
        return text
    return f"+{text}" if text.strip(".0") else f"±{text}"
