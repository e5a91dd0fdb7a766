"""The runs of a plan: their order, what identifies them, which are left, and how long these will take."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from sam3_hyperet.ablation.plan import GAIN, Plan, Tuning
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


@dataclass(frozen=True)
class Choice:
    """What the trials of an arm have chosen.

    Attributes:
        best: the options of each trial with the largest gain, in the order of the plan, of which the first are chosen.
        gain: of these trials; -inf where none had a finite loss.
        dials: at which they ended.
    """

    best: tuple[tuple[str, ...], ...]
    gain: float
    dials: tuple[float, ...]

    def remark(self, tuning: Tuning) -> str:
        """A warning of a tie, or of values at the edge of what was tried; "" if there is none."""
        chosen, *equal = self.best
        if equal:
            others = " and ".join(" ".join(one) for one in equal)
            gained = "no finite loss" if math.isinf(self.gain) else f"a gain of {self.gain:+.3f}"
            where = " at dial 0, as the base itself," if not any(self.dials) else ""
            return f"a tie: {others} had {gained}{where} as well; of equal ones the first in the plan is taken"
        tried = [(option, tuning.tried(option.partition("=")[0])) for option in chosen]
        edges = (
            f"{one} is at the edge of the {len(all_)} values that were tried"
            for one, all_ in tried
            if len(all_) > 2 and one in (all_[0], all_[-1])
        )
        return "; ".join(edges)


Choices = Mapping[tuple[str, str], Choice]
"""By (data, arm)."""


def choices_of(trials: Iterable[Run], rows: Iterable[Row]) -> dict[tuple[str, str], Choice]:
    """What the trials that have a row have chosen for each arm, by (data, arm)."""
    found = {TRIALS.key_of(row): row for row in rows}
    tried: dict[tuple[str, str], list[tuple[float, float, tuple[str, ...]]]] = {}
    for trial in trials:
        if (row := found.get(trial.key(TRIALS))) is not None:
            gain = number(row, GAIN)
            place, gain = (trial.data, trial.arm), -math.inf if math.isnan(gain) else gain
            tried.setdefault(place, []).append((gain, number(row, "dial"), trial.tuned))
    choices = {}
    for place, every in tried.items():
        most = max(gain for gain, *_ in every)
        _, dials, best = zip(*(one for one in every if one[0] == most), strict=True)
        choices[place] = Choice(best, most, dials)
    return choices


def choice_lines(plan: Plan, choices: Choices) -> Iterator[str]:
    """The options that were chosen for each arm, with a warning of ties and edges."""
    for (data, arm), choice in choices.items():
        remark = choice.remark(plan.tune)
        yield f"tuned: {data}, {arm}: {' '.join(choice.best[0])}" + (f" (warning: {remark})" if remark else "")


def identity_of(values: Mapping[str, object]) -> str:
    """A digest of all that decides a row, by option.

    Options that are off (null, false, 0, none, empty) are left out, so that one that a later version adds changes none.
    """
    kept = {name: value for name, value in values.items() if not any(value is off or value == off for off in _OFF)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:12]


def stale(identities: Mapping[Run, str], rows: Sequence[Row], layout: Layout) -> list[Run]:
    """The runs whose row is of other options, in their order."""
    found = {layout.key_of(row): row.get("identity", "") for row in rows}
    return [run for run, identity in identities.items() if found.get(run.key(layout), identity) != identity]


def missing(identities: Mapping[Run, str], rows: Sequence[Row], layout: Layout, changed: str) -> list[Run]:
    """The runs without a row, in their order; with `changed` "rerun" also those whose row is of other options.

    With "keep" such rows stay as they are. Raises ConfigError for them with "refuse".
    """
    found, others = {layout.key_of(row) for row in rows}, stale(identities, rows, layout)
    if others and changed == "refuse":
        named = ", ".join("/".join(run.key(layout)[1:]) for run in others[:3])
        found_there = f"{named}{' …' if len(others) > 3 else ''}"
        why = "were measured with other options, base weights or metrics than the plan now has"
        remedy = "changed=rerun to replace them, changed=keep to leave them, or another name for the plan"
        raise ConfigError(f"{len(others)} of {len(found)} rows {why}: {found_there}; expected {remedy}")
    again = set(others) if changed == "rerun" else set()
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


def with_options(run: Run, choices: Choices) -> Run:
    """A run with the options that the trials have chosen for its arm."""
    choice = choices.get((run.data, run.arm))
    return replace(run, tuned=choice.best[0] if choice else ())
