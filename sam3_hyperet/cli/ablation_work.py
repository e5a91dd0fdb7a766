"""The work of a study: bases, then trials, then runs, here or as Slurm arrays; then table and figure of the rows."""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta

from sam3_hyperet.ablation.plan import GAIN, LOST
from sam3_hyperet.ablation.rows import RUNS, TRIALS, Layout, Row, number
from sam3_hyperet.ablation.runs import Run, choice_lines, expected_seconds, runs_of
from sam3_hyperet.cli.ablation_study import LOG, Study, quiet
from sam3_hyperet.cli.command import user_message
from sam3_hyperet.cli.recognition import recognised_here
from sam3_hyperet.cli.submit import checked_once, submit_jobs
from sam3_hyperet.errors import ConfigError, UserError
from sam3_hyperet.files import sole_use
from sam3_hyperet.training.options import STATE_FILE
from sam3_hyperet.wording import count_of

_WAIT_SECONDS = 20


@dataclass
class Budget:
    """How much may be begun in this call: so many runs, and none that would end after so many hours."""

    runs: int | None
    hours: float | None
    started: float = field(default_factory=time.monotonic)
    begun: int = 0

    def allows(self, seconds: float | None) -> bool:
        """Whether one more run may begin that is expected to take so long."""
        late = self.hours is not None and time.monotonic() - self.started + (seconds or 0) > 3600 * self.hours
        return not late and (self.runs is None or self.begun < self.runs)


def left_lines(study: Study) -> Iterator[str]:
    """What is to be made, how many of it is there, and how long the rest will take by the rows so far."""
    part = study.part
    yield f"{study.plan.name}: {study.plan.question}" if study.plan.question else study.plan.name
    counts = ", ".join(count_of(len(getattr(part, f"{noun}s")), noun) for noun in ("arm", "seed"))
    counts += f", {count_of(len(part.images), 'amount')} of images"
    worlds = ", ".join(f"{name} with {count_of(len(world.bases), 'base')}" for name, world in part.data.items())
    yield f"{counts}; {worlds}"
    if bases := study.bases_left():
        yield f"bases to be made first: {', '.join('/'.join(place) for place in bases)}"
    total = 0.0
    for layout, every in ((TRIALS, study.trials), (RUNS, runs_of(part))):
        what = "trial" if layout is TRIALS else "run"
        if not every:
            continue
        left = every if layout is RUNS and study.left(TRIALS) else study.left(layout)
        if layout is RUNS and left is every:  # which options they have is open
            made = {RUNS.key_of(row) for row in study.rows(RUNS)}
            left = [run for run in every if run.key(RUNS) not in made]
        seconds = expected_seconds(left, study.rows(layout))
        total += seconds or 0.0
        time_left = "no row yet to forecast their time by" if seconds is None else f"about {_span(seconds)}"
        yield f"{count_of(len(every), what)}, {len(left)} of them left{f': {time_left}' if left else ''}"
        if study.options.dry_run:
            yield from (f"  {run.name}" for run in left)
    yield f"results: {study.csv}"


def work(study: Study) -> dict[str, str]:
    """Make what is missing, in this process; returns the runs that failed, by name, with their reasons."""
    from sam3_hyperet.cli import ablation_run  # imports torch
    from sam3_hyperet.cli.ablation_inputs import check_inputs

    budget, failed = Budget(study.options.runs, study.options.hours), dict[str, str]()
    check_inputs(study)
    for data, base in study.bases_left():
        study.say(f"making the base {base} of {data} by its recipe; log: {study.folder}/bases/{data}_{base}/{LOG}")
        config = study.composer.base(data, base)
        assert config is not None
        ablation_run.make_base(config, study.composer.base_file(data, base))
    for layout in (TRIALS, RUNS):
        left = study.left(layout)
        _make_all(study, left, layout, budget, failed, lambda run: ablation_run.run(study.job(run)))
        if layout is TRIALS:
            if unfinished := [run.name for run in study.left(TRIALS)]:
                study.say(f"{count_of(len(unfinished), 'trial')} left, before any run; the same command goes on")
                return failed
            for line in choice_lines(study.plan, study.choices()):
                study.say(line)
    if left := study.left(RUNS):
        study.say(f"{count_of(len(left), 'run')} left; the same command goes on")
    return failed


def submit(study: Study) -> None:
    """Submit what is missing to Slurm: bases, else trials, else runs; each task leaves its row for the next call."""
    if places := study.bases_left():
        configs, function, what = [], "make_base_job", "base"
        for place in places:
            config = study.composer.base(*place)
            assert config is not None
            config.ablation, config.launcher = str(study.composer.base_file(*place)), study.options.launcher
            configs.append(config)
    else:
        layout = TRIALS if study.left(TRIALS) else RUNS
        configs, function = [study.job(run) for run in study.left(layout)], "run_job"
        what = "trial" if layout is TRIALS else "run"
        if layout is RUNS:
            for line in choice_lines(study.plan, study.choices()):
                study.say(line)
    if study.options.runs is not None:
        configs = configs[: study.options.runs]
    if not configs:
        study.say("nothing is left to be run")
        write_results(study)
        return
    configs = [recognised_here(config, quiet if number else study.say) for number, config in enumerate(configs)]
    function = f"sam3_hyperet.cli.ablation_run:{function}"
    submit_jobs(function, configs, study.folder, f"ablate-{study.plan.name}", checked_once(), state=STATE_FILE)
    submitted = f"submitted as an array: {count_of(len(configs), what)}"
    study.say(f"{submitted}; once it has ended, the same command gathers its rows and goes on")


def write_results(study: Study) -> None:
    """Gather the rows into the CSV, write tables and figures of them beside it, and print the verdicts."""
    rows = [row for row in study.rows(RUNS) if row["plan"] == study.plan.name]
    study.say(f"{count_of(len(rows), 'row')} of {study.plan.name}: {study.csv}")
    if rows:
        from sam3_hyperet.ablation.evidence import write_evidence  # matplotlib and scipy: late, for help and mistakes

        evidence = write_evidence(study.csv, study.plan, study.csv.parent)
        for line in evidence.lines:
            study.say(line)
        page, *figures = evidence.files
        study.say(f"tables: {page}, with {count_of(len(figures), 'figure')}")


def _make_all(
    study: Study,
    runs: list[Run],
    layout: Layout,
    budget: Budget,
    failed: dict[str, str],
    make: Callable[[Run], Row],
) -> None:
    """Make runs in their order, as far as the budget goes; those that another process is at are left to it.

    Trials of other processes are waited for: all of them are needed for what comes next.
    """
    todo, count = list(runs), len(runs)
    while todo:
        busy = []
        for run in todo:
            expected = expected_seconds([run], study.rows(layout))
            if not budget.allows(expected):
                return
            with ExitStack() as stack:
                try:
                    stack.enter_context(sole_use(study.composer.folder_of(run)))
                except ConfigError:  # another process is at it
                    busy.append(run)
                    continue
                if run not in study.left(layout):  # another process has made it meanwhile
                    continue
                budget.begun += 1
                try:
                    row = make(run)
                except Exception as error:  # a bug or a lack of memory in one arm, too, leaves the others as they are
                    last_lines = "".join(traceback.format_exception_only(error))
                    failed[run.name] = user_message(error) or " ".join(last_lines.split())
                    log = study.composer.folder_of(run) / LOG
                    study.say(f"failed: {run.name}: {failed[run.name]}; log: {log}")
                    continue
                except (SystemExit, KeyboardInterrupt):
                    study.say(f"stopped in {run.name}; the same command goes on")
                    raise
            left = [one for one in study.left(layout) if one in runs and one.name not in failed]
            study.say(_line(run, row, count - len(left), count, expected_seconds(left, study.rows(layout))))
        if busy and layout is RUNS:
            study.say(f"being made by other processes: {count_of(len(busy), 'run')}")
            return
        if todo := busy:
            time.sleep(_WAIT_SECONDS)


def _line(run: Run, row: Row, done: int, count: int, seconds: float | None) -> str:
    """What came of a run, in a line."""
    left = f"; {_span(seconds)} left" if seconds else ""
    if not row.get(GAIN):
        return f"[{done}/{count}] {run.name}: no finite loss, so not to be chosen{left}"
    values = f"gain {number(row, GAIN):+.3f}, lost {number(row, LOST):+.3f} at dial {number(row, 'dial'):g}"
    return f"[{done}/{count}] {run.name}: {values} ({number(row, 'seconds'):.0f} s{left})"


def raise_failed(failed: Mapping[str, str]) -> None:
    """Raise a UserError that names the first of the runs that failed, if any did."""
    if failed:
        first, why = next(iter(failed.items()))
        others = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise UserError(
            f"{first}{others} failed: {why}; the other rows are in the CSV, and the same command tries again"
        )


def _span(seconds: float) -> str:
    """A duration in words, as 1:23:45."""
    return str(timedelta(seconds=round(seconds)))
