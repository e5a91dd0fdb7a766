"""The summary of a comparison in one sentence, worded by the sign and size of each difference and its interval."""

from collections.abc import Mapping, Sequence

from sam3_hyperet.evaluation.dial import DialFront
from sam3_hyperet.report.tables import GRANULARITIES, UNMOVED, Cell, Row, between, data_set, number, rows, signed, value

SMALL = 0.02  # a difference up to here is called small
_MOST = 5  # clauses about AP and mIoU; a sentence of more is read by nobody
_ABSENT = "presence/accuracy_absent"
_INTERVAL = "95 % interval "


def summary(metrics: Mapping[str, float], models: Sequence[str] = ()) -> str:
    """What adaptation did to AP and mIoU; false alarms on absent prompts where they rose; what it cost.

    A difference whose 95 % interval holds 0 is called no clear change.
    """
    table = rows(metrics, models)
    chosen = _summary_rows(table)
    several = len({row.scope[:1] for row in chosen}) > 1
    clauses = [_best_of(row, models, several) if models else _change(row, several) for row in chosen[:_MOST]]
    if len(chosen) > _MOST:
        clauses.append(f"{len(chosen) - _MOST} more below")
    alarms = _false_alarms(table, models)
    verdicts = {cell.verdict for row in chosen for cell in row.cells} | ({"worse"} if alarms else set())
    opening = ""
    if not clauses:
        clauses = ["neither an AP nor an mIoU was measured"]
    elif verdicts == {"same"}:
        unclear = any(cell.open for row in chosen for cell in row.cells)
        opening = "No difference is beyond chance: " if unclear else "Adaptation moved nothing: "
    elif verdicts == {"worse"}:
        opening = "Adaptation made it worse: "
    if alarms:
        clauses.append(f"but {alarms}" if "better" in verdicts else alarms)
    if (added := value(metrics, "params/added")) is not None:
        ratio = value(metrics, "params/added_ratio")
        fraction = "" if ratio is None else f" ({100 * ratio:.2g} % of the base)"
        clauses.append(f"{added:,.0f} added parameters{fraction}")
    if chosen and all(row.base is None for row in chosen):
        clauses.append("the base model was not evaluated beside it")
    before, interval, after = f"{opening}{'; '.join(clauses)}.".partition(_INTERVAL)
    sentence = before + interval + after.replace(_INTERVAL, "")  # only the first interval is named
    return sentence if sentence.startswith("mIoU") else sentence[0].upper() + sentence[1:]


def dial_summary(front: DialFront) -> str:
    """What a front along the dial shows of the metric that is to be gained, and where the conditions hold."""
    gain, last = front.rule.metric, max(front.metrics)
    ends = [dial for dial in dict.fromkeys((1.0, last)) if dial in front.metrics]
    reached = " and ".join(
        f"{number(value(front.metrics[dial], gain))} at {dial:g}{', as trained' if dial == 1.0 else ''}"
        for dial in ends
    )
    sentence = f"Along the dial, {gain} goes from {number(value(front.base, gain))} with the base to {reached}"
    if not front.rule.conditions:
        return f"{sentence}."
    kept = [f"{dial:g}" for dial in front.metrics if front.keeps(dial)]
    return f"{sentence}; {front.rule.where} holds at {', '.join(kept) or 'none'}."


def _summary_rows(table: Sequence[Row]) -> list[Row]:
    """One AP for each granularity or split of a data set, one mIoU for each data set; large changes first."""
    places = {(row.metric.key, row.scope) for row in table}
    chosen: dict[tuple[str, tuple[str, ...]], Row] = {}
    for row in table:
        kind, scope = row.metric.key, row.scope
        empty = row.base is None and all(cell.value is None for cell in row.cells)
        if empty or (kind == "bbox/AP" and ("segm/AP", scope) in places):
            continue
        if kind == "mIoU":
            chosen.setdefault((kind, scope[:1]), row)
        elif kind in ("segm/AP", "bbox/AP"):
            is_split = any(key == kind and other[:1] == scope[:1] and other[1:] for key, other in places)
            if scope[1:] or not is_split:
                chosen["AP", scope] = row
    return sorted(chosen.values(), key=lambda row: (row.metric.key == "mIoU", -_largest_change(row)))


def _largest_change(row: Row) -> float:
    return max(abs(cell.difference or 0.0) for cell in row.cells)


def _label(row: Row, several: bool) -> str:
    kind = {"segm/AP": "AP", "bbox/AP": "box AP"}.get(row.metric.key, row.metric.name)
    inner = " ".join(row.scope[1:])
    if kind == "mIoU":
        label = f"mIoU ({inner})" if inner else "mIoU"
    else:
        label = f"{inner}-level {kind}" if inner in GRANULARITIES else f"{inner} {kind}".strip()
    return f"{label} on {data_set(row.scope)}" if several or not inner or kind == "mIoU" else label


def _change(row: Row, several: bool) -> str:
    """One adapted model beside the base."""
    label, base, cell = _label(row, several), row.base, row.cells[0]
    if cell.value is None:
        return f"{label} could not be computed for the adapted model (base {number(base)})"
    if base is None or cell.difference is None:
        return f"{label} is {number(cell.value)}"
    if abs(cell.difference) < UNMOVED:
        a, b = number(base, 3), number(cell.value, 3)
        return f"{label} stayed at {b}" if a == b else f"{label} hardly moved ({a} to {b})"
    digits = 3 if abs(cell.difference) < SMALL else 2
    if cell.open and cell.interval:
        moved = f"{number(base, digits)} to {number(cell.value, digits)}"
        return f"{label} shows no clear change ({moved}{_interval(cell, digits)})"
    rose, fell = ("edged up", "slipped") if abs(cell.difference) < SMALL else ("rose", "fell")
    verb = rose if cell.difference > 0 else fell
    return f"{label} {verb} from {number(base, digits)} to {number(cell.value, digits)} ({_step(row, cell, digits)})"


def _best_of(row: Row, models: Sequence[str], several: bool) -> str:
    """The best of several adapted models beside the base."""
    label = _label(row, several)
    found = [(cell.value, name, cell) for name, cell in zip(models, row.cells, strict=True) if cell.value is not None]
    if not found:
        return f"{label} could not be computed for any adapted model (base {number(row.base)})"
    best, name, cell = max(found, key=lambda one: one[0])
    if row.base is None or cell.difference is None:
        return f"{label} is highest with {name} ({number(best)})"
    if _largest_change(row) < UNMOVED:
        return f"{label} stays at {number(row.base, 3)} with every model"
    digits = 3 if abs(cell.difference) < SMALL else 2
    highest, base, interval = number(best, digits), number(row.base, digits), _interval(cell, digits)
    if cell.verdict == "better":
        return f"{label} is highest with {name}: {highest}, base {base} ({_step(row, cell, digits)})"
    if cell.verdict == "same":
        return f"no model clearly raises {label} (best: {highest} with {name}, base {base}{interval})"
    return f"every model lowers {label} (least {name}: {highest}, base {base}{interval})"


def _false_alarms(table: Sequence[Row], models: Sequence[str]) -> str:
    """Where the fraction of absent prompts with false alarms rose; "" where it did with no model."""
    rose = [row for row in table if row.metric.key == _ABSENT and any(cell.verdict == "worse" for cell in row.cells)]
    if not rose:
        return ""
    row = min(rose, key=lambda row: (len(row.scope), _lowest(row)))
    worst = min((other for other in rose if other.scope[:1] == row.scope[:1]), key=_lowest)
    of = " ".join(row.scope[1:])
    clause = f"false alarms on absent {of + ' ' if of else ''}prompts rose from {_alarms(row.base)} to "
    if models:
        worse = [(name, cell.value) for name, cell in zip(models, row.cells, strict=True) if cell.verdict == "worse"]
        return clause + ", ".join(f"{_alarms(right)} with {name}" for name, right in worse)
    clause += _alarms(row.cells[0].value)
    if worst is row:
        return clause
    return f"{clause} ({' '.join(worst.scope[1:])} prompts: {_alarms(worst.base)} to {_alarms(worst.cells[0].value)})"


def _lowest(row: Row) -> float:
    return min(cell.difference or 0.0 for cell in row.cells)


def _alarms(right: float | None) -> str:
    percent = 100 * (1 - (right or 0.0))
    return f"{f'{percent:.{0 if percent > 1 else 1}f}'.removesuffix('.0')} %"


def _step(row: Row, cell: Cell, digits: int) -> str:
    step = round(cell.value or 0.0, digits) - round(row.base or 0.0, digits)  # so that the sentence adds up
    return signed(step, digits) + _interval(cell, digits)


def _interval(cell: Cell, digits: int) -> str:
    return f", {_INTERVAL}{between(cell.interval, digits)}" if cell.interval else ""
