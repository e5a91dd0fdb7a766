"""The runs of a plan: their order, what identifies them, which are left, and how long these will take."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from sam3_hyperet.ablation.plan import GAIN, Plan
from sam3_hyperet.ablation.rows import ALL_IMAGES, TRIALS, Layout, Row, cell, number
from sam3_hyperet.errors import ConfigError

_OFF: tuple[object, ...] = (None, False, 0, 0.0, "", "none", (), [], {})


@dataclass(frozen=True)
class Run:
    """An arm on a base, with a seed and so many images; or a trial of options for the arm, `tuned`."""

    plan: str
    data: str
    base: str
    arm: str
    seed: int
    images: int
    tuned: tuple[str, ...] = ()
    is_trial: bool = False

    @property
    def cells(self) -> dict[str, str]:
        """The cells of its row that name it."""
        images = str(self.images) if self.images else ALL_IMAGES
        named = {name: cell(getattr(self, name)) for name in ("plan", "data", "base", "arm", "seed")}
        return {**named, "images": images, "tuned": " ".join(self.tuned)}

    def key(self, layout: Layout) -> tuple[str, ...]:
        """What names its row."""
        return layout.key_of(self.cells)

    @property
    def name(self) -> str:
        """A name for its folder and its row file."""
        parts = [self.data, self.base, self.arm, f"seed{self.seed}", *([f"{self.images}images"] if self.images else [])]
        tried = (one.partition("=") for one in self.tuned if self.is_trial)
        text = "_".join([*parts, *(f"{name.rpartition('.')[2]}{value}" for name, _, value in tried)])
        return "".join(one if one.isalnum() or one in "._+-" else "-" for one in text)


def runs_of(plan: Plan) -> list[Run]:
    """All runs, seeds outermost: a study that is cut off has complete pairs."""
    return [
        Run(plan.name, data, base, arm, seed, images)
        for seed in plan.seeds
        for images in plan.images
        for data, world in plan.data.items()
        for base in world.bases
        for arm in plan.arms
    ]


def trials_of(plan: Plan) -> list[Run]:
    """The trials by which the arms are tuned, equally many for each arm; none where nothing is tuned."""
    choices = [plan.tune.tried(name) for name in plan.tune.options]
    combinations = list(itertools.product(*choices)) if choices else []
    return [
        Run(plan.name, data, next(iter(world.bases)), arm, plan.tune.seed, 0, combination, is_trial=True)
        for data, world in plan.data.items()
        for combination in combinations
        for arm in plan.arms
    ]


def chosen_options(trials: Iterable[Run], rows: Iterable[Row]) -> dict[tuple[str, str], tuple[str, ...]]:
    """The options of the best trial by (data, arm): the largest gain, of equal ones the first that was listed."""
    found = {TRIALS.key_of(row): row for row in rows}
    best: dict[tuple[str, str], tuple[float, tuple[str, ...]]] = {}
    for trial in trials:
        if (row := found.get(trial.key(TRIALS))) is None:
            continue
        value, place = number(row, GAIN), (trial.data, trial.arm)
        value = -math.inf if math.isnan(value) else value
        if place not in best or value > best[place][0]:
            best[place] = value, trial.tuned
    return {place: options for place, (_, options) in best.items()}


def at_the_edge(plan: Plan, chosen: Mapping[tuple[str, str], tuple[str, ...]]) -> Iterator[str]:
    """A line for each arm whose best value of an option is the first or the last of those tried."""
    for (data, arm), options in chosen.items():
        for option in options:
            name = option.partition("=")[0]
            tried = plan.tune.tried(name)
            if len(tried) > 2 and option in (tried[0], tried[-1]):
                yield f"{data}, {arm}: {option} is at the edge of the {len(tried)} values that were tried"


def identity_of(values: Mapping[str, object]) -> str:
    """A digest of all that decides a row, by option.

    Options that are off (null, false, 0, none, empty) are left out, so that one that a later version adds changes none.
    """
    kept = {name: value for name, value in values.items() if not any(value is off or value == off for off in _OFF)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:12]


def missing(identities: Mapping[Run, str], rows: Sequence[Row], layout: Layout, changed: str) -> list[Run]:
    """The runs without a row, in their order; with `changed` "rerun" also those whose row is of other options.

    With "keep" such rows stay as they are. Raises ConfigError for them with "refuse".
    """
    found = {layout.key_of(row): row.get("identity", "") for row in rows}
    stale = [run for run, identity in identities.items() if found.get(run.key(layout), identity) != identity]
    if stale and changed == "refuse":
        named = ", ".join("/".join(run.key(layout)[1:]) for run in stale[:3])
        found_there = f"{named}{' …' if len(stale) > 3 else ''}"
        why = "were measured with other options, base weights or metrics than the plan now has"
        remedy = "changed=rerun to replace them, changed=keep to leave them, or another name for the plan"
        raise ConfigError(f"{len(stale)} of {len(found)} rows {why}: {found_there}; expected {remedy}")
    again = set(stale) if changed == "rerun" else set()
    return [run for run in identities if run in again or run.key(layout) not in found]


def expected_seconds(runs: Iterable[Run], rows: Iterable[Row]) -> float | None:
    """How long runs will take by rows that are there: by those of their arm, else by all; None without any."""
    by_arm: dict[str, list[float]] = {}
    for row in rows:
        if not math.isnan(seconds := number(row, "seconds")):
            by_arm.setdefault(row["arm"], []).append(seconds)
    if not by_arm:
        return None
    every = fmean(one for arm in by_arm.values() for one in arm)
    return sum(fmean(by_arm[run.arm]) if run.arm in by_arm else every for run in runs)


def with_options(run: Run, chosen: Mapping[tuple[str, str], tuple[str, ...]]) -> Run:
    """A run with the options that the trials have chosen for its arm."""
    return replace(run, tuned=chosen.get((run.data, run.arm), ()))
