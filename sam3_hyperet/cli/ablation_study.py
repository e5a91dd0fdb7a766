"""A study: its plan, the part of it that is run, its runs as configurations, and its rows; without torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console

from sam3_hyperet.ablation.plan import Plan, Tuning, read_plan
from sam3_hyperet.ablation.rows import RUNS, TRIALS, Layout, gather, leave_row, read_rows, row_folder, trials_file
from sam3_hyperet.ablation.runs import Choice, Run, choices_of, missing, runs_of, stale, trials_of, with_options
from sam3_hyperet.cli.ablation_configs import Composer
from sam3_hyperet.cli.command import CONFIGS, parse_command
from sam3_hyperet.cli.composition import groups_of, unknown
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.options import close
from sam3_hyperet.wording import count_of

LOG = "log.txt"
"""What a run or the making of a base prints, in its folder."""
_PLANS = CONFIGS / "ablation"
_OF_BOTH = ("paths",)


@dataclass
class Study:
    """A plan with the part of it that is to be run, and where its rows are.

    Attributes:
        plan: all of it, which the table is of. part: the arms, bases, seeds to run.
        trials: of the part's arms, on the plan's first bases.
    """

    plan: Plan
    part: Plan
    composer: Composer
    folder: Path
    csv: Path
    options: DictConfig
    say: Callable[[str], None]

    @property
    def trials(self) -> list[Run]:
        """The trials by which the arms of the part are tuned."""
        return trials_of(self.plan.restricted({"only": list(self.part.arms), "worlds": list(self.part.data)}))

    def rows(self, layout: Layout) -> list[dict[str, str]]:
        """All rows of runs or of trials, of the CSV and of row files."""
        return gather(self.file(layout), row_folder(self.folder, layout), layout)

    def file(self, layout: Layout) -> Path:
        """The CSV of runs, or that of trials."""
        return _of(self.csv, layout)

    def choices(self) -> dict[tuple[str, str], Choice]:
        """What the trials have chosen for each arm of the part that has all of its trials, by (data, arm)."""
        untuned = self._untuned()
        tried = [trial for trial in self.trials if (trial.data, trial.arm) not in untuned]
        return choices_of(tried, self.rows(TRIALS))

    def left(self, layout: Layout) -> list[Run]:
        """The runs, or the trials, without a row that is theirs. Raises ConfigError as `missing`.

        Of an arm that lacks trials, which options its runs have is open: any row is theirs.
        """
        if layout is TRIALS:
            return self._missing(self.trials, TRIALS)
        untuned, choices = self._untuned(), self.choices()
        runs = [with_options(run, choices) for run in runs_of(self.part)]
        there = {RUNS.key_of(row) for row in self.rows(RUNS)}
        left = set(self._missing([run for run in runs if (run.data, run.arm) not in untuned], RUNS))
        left |= {run for run in runs if (run.data, run.arm) in untuned and run.key(RUNS) not in there}
        return [run for run in runs if run in left]

    def ready(self, layout: Layout) -> list[Run]:
        """Those left whose base is there and, of runs, whose arm has all of its trials."""
        unmade, untuned = set(self.bases_left()), self._untuned() if layout is RUNS else set()
        return [
            run
            for run in self.left(layout)
            if (run.data, run.base) not in unmade and (run.data, run.arm) not in untuned
        ]

    def take_over(self) -> Iterator[str]:
        """Take the rows of other studies, `reuse`, that are those of runs and trials left; says how many.

        They are the same by all that decides a row, whatever plan and arm are called there. A run with a row of other
        options is made again: of the two rows the later counts. Raises ConfigError for a file that is not there.
        """
        files = [Path(name) for name in _listed("reuse", self.options.reuse) or ()]
        if absent := [file for file in files if not file.is_file()]:
            raise ConfigError(f"reuse={absent[0]}: no such file; expected the CSV of another study")
        for layout, noun in ((TRIALS, "trial"), (RUNS, "run")):
            untuned, taken = self._untuned(), 0
            there = {layout.key_of(row) for row in self.rows(layout)}
            others = (row for file in files for row in read_rows(_of(file, layout), layout))
            found = {row["identity"]: row for row in others if row.get("identity")}
            for run in self.left(layout):
                is_known = run.key(layout) not in there and (layout is TRIALS or (run.data, run.arm) not in untuned)
                if is_known and (row := found.get(self.composer.identity(run))):
                    leave_row(row_folder(self.folder, layout), run.name, {**row, **run.cells})
                    taken += 1
            if taken:
                yield f"{count_of(taken, noun)} taken over from {', '.join(map(str, files))}"

    def _untuned(self) -> set[tuple[str, str]]:
        return {(trial.data, trial.arm) for trial in self.left(TRIALS)}

    def _missing(self, runs: Sequence[Run], layout: Layout) -> list[Run]:
        identities = {run: self.composer.identity(run) for run in runs}
        return missing(identities, self.rows(layout), layout, self.options.changed)

    def stale(self) -> list[Run]:
        """The runs of the whole plan whose row is of other options; of arms that lack trials none.

        Raises ConfigError and CheckpointError where the options of one cannot be known.
        """
        options = self.options.copy()
        options.changed = "keep"
        whole = replace(self, part=self.plan, options=options)
        there = {RUNS.key_of(row) for row in self.rows(RUNS)}
        runs = [run for run in runs_of(self.plan) if run.key(RUNS) in there]
        untuned, choices = (whole._untuned(), whole.choices()) if runs else (set(), {})
        tuned = [with_options(run, choices) for run in runs if (run.data, run.arm) not in untuned]
        return stale({run: self.composer.identity(run) for run in tuned}, self.rows(RUNS), RUNS)

    def bases_left(self) -> list[tuple[str, str]]:
        """The bases of the part, and of its trials, that a recipe is still to make."""
        wanted = dict.fromkeys((run.data, run.base) for run in (*self.trials, *runs_of(self.part)))
        return [place for place in wanted if self.composer.base(*place) and not self.composer.has_base(*place)]

    def check(self) -> None:
        """Compose every run and trial. Raises ConfigError for one that cannot be and for two arms that are the same."""
        runs = runs_of(self.part)
        for run in (*self.trials, *runs):
            self.composer.values(run)
        self._check_arms([run for run in runs if (run.seed, run.images) == (runs[0].seed, runs[0].images)])

    def _check_arms(self, runs: Sequence[Run]) -> None:
        """Raise a ConfigError for two arms whose runs on a base are the same."""
        arms: dict[tuple[str, ...], str] = {}
        for run in runs:
            same = arms.setdefault((run.data, run.base, self.composer.identity(run)), run.arm)
            if same != run.arm:
                found = f"{run.data}, {run.base}: the arms {same} and {run.arm} do not differ in what decides a row"
                raise ConfigError(f"{found}; expected arms of different options, or one of the two")

    def job(self, run: Run) -> DictConfig:
        """The configuration of a run, with what its row needs."""
        world = self.plan.data[run.data]
        config = self.composer.run(run)
        config.ablation = {
            "cells": run.cells,
            "identity": self.composer.identity(run),
            "trained": self.composer.trained(run),
            "base": {split: self.composer.base_score(run, split) for split in ("tune", "val")},
            "rule": world.rule(self.plan.dial),
            "grid": list(self.plan.dial.grid),
            "metrics": dict(world.metrics),
            "gain": world.gain,
            "lost": world.lost,
            "folder": str(self.folder),
            "is_trial": run.is_trial,
            "keep": bool(self.options.keep),
        }
        config.launcher = self.options.launcher
        return config


def _of(csv: Path, layout: Layout) -> Path:
    return csv if layout is RUNS else trials_file(csv)


def open_study(argv: list[str]) -> Study:
    """The study that a command line describes, its whole plan composed and checked. Raises ConfigError."""
    own, given = split_arguments(argv)
    _, options = parse_command("ablate", own)
    plan = read_plan(plan_file(str(options.plan)))
    if not options.tune:
        plan = replace(plan, tune=Tuning())
    chosen = {name: _listed(name, options[name]) for name in ("only", "worlds", "bases")}
    numbers = {name: _numbers(name, options[name]) for name in ("seeds", "images")}
    folder = Path(options.run_dir or f"runs/ablate-{plan.name}")
    csv = Path(options.csv) if options.csv else folder / f"{plan.name}.csv"
    if csv.suffix != ".csv":
        raise ConfigError(f"csv={csv}; expected a file *.csv")
    say = partial(Console(highlight=False).print, markup=False, soft_wrap=True)
    part = plan.restricted({**chosen, **numbers})
    return Study(plan, part, Composer(plan, given, folder), folder, csv, options, say)


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of `ablate` itself, and those of `train`, for every run; `paths` belongs to both."""
    (own_keys, train_keys), own, given = (_keys(tool) for tool in ("ablate", "train")), [], []
    for argument in argv:
        key, is_assignment, _ = argument.partition("=")
        section = key.partition(".")[0]
        if not is_assignment or section in own_keys:
            own.append(argument)
        elif section not in train_keys:
            raise ConfigError(unknown("ablate: key", key, [*own_keys, "and what train has"]))
        if is_assignment and (section not in own_keys or section in _OF_BOTH):
            given.append(argument)
    return own, given


def _keys(tool: str) -> list[str]:
    file = CONFIGS / f"{tool}.yaml"
    return [*(str(key) for key in OmegaConf.load(file) if key != "defaults"), *groups_of(file)]


def plan_file(name: str) -> Path:
    """The file of a plan, named or given. Raises ConfigError for another name."""
    if name.endswith((".yaml", ".yml")):
        return Path(name).expanduser()
    names = sorted(file.stem for file in _PLANS.glob("*.yaml"))
    if name not in names:
        raise ConfigError(
            f"plan={name!r} is unknown; expected one of {', '.join(names)}, or a file{close(name, names)}"
        )
    return _PLANS / f"{name}.yaml"


def _listed(name: str, value: object) -> list[str] | None:
    """Names of an option that takes null, a list, or several joined by commas. Raises ConfigError for none."""
    if value is None:
        return None
    found = [str(one) for one in value] if isinstance(value, ListConfig | list) else str(value).split(",")
    if not any(found):
        raise ConfigError(f"{name}={value}; expected one at least, or null for all of the plan's")
    return found


def _numbers(name: str, value: object) -> list[int] | None:
    found = _listed(name, value)
    try:
        return None if found is None else [int(one) for one in found]
    except ValueError:
        raise ConfigError(f"{name}={value}; expected integers, as [0,1]") from None


def quiet(line: str) -> None:
    """In place of a study's `say`, where what is said of the first run holds for the others."""
