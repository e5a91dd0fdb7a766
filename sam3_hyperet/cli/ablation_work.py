"""The work of a study: bases, then trials, then runs, here or as Slurm arrays; then table and figure of the rows."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from omegaconf import DictConfig

from sam3_hyperet.ablation.plan import GAIN, LOST
from sam3_hyperet.ablation.rows import RUNS, TRIALS, Layout, Row, number
from sam3_hyperet.ablation.runs import Run, choice_lines, expected_seconds, runs_of
from sam3_hyperet.cli.ablation_attempts import Attempts, Budget, Task
from sam3_hyperet.cli.ablation_failures import failed_lines, failures
from sam3_hyperet.cli.ablation_study import LOG, Study, quiet
from sam3_hyperet.cli.recognition import recognised_here
from sam3_hyperet.cli.submit import checked_once, submit_jobs
from sam3_hyperet.errors import UserError
from sam3_hyperet.training.run_files import STATE_FILE
from sam3_hyperet.wording import count_of


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
        left = study.left(layout)
        seconds = expected_seconds(left, study.rows(layout))
        total += seconds or 0.0
        time_left = "no row yet to forecast their time by" if seconds is None else f"about {_span(seconds)}"
        yield f"{count_of(len(every), what)}, {len(left)} of them left{f': {time_left}' if left else ''}"
        if study.options.dry_run:
            yield from (f"  {run.name}" for run in left)
    yield f"results: {study.csv}"


def work(study: Study) -> Attempts:
    """Make what is missing, in this process; returns what was tried, with what failed.

    What waits for something that failed, as the runs of its base, is left. While another process makes a base, the
    trials and runs of those that are there go on. What had failed before comes last.
    """
    from sam3_hyperet.cli import ablation_run  # imports torch
    from sam3_hyperet.cli.ablation_inputs import check_inputs

    check_inputs(study)
    hours, attempts = study.options.hours, Attempts(study)
    budget, is_tuned = Budget(study.options.runs, hours), True
    for again in attempts.rounds:
        attempts.again = again
        bases = [_base_task(study, place, ablation_run.make_base) for place in study.bases_left()]
        attempts.make(bases, Budget(None, hours), wait=False)
        is_tuned = _make_runs(study, attempts, budget)
        if is_tuned and any(map(attempts.is_open, bases)) and budget.allows(None):
            attempts.make(bases, Budget(None, hours), wait=True)
            is_tuned = _make_runs(study, attempts, budget)
        if attempts.has_lost_device:
            break
    left = study.left(RUNS)
    if is_tuned and left:
        waiting = len(left) - len(study.ready(RUNS))
        why = f", {waiting} of them waiting for their base or for trials of their arm" if waiting else ""
        study.say(f"{count_of(len(left), 'run')} left{why}; the same command goes on")
    return attempts


def _make_runs(study: Study, attempts: Attempts, budget: Budget) -> bool:
    """Make the trials, then the runs, of the bases that are there; False where trials are left, before any run."""
    from sam3_hyperet.cli import ablation_run  # imports torch

    trials = _run_tasks(study, TRIALS, attempts, lambda run: ablation_run.run(study.job(run)))
    attempts.make(trials, budget, wait=True)
    if unfinished := [task for task in trials if attempts.is_open(task)]:
        study.say(f"{count_of(len(unfinished), 'trial')} left, before any run; the same command goes on")
        return False
    for line in choice_lines(study.plan, study.choices()):
        study.say(line)
    runs = _run_tasks(study, RUNS, attempts, lambda run: ablation_run.run(study.job(run)))
    attempts.make(runs, budget, wait=False)
    return True


def _base_task(study: Study, place: tuple[str, str], make: Callable[[DictConfig, Path, str], None]) -> Task:
    name, file = "/".join(place), study.composer.base_file(*place)

    def made() -> str:
        config = study.composer.base(*place)
        assert config is not None
        study.say(f"making the base {name} by its recipe; log: {config.run_dir}/{LOG}")
        make(config, file, study.composer.recipe(*place))
        return f"made the base {name}: {file}"

    return Task(name, study.composer.base_folder(*place), lambda: not study.composer.has_base(*place), made)


def _run_tasks(study: Study, layout: Layout, attempts: Attempts, make: Callable[[Run], Row]) -> list[Task]:
    """The trials or the runs that are left and can be made."""
    runs = study.ready(layout)

    def task_of(run: Run) -> Task:
        def made() -> str:
            row = make(run)
            left = [one for one in study.left(layout) if one in tasks and not attempts.has_failed(tasks[one])]
            return _line(run, row, len(runs) - len(left), len(runs), expected_seconds(left, study.rows(layout)))

        return Task(
            run.name,
            study.composer.folder_of(run),
            lambda: run in study.left(layout),
            made,
            lambda: expected_seconds([run], study.rows(layout)),
        )

    tasks = {run: task_of(run) for run in runs}
    return list(tasks.values())


def submit(study: Study) -> None:
    """Submit what is missing to Slurm: bases, else trials, else runs; each task leaves its row for the next call.

    What has failed is submitted again once nothing else is left that could be.
    """
    failed = failures(study)
    for is_again in (False, True):
        for what in ("base", "trial", "run"):
            configs = [one for one in _configs(study, what) if (Path(one.run_dir) in failed) == is_again]
            if configs:
                _submit(study, configs[: study.options.runs], what)
                return
    study.say("nothing is left to be run")
    write_results(study)


def _configs(study: Study, what: str) -> Iterator[DictConfig]:
    """Configurations of the bases, the trials or the runs that can be made."""
    if what == "base":
        for place in study.bases_left():
            config = study.composer.base(*place)
            assert config is not None
            config.ablation = {"file": str(study.composer.base_file(*place)), "recipe": study.composer.recipe(*place)}
            config.launcher = study.options.launcher
            yield config
    else:
        yield from map(study.job, study.ready(TRIALS if what == "trial" else RUNS))


def _submit(study: Study, configs: Sequence[DictConfig], what: str) -> None:
    if what == "run":
        for line in choice_lines(study.plan, study.choices()):
            study.say(line)
    for line in failed_lines(study, study.part):
        study.say(line)
    configs = [recognised_here(config, quiet if number else study.say) for number, config in enumerate(configs)]
    function = f"sam3_hyperet.cli.ablation_run:{'make_base_job' if what == 'base' else 'run_job'}"
    submit_jobs(function, configs, study.folder, f"ablate-{study.plan.name}", checked_once(), state=STATE_FILE)
    submitted = f"submitted as an array: {count_of(len(configs), what)}"
    study.say(f"{submitted}; once it has ended, the same command gathers its rows and goes on")


def write_results(study: Study) -> None:
    """Gather the rows into the CSV, write tables and figures of them beside it, and print the verdicts.

    Rows of other options than the plan has now are left out, but noted and counted with runs=0 and changed=keep.
    """
    rows = [row for row in study.rows(RUNS) if row["plan"] == study.plan.name]
    failed = failed_lines(study, study.plan)
    study.say(f"{count_of(len(rows), 'row')} of {study.plan.name}: {study.csv}")
    stale, notes = _stale(study), list(failed)
    if stale and (study.options.runs == 0 or study.options.changed == "keep"):
        notes.append(f"{count_of(len(stale), 'row')} of other options than the plan has now, counted all the same")
        stale = set()
    if len(rows) > len(stale):
        from sam3_hyperet.ablation.evidence import write_evidence  # matplotlib and scipy: late, for help and mistakes

        evidence = write_evidence(study.csv, study.plan, study.csv.parent, notes, stale)
        for line in evidence.lines:
            study.say(line)
        page, *figures = evidence.files
        study.say(f"tables: {page}, with {count_of(len(figures), 'figure')}")


def _stale(study: Study) -> set[tuple[str, ...]]:
    """What names the rows of other options; none where these cannot be known, which is said."""
    try:
        return {run.key(RUNS) for run in study.stale()}
    except UserError as error:
        study.say(f"warning: not checked whether the rows are of the plan's present options: {error}")
        return set()


def _line(run: Run, row: Row, done: int, count: int, seconds: float | None) -> str:
    """What came of a run, in a line."""
    left = f"; {_span(seconds)} left" if seconds else ""
    if not row.get(GAIN):
        return f"[{done}/{count}] {run.name}: no finite loss, so not to be chosen{left}"
    values = f"gain {number(row, GAIN):+.3f}, lost {number(row, LOST):+.3f} at dial {number(row, 'dial'):g}"
    return f"[{done}/{count}] {run.name}: {values} ({number(row, 'seconds'):.0f} s{left})"


def _span(seconds: float) -> str:
    """A duration in words, as 1:23:45."""
    return str(timedelta(seconds=round(seconds)))
