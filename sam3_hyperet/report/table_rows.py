"""The figures of a base and of any number of adapted models, side by side: the rows of every table of a report.

Metrics come flat, as in metrics.json: `base/<data>/<key>` of the base; `<data>/<key>` of the adapted model, or
`<model>/<data>/<key>` where several are named; `difference/…/low` and `/high`, the 95 % interval of the difference
between an adapted model's figure and the base's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

UNMOVED = 0.005
"""A smaller difference of an AP, an mIoU or a share is called none."""
MISSING = "–"

_DATA_SETS = {"coco": "COCO", "ade20k": "ADE20K", "camvid": "CamVid", "": "the data"}
_GRANULARITIES = ("part", "object", "group", "class")
_FUSIONS = ("fused", "instance", "semantic")
_CATEGORY = re.compile(r"^(?:(?P<scope>.*?)/)?(?P<metric>segm/AP|bbox/AP|IoU)/(?P<name>.+)$", re.DOTALL)
_ALIASES = {"accuracy_absent": "absent_accuracy", "accuracy_present": "present_accuracy"}


@dataclass(frozen=True)
class Metric:
    """A metric of the main table; the keys of its figures end in `suffix`."""

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
        "segm/cgF1",
        "cgF1",
        "SAM 3’s own measure: F1 of the masks of present concepts × IL_MCC, how well presence is recognised.",
    ),
    Metric(
        "presence/absent_accuracy",
        "Right about what is absent",
        "Share of prompts for something that is not in the picture where the model says so; the rest are false alarms.",
    ),
    Metric(
        "presence/present_accuracy",
        "Right about what is present",
        "Share of prompts for something that is in the picture where the model says so.",
    ),
    Metric(
        "hierarchy/consistency",
        "Consistency in the concept tree",
        "IoU of the mask of a parent (vehicle) and the union of those of its children (car, bus).",
    ),
    Metric(
        "hierarchy/sibling_confusion",
        "Siblings confused",
        "Share of ground-truth regions that the prompt of a sibling (bus for a car) claims. Lower is better.",
        lower_is_better=True,
    ),
    Metric(
        "hierarchy/cousin_confusion",
        "Cousins confused",
        "The same for the prompts of cousins (house for a car). Lower is better.",
        lower_is_better=True,
    ),
    Metric(
        "hierarchy/stranger_confusion",
        "Strangers confused",
        "The same for all other prompts, neither above nor below in the tree (roof for a road). Lower is better.",
        lower_is_better=True,
    ),
    Metric(
        "unassigned",
        "Unassigned",
        "Share of the labelled pixels that no class was given to; they count as missed. Lower is better.",
        lower_is_better=True,
    ),
)


@dataclass(frozen=True)
class Cell:
    """An adapted model's figure, and its difference from the base with the 95 % interval; None where there is none.

    verdict: better, worse or same, "" without a difference. Same is also what the interval leaves open.
    """

    value: float | None
    difference: float | None
    interval: tuple[float, float] | None
    verdict: str

    @property
    def supported(self) -> bool:
        """Whether the interval says that the difference is none of chance."""
        return self.interval is not None and self.verdict in ("better", "worse")

    @property
    def open(self) -> bool:
        """Whether the figures differ, but the interval does not say which model is better."""
        return self.verdict == "same" and abs(self.difference or 0.0) >= UNMOVED


@dataclass(frozen=True)
class Row:
    """One figure of every model, `cells` in the order of the models; `scope` stands before the metric in its key."""

    metric: Metric
    scope: tuple[str, ...]
    base: float | None
    cells: tuple[Cell, ...]

    @property
    def key(self) -> str:
        return "/".join((*self.scope, self.metric.suffix))

    @property
    def label(self) -> str:
        return " · ".join((data_set(self.scope), *self.scope[1:])) if self.scope else "all"

    @property
    def best(self) -> int | None:
        """The model to print in bold, -1 for the base: the best of all, where its interval supports that it is.

        Intervals are of differences from the base: between two adapted models nothing was tested.
        """
        values = [cell.value for cell in self.cells]
        if self.base is None or not values or None in values:
            return None
        sign = -1.0 if self.metric.lower_is_better else 1.0
        top = max(range(len(values)), key=lambda k: sign * (values[k] or 0.0))
        if self.cells[top].supported and self.cells[top].verdict == "better":
            return top
        return -1 if all(cell.supported and cell.verdict == "worse" for cell in self.cells) else None


def prefixes(models: Sequence[str] = ()) -> dict[str, str]:
    """What stands before the keys of each adapted model: nothing where there is only one, without a name."""
    return {name: f"{name}/" for name in models} or {"adapted": ""}


def rows(metrics: Mapping[str, float], models: Sequence[str] = ()) -> list[Row]:
    """The rows of the main table, by metric, then data set, then granularity; `models` names several adapted ones."""
    found = []
    keys = names(metrics, models)
    shown = {name for name in keys.values() if not _CATEGORY.match(name) and "/forgetting/" not in f"/{name}"}
    for metric in METRICS:
        for key, name in keys.items():
            if name in shown and (name == metric.suffix or name.endswith(f"/{metric.suffix}")):
                scope = tuple(part for part in name[: -len(metric.suffix)].split("/") if part)
                found.append(_row(metrics, models, metric, scope, key))
    return sorted(found, key=lambda row: (METRICS.index(row.metric), row.scope[:1], [_rank(p) for p in row.scope[1:]]))


def category_tables(metrics: Mapping[str, float], models: Sequence[str] = ()) -> dict[str, list[Row]]:
    """Rows by category, a table for each data set or granularity: by falling difference of the first model.

    Masks where there are masks and boxes.
    """
    found = [(match, key) for key, name in names(metrics, models).items() if (match := _CATEGORY.match(name))]
    with_masks = {match["scope"] for match, _ in found if match["metric"] == "segm/AP"}
    tables: dict[str, list[Row]] = {}
    for match, key in found:
        if match["metric"] == "bbox/AP" and match["scope"] in with_masks:
            continue
        kind = Metric("", {"segm/AP": "mask AP", "bbox/AP": "box AP"}.get(match["metric"], "IoU"), "")
        title = Row(kind, tuple((match["scope"] or "").split("/")), None, ()).label
        tables.setdefault(f"{title}: {kind.name}", []).append(_row(metrics, models, kind, (match["name"],), key))
    for table in tables.values():
        table.sort(key=lambda row: (row.cells[0].difference is None, -(row.cells[0].difference or 0.0), row.scope))
    return tables


def other_keys(metrics: Mapping[str, float], models: Sequence[str] = ()) -> list[str]:
    """The keys, without a model's prefix, that neither the main table nor those by category show."""
    shown = {row.key for row in rows(metrics, models)}
    keys = names(metrics, models).items()
    return sorted(key for key, name in keys if name not in shown and not _CATEGORY.match(name))


def names(metrics: Mapping[str, float], models: Sequence[str] = ()) -> dict[str, str]:
    """Every key without its model's prefix, once, and the same with the suffixes of `METRICS`."""
    before = ("base/", *(prefix for prefix in prefixes(models).values() if prefix))
    keys: dict[str, None] = {}
    for key in metrics:
        if not key.startswith("difference/"):
            keys[next((key[len(prefix) :] for prefix in before if key.startswith(prefix)), key)] = None
    return {key: re.sub("accuracy_(?:absent|present)$", lambda m: _ALIASES[m[0]], key) for key in keys}


def value(metrics: Mapping[str, float], key: str) -> float | None:
    """A finite metric; None for a missing one, NaN, and -1 (a correlation may be -1)."""
    found = metrics.get(key)
    if found is None or not math.isfinite(found) or (found == -1 and not key.endswith(("MCC", "spearman"))):
        return None
    return float(found)


def data_set(scope: Sequence[str]) -> str:
    """The name of the data set of a row's scope, as people write it."""
    name = scope[0] if scope else ""
    return _DATA_SETS.get(name, name)


def is_granularity(name: str) -> bool:
    return name in _GRANULARITIES


def number(x: float | None, digits: int = 2) -> str:
    """A share as .34, 1.00 or –; with a minus sign where negative."""
    if x is None or not math.isfinite(x):
        return MISSING
    text = f"{abs(x):.{digits}f}"
    text = text[1:] if text.startswith("0") else text
    return f"−{text}" if x < 0 and text.strip(".0") else text


def signed(x: float | None, digits: int = 3) -> str:
    """A difference as +.33 or −.07; ±.000 where it rounds to nothing."""
    text = number(x, digits)
    if x is None or text.startswith(("−", MISSING)):
        return text
    return f"+{text}" if text.strip(".0") else f"±{text}"


def between(interval: tuple[float, float], digits: int = 3) -> str:
    """An interval as "+.02 to +.09"."""
    return f"{signed(interval[0], digits)} to {signed(interval[1], digits)}"


def _row(metrics: Mapping[str, float], models: Sequence[str], metric: Metric, scope: tuple[str, ...], key: str) -> Row:
    base = value(metrics, f"base/{key}")
    cells = []
    for prefix in prefixes(models).values():
        figure = value(metrics, f"{prefix}{key}")
        difference = None if base is None or figure is None else figure - base
        bounds = [metrics.get(f"difference/{prefix}{key}/{end}", math.nan) for end in ("low", "high")]
        interval = (bounds[0], bounds[1]) if difference is not None and all(map(math.isfinite, bounds)) else None
        cells.append(Cell(figure, difference, interval, _verdict(difference, interval, metric.lower_is_better)))
    return Row(metric, scope, base, tuple(cells))


def _verdict(difference: float | None, interval: tuple[float, float] | None, lower_is_better: bool) -> str:
    if difference is None:
        return ""
    if abs(difference) < UNMOVED or (interval is not None and interval[0] <= 0 <= interval[1]):
        return "same"
    return "better" if (difference > 0) != lower_is_better else "worse"


def _rank(part: str) -> tuple[int, str]:
    order = (*_GRANULARITIES, *_FUSIONS)
    return (order.index(part) if part in order else len(order), part)
