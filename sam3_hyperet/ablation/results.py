"""The results of a plan: its rows as numbers, checked, with what was left out."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from sam3_hyperet.ablation.plan import GAIN, LOST, Plan, World
from sam3_hyperet.ablation.rows import ALL_IMAGES, RUNS, Row, name_of, number, read_rows
from sam3_hyperet.errors import DataError
from sam3_hyperet.reading import regular_file
from sam3_hyperet.wording import count_of

BASE, UNDIALLED = "@base", "@1"  # behind a metric's name: the base's, and the adapter's at dial 1
COSTS = ("parameters", "dial", "train_seconds", "peak_gib")  # numbers of every row beside the metrics
_SETUP = ("adapter", "sites", "geometry", "structure", "gate", "parameters")  # the same in all runs of an arm
_REMEDY = "remove the row, and the run's file in rows/ of the study, and `ablate` makes that run again"
_STALE = "plan with other options than it has now"
_SAME_BASE = 0.01  # the most by which a base's own metric may differ between rows: devices and precisions differ


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        tuned: the options that the trials have chosen for its arm, or "".
        values: `gain`, `lost`, both also with `@1`; and the metrics of its world, their `@base`, and `COSTS`, of which
            those that were not measured are NaN.
    """

    data: str
    base: str
    arm: str
    seed: str
    images: str
    tuned: str
    values: Mapping[str, float]

    @property
    def pair(self) -> tuple[str, str]:
        """What two arms have in common within a setting."""
        return self.base, self.seed


@dataclass(frozen=True)
class Setting:
    """A world and a number of training images: arms are compared within one."""

    data: str
    images: str

    @property
    def name(self) -> str:
        return self.data if self.images == ALL_IMAGES else f"{self.data}, {count_of(int(self.images), 'image')}"


@dataclass(frozen=True)
class Results:
    """The runs of a plan by setting, in the plan's order, of the settings that have any.

    planned: how many settings the plan has. notes: what of the file was left out or is mixed.
    """

    runs: Mapping[Setting, tuple[Result, ...]]
    planned: int
    notes: tuple[str, ...]


def read_results(path: str | Path, plan: Plan, stale: Collection[tuple[str, ...]] = ()) -> Results:
    """Read and check the rows of a plan, but for the `stale`, by `RUNS.key_of`, which are of other options.

    Raises DataError naming the file and the row: no rows of the plan, a missing column, a metric that is no finite
    number, an arm of two configurations, or a base whose own metrics differ.
    """
    path = regular_file(path)
    rows = read_rows(path)
    own = [row for row in rows if row["plan"] == plan.name]
    amounts = [str(count) if count else ALL_IMAGES for count in plan.images]
    settings = {(data, images): Setting(data, images) for data in plan.data for images in amounts}
    kept, dropped = [], Counter[str]()
    for row in own:
        world = plan.data.get(row["data"])
        if RUNS.key_of(row) in stale:
            dropped[_STALE] += 1
        elif row["arm"] not in plan.arms:
            dropped[f"arm {row['arm']!r}, which the plan does not have"] += 1
        elif world is None or (row["data"], row["images"]) not in settings:
            dropped[f"data {row['data']!r} with {row['images']} images, which the plan does not have"] += 1
        elif row["base"] not in world.bases:
            dropped[f"base {row['base']!r}, which the plan does not have"] += 1
        else:
            kept.append(row)
    if not kept:
        plans = ", ".join(sorted({row["plan"] for row in rows})) or "none"
        found = f"{len(own)} rows of the plan {plan.name!r}, none of which is in it now" if own else f"rows of {plans}"
        raise DataError(f"{path}: {found}; expected finished runs of the plan {plan.name!r}")
    notes = [f"{count_of(n, 'row')} of the {what}" for what, n in sorted(dropped.items())]
    if len(own) < len(rows):
        notes.append(f"{count_of(len(rows) - len(own), 'row')} of other plans")
    notes = [f"left out: {'; '.join(notes)}"] if notes else []
    _check_setup(path, kept)
    names, of_several = _base_names(kept)
    notes += of_several
    runs = [_result(path, row, plan.data[row["data"]], names) for row in kept]
    notes += _check_bases(path, runs, plan)
    if len(versions := sorted({row.get("version", "") for row in kept})) > 1:
        notes.append(f"made by {len(versions)} versions of the code: {', '.join(versions)}")
    order = {arm: place for place, arm in enumerate(plan.arms)}
    runs.sort(key=lambda run: order[run.arm])
    by_setting = {
        setting: tuple(run for run in runs if (run.data, run.images) == key) for key, setting in settings.items()
    }
    return Results({setting: found for setting, found in by_setting.items() if found}, len(settings), tuple(notes))


def _base_names(rows: Sequence[Row]) -> tuple[dict[tuple[str, str, str], str], list[str]]:
    """A base's name by (data, base, digest of its weights), and a note of each name that several bases have.

    A base that a recipe made on two machines is two bases: arms are not compared across them.
    """
    found = dict.fromkeys((row["data"], row["base"], row.get("weights", "")) for row in rows)
    count = Counter((data, base) for data, base, _ in found)
    notes = [
        f"the base {base!r} of {data} has {n} sets of weights, which count as bases of their own"
        for (data, base), n in count.items()
        if n > 1
    ]
    names = {key: key[1] if count[key[:2]] == 1 else f"{key[1]} {key[2][:6]}" for key in found}
    return names, notes


def _result(path: Path, row: Row, world: World, names: Mapping[tuple[str, str, str], str]) -> Result:
    needed = [name + end for name in (GAIN, LOST) for end in ("", UNDIALLED)]
    others = [*COSTS, *(name + end for name in world.metrics for end in ("", BASE))]
    values = {name: _number(path, row, name, needed=True) for name in needed}
    values |= {name: _number(path, row, name) for name in others}
    base = names[row["data"], row["base"], row.get("weights", "")]
    return Result(row["data"], base, row["arm"], row["seed"], row["images"], row.get("tuned", ""), values)


def _number(path: Path, row: Row, column: str, *, needed: bool = False) -> float:
    """A cell as a number; NaN where it is empty and not needed."""
    if needed and column not in row:
        raise DataError(f"{path}: no column {column!r}; expected a file that `ablate` wrote")
    try:
        return number(row, column, needed=needed)
    except DataError as error:
        raise DataError(f"{path}: {error}; {_REMEDY}") from None


def _check_setup(path: Path, rows: Sequence[Row]) -> None:
    first: dict[tuple[str, ...], Row] = {}
    for row in rows:
        for name in _SETUP:
            base = row["base"] if name == "parameters" else ""  # bases may be of several sizes
            other = first.setdefault((name, row["arm"], row["data"], row["images"], base), row)
            if other.get(name) != row.get(name):
                ours, theirs = (f"{one.get(name)!r} in row {name_of(one)}" for one in (other, row))
                remedy = "expected one configuration an arm; give one of them another name, or remove its rows"
                raise DataError(f"{path}: arm {row['arm']!r}: {name} is {ours} and {theirs}; {remedy}")


def _check_bases(path: Path, runs: Iterable[Result], plan: Plan) -> list[str]:
    """A note where a base's own metrics differ a little between its rows."""
    widest = 0.0
    ordered = sorted(runs, key=lambda run: (run.data, run.base))
    for (data, base), group in groupby(ordered, key=lambda run: (run.data, run.base)):
        of_base = list(group)
        for name in plan.data[data].metrics:
            values = [run.values[name + BASE] for run in of_base if not math.isnan(run.values[name + BASE])]
            low, high = min(values, default=0.0), max(values, default=0.0)
            widest = max(widest, high - low)
            if high - low > _SAME_BASE:
                fault = f"{name} of the base {base!r} on {data} is {low:g} in one row and {high:g} in another"
                raise DataError(f"{path}: {fault}; expected one base; remove the rows of the one that is gone")
    return [f"a base's own metrics differ between its runs by up to {widest:.6f}"] if widest > 1e-6 else []
