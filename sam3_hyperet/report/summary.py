"""The headline of a comparison: what became better, what became worse, and what it cost, a line each.

A difference whose 95 % interval includes 0 is in neither line; without intervals the lines are called higher and lower.
Of several models a line has the figures of all of them, for the best of some is better by chance alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sam3_hyperet.evaluation.dial import DialFront
from sam3_hyperet.report.percentages import percent, points_between
from sam3_hyperet.report.tables import (
    ABSENT,
    GRANULARITIES,
    PRESENT,
    UNMOVED,
    Cell,
    Row,
    between,
    data_set,
    in_words,
    is_kept,
    is_subset,
    number,
    rows,
    value,
)
from sam3_hyperet.wording import count_of

COST = "Cost"
_ALL = 0.9995  # of an AP that is shown as 1.000
_NAMED = 4  # models whose figures are given one by one
LENGTH = 110  # characters of a line, as many as fit a page of 1,100 pixels
_PRESENCE = {PRESENT: "present {} accepted", ABSENT: "false alarms for {}"}
_AP = {"segm/AP": "mask AP", "bbox/AP": "box AP"}


@dataclass(frozen=True)
class Line:
    """One line of the headline; `verdict` is "better" or "worse" where intervals support it."""

    label: str
    text: str
    verdict: str = ""


@dataclass(frozen=True)
class _Change:
    """What a row says of the models that moved one way."""

    row: Row
    moved: tuple[Cell, ...]
    text: str
    of_models: str  # how many of several moved, or which one alone; "" for an only one

    @property
    def rank(self) -> tuple[int, float]:
        """Where it stands among others: first what most models share, then by the mean difference."""
        return -len(self.moved), -sum(abs(cell.difference or 0.0) for cell in self.moved) / len(self.moved)

    @property
    def is_presence(self) -> bool:
        return self.row.metric.key in _PRESENCE


def headline(metrics: Mapping[str, float], models: Sequence[str] = ()) -> list[Line]:
    """At most four lines about AP, mIoU, what is accepted, false alarms, and the parameters.

    Figures are rounded as in the table, false alarms to as many digits as tell them apart; those of several models
    stand in their order, of many the lowest and highest.
    More false alarms, and present concepts that are missed, are named whatever else there is to say.
    """
    table = rows(metrics, models)
    chosen = _judged([row for row in table if not is_kept(row)])
    cells = [cell for row in chosen for cell in row.cells]
    cost = _cost(metrics, models)
    if not any(cell.value is not None for cell in cells):
        return [Line("Measured", "neither an AP nor an mIoU"), *cost]
    if not any(cell.difference is not None for cell in cells):
        return [Line("Measured", _values(chosen, models)), *cost]
    tested = any(cell.interval for cell in cells)
    found = {sign: _changes(chosen, models, sign, tested) for sign in (1, -1)}
    if not any(found.values()):
        return [Line("Same", _unmoved(chosen, models, tested)), *_agreement(table), *cost]
    none = "nothing beyond chance" if tested else "nothing"
    lines = []
    for sign, label in ((1, "Better" if tested else "Higher"), (-1, "Worse" if tested else "Lower")):
        text = _joined(found[sign]) or none
        lines.append(Line(label, text, label.lower() if tested and found[sign] else ""))
    return [*lines, *_agreement(table), *cost]


def _agreement(table: Sequence[Row]) -> list[Line]:
    """How much of the base's own answers is kept, where that was measured; it can only be less than all."""
    found = [row for row in table if is_kept(row) and row.metric.key == "segm/AP"]
    what = "mask AP with the base's own answers as the truth"
    lines = []
    for row in found:
        if row.base is not None:  # where a protocol spares prompts, the base itself may miss some of its answers
            of_base = "all are kept" if row.base > _ALL else "the base as it is scored"
            lines.append(Line("Agreement", f"{what} ({number(row.base, 3)}: {of_base}): {_figures(row, row.cells)}"))
    return lines


def dial_headline(front: DialFront) -> list[Line]:
    """What a front along the dial shows of the metric that is to be gained, and where the conditions hold."""
    gain, last = front.rule.metric, max(front.metrics)
    ends = [dial for dial in dict.fromkeys((1.0, last)) if dial in front.metrics]
    reached = ", ".join(
        f"{number(value(front.metrics[dial], gain), 3)} at {dial:g}{', as trained' if dial == 1.0 else ''}"
        for dial in ends
    )
    lines = [Line("Gain", f"{gain} from {number(value(front.base, gain), 3)} with the base to {reached}")]
    if front.rule.conditions:
        kept = [f"{dial:g}" for dial in front.metrics if front.keeps(dial)]
        lines.append(Line("Kept", f"{front.rule.where} at dial {', '.join(kept) or 'none'}"))
    return lines


def _judged(table: Sequence[Row]) -> list[Row]:
    """One AP for each granularity or split of a data set, one mIoU for each data set, and presence."""
    places = {(row.metric.key, row.scope) for row in table}
    chosen: dict[tuple[str, tuple[str, ...]], Row] = {}
    for row in table:
        kind, scope = row.metric.key, row.scope
        empty = row.base is None and all(cell.value is None for cell in row.cells)
        if empty or (kind == "bbox/AP" and ("segm/AP", scope) in places):
            continue
        if kind == "mIoU":
            chosen.setdefault((kind, scope[:1]), row)
        elif kind in _AP:
            is_split = any(key == kind and other[:1] == scope[:1] and other[1:] for key, other in places)
            if (scope[1:] or not is_split) and not is_subset(row, table):
                chosen["AP", scope] = row
        elif kind in _PRESENCE and not is_subset(row, table):
            chosen[kind, scope] = row
    return list(chosen.values())


def _changes(table: Sequence[Row], models: Sequence[str], sign: int, tested: bool) -> list[_Change]:
    """The rows that rose or fell, by `_Change.rank`; of each kind of presence the one largest."""
    several = len({row.scope[:1] for row in table}) > 1
    accepted = {row.scope: row.base for row in table if row.metric.key == PRESENT}
    found = []
    for row in table:
        if moved := tuple(cell for cell in row.cells if _moved(cell, sign, tested)):
            text, of_base = _clause(row, row.cells, several), accepted.get(row.scope)
            if row.metric.key == ABSENT and of_base is not None and of_base < UNMOVED:
                text += " (the base accepts none)"  # so that it rejects all says nothing of it
            found.append(_Change(row, moved, text, _who(row, moved, models)))
    found.sort(key=lambda one: one.rank)
    if len(models) > 1:  # of all concepts, as in the table at a glance
        found.sort(key=lambda one: one.is_presence and bool(one.row.scope[1:]))
    firsts = {one.row.metric.key: one for one in reversed(found) if one.is_presence}
    return [one for one in found if not one.is_presence or one is firsts[one.row.metric.key]]


def _who(row: Row, moved: Sequence[Cell], models: Sequence[str]) -> str:
    """Which of several models moved: the name of one, the number of more."""
    if len(models) < 2:
        return ""
    if len(moved) == 1:
        return f"{models[next(k for k, cell in enumerate(row.cells) if cell is moved[0])]} alone"
    if len(moved) == len(models):
        return "both models" if len(models) == 2 else f"all {len(models)} models"
    return f"{len(moved)} of {len(models)} models"


def _moved(cell: Cell, sign: int, tested: bool) -> bool:
    if tested:
        return cell.verdict == ("better" if sign > 0 else "worse")
    return cell.difference is not None and sign * cell.difference >= UNMOVED


def _joined(changes: Sequence[_Change]) -> str:
    """Clauses as far as they fit a line, after the models they are of: an AP or mIoU, presence, and others."""
    presence = [one for one in changes if one.is_presence]
    measured = [one for one in changes if not one.is_presence]
    ordered = [*measured[:1], *presence, *measured[1:]]
    if not ordered:
        return ""

    def text(count: int, with_interval: bool) -> str:
        clauses, of_models = list[str](), ""
        for k, one in enumerate(ordered[:count]):
            interval = _interval(one.row, one.moved[0]) if with_interval and not k and not one.of_models else ""
            whose = f"{one.of_models}: " if one.of_models != of_models else ""
            clauses.append(whose + one.text + interval)
            of_models = one.of_models
        left = 0 if ordered[0].of_models else len(ordered) - count  # of several models a table stands below
        return "; ".join(clauses + ([count_of(left, "more measure")] if left else []))

    least = 2 if len(ordered) > 1 and ordered[1].is_presence else 1
    fitting = [k for k in range(least, len(ordered) + 1) if len(text(k, True)) <= LENGTH]
    if fitting:
        return text(fitting[-1], True)
    return text(least, with_interval=least == 1)  # what is named whatever else there is takes the interval's place


def _clause(row: Row, cells: Sequence[Cell], several: bool) -> str:
    """A metric of the base and of models."""
    return f"{_label(row, several)} {_figure(row, row.base)} → {_figures(row, cells)}"


def _figures(row: Row, cells: Sequence[Cell]) -> str:
    """The values of a few models each in their order, of more the lowest and the highest."""
    if len(cells) <= _NAMED:
        return " / ".join(_figure(row, cell.value) for cell in cells)
    found = sorted((cell.value for cell in cells if cell.value is not None), reverse=row.metric.key == ABSENT)
    return " … ".join(_figure(row, x) for x in (found[0], found[-1]))


def _figure(row: Row, x: float | None) -> str:
    """A value of a row; of absent concepts the false alarms, whose rate .998 and .994 would hide."""
    return number(x, 3) if row.metric.key != ABSENT or x is None else percent(1.0 - x)


def _interval(row: Row, cell: Cell) -> str:
    """The interval of a difference in parentheses, in the unit of the row's figures; "" without one."""
    if cell.interval is None:
        return ""
    low, high = cell.interval
    return f" ({points_between((-high, -low)) if row.metric.key == ABSENT else between((low, high))})"


def _label(row: Row, several: bool) -> str:
    """The metric and what it is of, for people: `held_out_parts` as "held-out parts mask AP"."""
    key, inner = row.metric.key, " ".join(map(in_words, row.scope[1:]))
    if key in _PRESENCE:
        what = f"{inner}s" if inner in GRANULARITIES else inner
        label = _PRESENCE[key].format(what if what.endswith("s") else f"{what} concepts".strip())
        label = "false alarms" if key == ABSENT and not inner else label
    elif key in _AP:
        label = f"{inner} {_AP[key]}".strip()
    else:
        label = f"mIoU ({inner})" if inner else row.metric.name
    return f"{label} on {data_set(row.scope)}" if several else label


def _unmoved(table: Sequence[Row], models: Sequence[str], tested: bool) -> str:
    """That nothing moved, with the largest difference there is."""
    several = len({row.scope[:1] for row in table}) > 1
    pairs = [(row, cell) for row in table for cell in row.cells if cell.difference is not None]
    row, cell = max(pairs, key=lambda pair: abs(pair[1].difference or 0.0))
    name = f" with {models[row.cells.index(cell)]}" if len(models) > 1 else ""
    largest = _clause(row, [cell], several) + name
    if not any(cell.open for _, cell in pairs):
        return f"nothing moved: at most {largest}"
    said = f"no difference {'beyond chance' if tested else 'was tested'}; the largest is {largest}"
    return said + _interval(row, cell)


def _values(table: Sequence[Row], models: Sequence[str]) -> str:
    several = len({row.scope[:1] for row in table}) > 1
    clauses: list[str] = []
    for row in sorted(table, key=lambda row: row.metric.key in _PRESENCE):
        values = [_figure(row, cell.value) for cell in row.cells]
        if len(models) > 1:
            values = [f"{text} with {name}" for text, name in zip(values, models, strict=True)]
        clause = f"{_label(row, several)} {', '.join(values)}"
        if clauses and len("; ".join([*clauses, clause])) > LENGTH:
            break
        clauses.append(clause)
    left = len(table) - len(clauses)
    return "; ".join(clauses + ([f"{left} more"] if left else []))


def _cost(metrics: Mapping[str, float], models: Sequence[str]) -> list[Line]:
    """Parameters that were added, and steps and time of the training; no line where neither is known."""
    clauses = []
    if len(models) > 1:
        added = {name: value(metrics, f"{name}/params/added") for name in models}
        names: dict[float, list[str]] = {}
        for name, count in added.items():
            if count:
                names.setdefault(count, []).append(name)
        if len(names) == 1:
            clauses.append(f"{next(iter(names)):,.0f} added parameters each")
        elif len(names) > _NAMED:
            clauses.append(f"{min(names):,.0f} to {max(names):,.0f} added parameters")
        elif names:
            of_models = [f"{count:,.0f} ({', '.join(names[count])})" for count in sorted(names)]
            clauses.append(f"{', '.join(of_models)} added parameters")
    elif added_alone := value(metrics, "params/added"):
        ratio = value(metrics, "params/added_ratio")
        clauses.append(f"{added_alone:,.0f} added parameters{f', {100 * ratio:.2g} % of the base' if ratio else ''}")
    if steps := value(metrics, "train/steps"):
        seconds = value(metrics, "train/seconds")
        clauses.append(count_of(int(steps), "step") + (f" in {duration(seconds)}" if seconds else ""))
    return [Line(COST, "; ".join(clauses))] if clauses else []


def duration(seconds: float) -> str:
    """Seconds for people: 5 min 11 s, 3 h 2 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"
