"""Metrics of a base and of any number of adapted models, side by side, in rows.

Metrics are flat, by `MetricKey`; `difference/…/low` and `/high` are the 95 % interval of an adapted model's difference
from the base.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sam3_hyperet.choices import KEPT
from sam3_hyperet.evaluation.metrics.key import MetricKey

if TYPE_CHECKING:
    from sam3_hyperet.evaluation.dial import DialFront  # loads torch, which tables of files do without

UNMOVED = 0.005  # a smaller difference of an AP or an mIoU is called none, and of any metric that was not tested
MISSING = "–"
BASE = "base"
OWN_NAMES = (BASE, "adapted")  # what a report itself calls models
ALONE = (BASE,)  # the models of a report of the base alone
_ENDS = ("/low", "/high")
_DIFFERENCES = ("difference/", "between/")
_COCO = {"AP", "AP50", "AP75", "AR", *(f"A{kind}{size}" for kind in "PR" for size in "sml")}
_MAY_BE_UNDEFINED = {*_COCO, "cgF1", "positive_micro_F1", "positive_macro_F1"}  # -1 where there is nothing to find
GRANULARITIES = ("part", "object", "group", "class")

PRESENT, ABSENT = "presence/accuracy_present", "presence/accuracy_absent"
_MAIN = ("segm/AP", "bbox/AP", "mIoU", "segm/cgF1", PRESENT, ABSENT)

_DATA_SETS = {"coco": "COCO", "ade20k": "ADE20K", "camvid": "CamVid", "": "the data"}
_RANK = {name: place for place, name in enumerate(("", *GRANULARITIES, "fused", "instance", "semantic"))}


@dataclass(frozen=True)
class Metric:
    """A metric of the main table, `key` being the `MetricKey.metric`; the page says what it means."""

    key: str
    name: str
    lower_is_better: bool = False
    unmoved: float = UNMOVED  # a smaller difference is none, whatever its interval


METRICS = (
    Metric("segm/AP", "Mask AP"),
    Metric("mIoU", "mIoU"),
    Metric("bbox/AP", "Box AP"),
    Metric("segm/cgF1", "cgF1"),
    Metric(ABSENT, "Right about what is absent", unmoved=0.0),  # .998 to .994 is three times as many false alarms
    Metric(PRESENT, "Right about what is present", unmoved=0.0),
    Metric("hierarchy/consistency", "Consistency in the concept tree"),
    Metric("hierarchy/sibling_confusion", "Siblings confused", lower_is_better=True),
    Metric("hierarchy/cousin_confusion", "Cousins confused", lower_is_better=True),
    Metric("hierarchy/stranger_confusion", "Strangers confused", lower_is_better=True),
    Metric("unassigned", "Unassigned", lower_is_better=True),
)


@dataclass(frozen=True)
class Cell:
    """An adapted model's value, and its difference from the base with the 95 % interval; None where there is none."""

    value: float | None
    difference: float | None
    interval: tuple[float, float] | None
    verdict: str  # better or worse where the interval says so, else same; "" without a difference

    @property
    def supported(self) -> bool:
        """Whether the interval excludes a difference by chance."""
        return self.verdict in ("better", "worse")

    @property
    def open(self) -> bool:
        """Whether the values differ, and nothing says that it is not by chance."""
        return self.verdict == "same" and abs(self.difference or 0.0) >= UNMOVED


@dataclass(frozen=True)
class Row:
    """One metric of every model, `cells` in the order of the models; `scope` is the data set and the group."""

    metric: Metric
    scope: tuple[str, ...]
    base: float | None
    cells: tuple[Cell, ...]

    @property
    def label(self) -> str:
        return " · ".join((data_set(self.scope), *map(in_words, self.scope[1:]))) if self.scope else "all"

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


def starting(name: str) -> str:
    """A model's name where a sentence or a title starts: names of users' models stay as they are."""
    return name.capitalize() if name in OWN_NAMES else name


def prefixes(models: Sequence[str] = ()) -> dict[str, str]:
    """The prefix of each adapted model's keys: none where there is only one, without a name, or the base alone."""
    if tuple(models) == ALONE:
        return {BASE: ""}
    return {name: f"{name}/" for name in models} or {"adapted": ""}


def labelled_prefixes(metrics: Mapping[str, float], models: Sequence[str] = ()) -> dict[str, str]:
    """The prefix of each model's keys by its label, the base first; a model alone may be either."""
    if any(key.startswith(f"{BASE}/") for key in metrics):
        return {BASE: f"{BASE}/", **prefixes(models)}
    return prefixes(models) if models else {"the model": ""}


def knowing_rows(metrics: Mapping[str, float], models: Sequence[str] = ()) -> dict[str, list[str]]:
    """By model, how well radius, 1 − score and both tell wrong detections from right ones, and what the radius adds.

    AUROC of each and the difference of the last two with its interval, then the same of AURC.
    """
    keys = (key for key in metrics if isinstance(key, MetricKey) and key.metric == "uncertainty/score/auroc")
    found = {}
    for data in dict.fromkeys(key.data for key in keys):
        for name, prefix in labelled_prefixes(metrics, models).items():
            at, cells = f"{prefix}{data}/uncertainty", list[str]()
            for measure in ("auroc", "aurc"):
                cells += [number(value(metrics, f"{at}/{kind}/{measure}")) for kind in ("radius", "score", "both")]
                key = f"{at}/beyond_score/{measure}"
                ends = [metrics.get(f"{key}/{end}", math.nan) for end in ("low", "high")]
                interval = f" ({between((ends[0], ends[1]), 2)})" if all(map(math.isfinite, ends)) else ""
                cells.append(signed(value(metrics, key), 2) + interval)
            if set(cells) != {MISSING}:
                found[name] = cells
    return found


def rows(metrics: Mapping[str, float], models: Sequence[str] = ()) -> list[Row]:
    """The rows of the main table, by metric, then data set, then granularity; `models` names several adapted ones."""
    keys = sorted(_keys(metrics), key=lambda key: (key.data, _RANK.get(key.group, len(_RANK)), key.group))
    found = [(metric, key) for metric in METRICS for key in keys if key.metric == metric.key and not key.category]
    return [_row(metrics, models, metric, _scope(key), key) for metric, key in found]


def category_tables(metrics: Mapping[str, float], models: Sequence[str] = ()) -> dict[str, list[Row]]:
    """Rows by category, a table for each data set or granularity: by falling difference of the first model.

    Masks where there are masks and boxes.
    """
    found = [key for key in _keys(metrics) if key.category]
    with_masks = {_scope(key) for key in found if key.metric == "segm/AP"}
    tables: dict[str, list[Row]] = {}
    for key in found:
        if key.metric == "bbox/AP" and _scope(key) in with_masks:
            continue
        kind = Metric("", {"segm/AP": "mask AP", "bbox/AP": "box AP"}.get(key.metric, key.metric))
        title = Row(kind, _scope(key), None, ()).label
        tables.setdefault(f"{title}: {kind.name}", []).append(_row(metrics, models, kind, (key.category,), key))
    for table in tables.values():
        table.sort(key=lambda row: (row.cells[0].difference is None, -(row.cells[0].difference or 0.0), row.scope))
    return tables


@dataclass(frozen=True)
class FrontRow:
    """One dial: the metrics that its rule names, each with its difference from the base, and what is to be said."""

    dial: str
    cells: tuple[tuple[float | None, float | None], ...]
    kept: str
    remark: str


def front_rows(front: DialFront) -> list[FrontRow]:
    """The rows of the table of a dial's front."""
    found = []
    for dial, metrics in front.metrics.items():
        pairs = [(value(metrics, name), value(front.base, name)) for name in front.rule.metrics]
        cells = tuple((now, None if now is None or then is None else now - then) for now, then in pairs)
        kept = ("yes" if front.keeps(dial) else "no") if front.rule.conditions else MISSING
        remarks = [{0.0: "base", 1.0: "as trained"}.get(dial, ""), "chosen" if dial == front.chosen else ""]
        found.append(FrontRow(f"{dial:g}", cells, kept, ", ".join(filter(None, remarks))))
    return found


def other_keys(metrics: Mapping[str, float]) -> list[MetricKey]:
    """The keys, without a model, that neither the main table nor those by category show; intervals left out."""
    shown = {metric.key for metric in METRICS}
    return sorted(key for key in _keys(metrics) if not (key.metric in shown or key.category or key.endswith(_ENDS)))


def _keys(metrics: Mapping[str, float]) -> list[MetricKey]:
    """Every key without its model, once; differences left out."""
    found = (key if isinstance(key, MetricKey) else MetricKey(key) for key in metrics)
    return list(dict.fromkeys(MetricKey.of(key, key.data) for key in found if not key.startswith(_DIFFERENCES)))


def _scope(key: MetricKey) -> tuple[str, ...]:
    return tuple(part for part in (key.data, key.group) if part)


def value(metrics: Mapping[str, float], key: str) -> float | None:
    """A finite metric; None for a missing one, NaN, and COCO's -1 of an AP, an AR or a cgF1."""
    found = metrics.get(key)
    if found is None or not math.isfinite(found) or (found == -1 and _may_be_undefined(key)):
        return None
    return float(found)


def _may_be_undefined(key: str) -> bool:
    """Whether -1 says that there was nothing to find, as in `segm/AP@100/img`; the end of an interval may be -1."""
    return not key.endswith(_ENDS) and any(part.partition("@")[0] in _MAY_BE_UNDEFINED for part in key.split("/"))


def data_set(scope: Sequence[str]) -> str:
    """The name of the data set of a row's scope, as people write it."""
    name = scope[0] if scope else ""
    return _DATA_SETS.get(name, name)


def is_part(group: str, groups: Iterable[str]) -> bool:
    """Whether a group's name says that it is part of another one: `held_out_parts` of `held_out`."""
    return any(group.startswith(f"{other}_") for other in groups)


def is_subset(row: Row, others: Sequence[Row]) -> bool:
    """Whether a row's group is part of that of another row of its data set."""
    names = [other.scope[1] for other in others if len(other.scope) == 2 and other.scope[:1] == row.scope[:1]]
    return len(row.scope) == 2 and is_part(row.scope[1], names)


def is_kept(row: Row) -> bool:
    """Whether the truth of a row is the base's own answers."""
    return row.scope[1:] == (KEPT,)


def distinct(table: Sequence[Row]) -> list[Row]:
    """The rows without those whose figures are all those of an earlier one of their metric and data set."""
    found: dict[object, Row] = {}
    for row in table:
        found.setdefault((row.metric, row.scope[:1], row.base, row.cells), row)
    return list(found.values())


def main_rows(table: Sequence[Row]) -> list[Row]:
    """The few rows that models are judged by: those of all concepts, and the APs of the data's own groups."""
    masks = {row.scope for row in table if row.metric.key == "segm/AP"}
    return [row for row in distinct(table) if _is_main(row, table, masks)]


def _is_main(row: Row, table: Sequence[Row], masks: Collection[tuple[str, ...]]) -> bool:
    key, group = row.metric.key, row.scope[1:]
    if key == "bbox/AP" and row.scope in masks:
        return False
    if key in ("segm/AP", "bbox/AP") and group:
        return group[0] not in GRANULARITIES and not is_subset(row, table)
    return key in _MAIN and (not group or (key == "mIoU" and group == ("fused",)))


def in_words(group: str) -> str:
    """The name of a group for people: `held_out_parts` as "held-out parts"."""
    if group == KEPT:
        return "the base's own answers"
    return group.replace("held_out", "held-out").replace("_", " ")


def number(x: float | None, digits: int = 2) -> str:
    """A fraction as .34, 1.00 or –; with a minus sign where negative."""
    if x is None or not math.isfinite(x):
        return MISSING
    text = f"{abs(x):.{digits}f}".removeprefix("0")
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


def _row(
    metrics: Mapping[str, float], models: Sequence[str], metric: Metric, scope: tuple[str, ...], key: MetricKey
) -> Row:
    base, cells = value(metrics, f"base/{key}"), []
    for prefix in prefixes(models).values():
        found = value(metrics, f"{prefix}{key}")
        difference = None if base is None or found is None or key.group == KEPT else found - base  # its own truth
        of = f"difference/{prefix}{key}"
        cells.append(tested_cell(metrics, of, found, difference, metric, base))
    return Row(metric, scope, base, tuple(cells))


def tested_cell(
    metrics: Mapping[str, float],
    of: str,
    found: float | None,
    difference: float | None,
    metric: Metric,
    base: float | None,
) -> Cell:
    """A value with its difference and the interval that the metrics have of it, under the key `of`.

    The interval ends where a fraction would be below 0 or above 1: at ±1 where that of the base is not known.
    """
    low, high = (metrics.get(f"{of}/{end}", math.nan) for end in ("low", "high"))
    is_tested = difference is not None and math.isfinite(low) and math.isfinite(high)
    least, most = (-base, 1.0 - base) if base is not None and 0 <= base <= 1 else (-1.0, 1.0)
    interval = (max(low, least), min(high, most)) if is_tested else None
    return Cell(found, difference, interval, _verdict(difference, interval, metric))


def _verdict(difference: float | None, interval: tuple[float, float] | None, metric: Metric) -> str:
    if difference is None:
        return ""
    if interval is None or not difference or abs(difference) < metric.unmoved or interval[0] <= 0 <= interval[1]:
        return "same"
    return direction(difference, metric.lower_is_better)


def direction(difference: float, lower_is_better: bool) -> str:
    """Whether a difference other than 0 is one for the "better" or the "worse", by chance or not."""
    return "better" if (difference > 0) != lower_is_better else "worse"
