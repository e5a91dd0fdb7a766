"""Training as jobs of a real Slurm: two tasks, preemption, requeueing, cancelling, and an array.

An interpreter that is imported for each of some 18 processes is most of what these cost: all but one, of a prediction,
are forked from one that is.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from forked_python import ForkedPython
from omegaconf import OmegaConf
from PIL import Image
from slurm_cluster import SlurmCluster, why_not

from sam3_hyperet.cli.evaluate import main as evaluate
from sam3_hyperet.cli.predict import main as predict
from sam3_hyperet.cli.train import main
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.adapter_file import read_adapter_config
from sam3_hyperet.modeling.tensor_files import read_safetensors

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

STEPS = 12
PYTHON = sys.executable
EARLY = 3  # the step after which a run is disturbed
RUN = [
    "launcher=slurm",
    "launcher.cpus_per_task=1",
    "experiment=smoke",
    "model.checkpoint=random",
    "data.splits.train=6",
    "data.splits.tune=2",
    "data.zoom=1.5",
    "train.accelerator=cpu",
    "train.threads=1",
    "train.batch_size=1",
    "train.validate_every=0",
    "logger=none",
    "evaluate=false",
]
TWO_TASKS = [*RUN, "train.devices=2", f"train.max_steps={STEPS}"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(cluster.config))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("MKL_CBWR", "AUTO")
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
        patch.setenv("MASTER_PORT", "1")  # of whoever submits; no job may take it over
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="module")
def forked(cluster: SlurmCluster) -> Iterator[None]:
    """Jobs submitted from now on are forked from one interpreter."""
    python = ForkedPython(cluster.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(python.path))  # submitit's jobs have that of who submits them
        try:
            yield
        finally:
            python.stop()


class Job:
    """A submitted run, or one of a sweep."""

    def __init__(self, cluster: SlurmCluster, number: str, folder: Path, logs: Path) -> None:
        self.cluster, self.number, self.folder, self.logs = cluster, number, folder, logs
        self.lines_before: list[str] = []  # of metrics.jsonl, when it was requeued

    def lines(self) -> list[str]:
        file = self.folder / "metrics.jsonl"
        return file.read_text().splitlines() if file.exists() else []

    def steps(self) -> list[int]:
        return [json.loads(line)["step"] for line in self.lines()]

    def log(self, task: int = 0) -> str:
        paths = [self.logs / f"{self.number}_{task}_log.{kind}" for kind in ("out", "err")]
        return "".join(path.read_text() for path in paths if path.exists())

    def end(self) -> dict[str, str]:
        return self.cluster.wait_for_end(self.number, 200)

    def adapter(self) -> dict[str, torch.Tensor]:
        return read_safetensors(self.folder / "adapter_last.safetensors")[0]


@pytest.fixture(scope="module")
def submit(cluster: SlurmCluster, forked: object, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Job]]:
    """A function that submits a command line as a user would; returns its jobs."""
    scenes = tmp_path_factory.mktemp("scenes")

    def run(*arguments: str) -> list[Job]:
        folder = main([*arguments, f"paths.scenes={scenes}", f"run_dir={tmp_path_factory.mktemp('runs') / 'run'}"])
        logs = folder / "slurm"
        numbers = sorted(path.name.removesuffix("_submitted.pkl") for path in logs.glob("*_submitted.pkl"))
        folders = [folder] if len(numbers) == 1 else sorted(path for path in folder.iterdir() if path != logs)
        return [Job(cluster, number, one, logs) for number, one in zip(numbers, folders, strict=True)]

    return run


@pytest.fixture(scope="module")
def jobs(cluster: SlurmCluster, submit: Callable[..., list[Job]]) -> dict[str, Job]:
    """All jobs of this file, submitted at once, for Slurm to run side by side; three of them were disturbed."""
    [undisturbed] = submit(*TWO_TASKS)
    [preempted] = submit(*TWO_TASKS, "train.save_every=0", "name=preempted")
    [requeued] = submit(*TWO_TASKS, "train.save_every=3", "name=requeued")
    [cancelled] = submit(*RUN, "train.max_steps=10000", "name=cancelled")
    array = submit(*RUN, "scheme=A,B", "name=sweep", "train.max_steps=2")
    disturbances = {
        preempted: ("scancel", "--signal=USR2", preempted.number),
        requeued: ("scontrol", "requeue", requeued.number),
        cancelled: ("scancel", cancelled.number),
    }

    def all_disturbed() -> bool:
        for job in [job for job in disturbances if EARLY in job.steps()]:
            cluster.ask(*disturbances.pop(job))
        return not disturbances

    cluster.wait_for(all_disturbed, 200, f"step {EARLY} of all jobs")
    for job in (preempted, requeued):
        cluster.hurry(job.number)
        job.lines_before = job.lines()
    names = ("undisturbed", "preempted", "requeued", "cancelled", "A", "B")
    return dict(zip(names, [undisturbed, preempted, requeued, cancelled, *array], strict=True))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_preemption_saves_the_state_requeues_and_loses_nothing(jobs):
    """The warning comes to every task, at a moment of its own; nothing is saved but at that moment."""
    job = jobs["preempted"]
    end = job.end()
    [stopped] = re.findall(r"stopped by SIGUSR2 after step (\d+)", " ".join(job.log().split()))
    assert EARLY <= int(stopped) < STEPS
    assert len(job.lines_before) == int(stopped)
    assert job.lines()[: int(stopped)] == job.lines_before  # with their times: none was done again
    assert (end["JobState"], end["Restarts"], end["ExitCode"]) == ("COMPLETED", "1", "0:0"), job.log()
    assert job.steps() == list(range(1, STEPS + 1))
    assert jobs["undisturbed"].end()["JobState"] == "COMPLETED"
    assert same(job.adapter(), jobs["undisturbed"].adapter())


def test_a_requeued_job_goes_on(jobs):
    job = jobs["requeued"]
    end = job.end()
    assert (end["JobState"], end["Restarts"]) == ("COMPLETED", "1"), job.log()
    assert job.lines()[:3] == job.lines_before[:3]  # with their times: no step up to the saved state was done again
    assert job.steps() == list(range(1, STEPS + 1))
    assert same(job.adapter(), jobs["undisturbed"].adapter())


def test_cancelling_ends_the_run_cleanly(jobs):
    job = jobs["cancelled"]
    end = job.end()
    assert end["JobState"] == "CANCELLED"
    assert end["Restarts"] == "0"
    assert "stopped by SIGTERM after step" in " ".join(job.log().split())
    assert "Traceback" not in job.log()
    assert (job.folder / "state.pt").exists()


def test_two_tasks_train_as_one_run(jobs):
    job = jobs["undisturbed"]
    end = job.end()
    assert (end["JobState"], end["Restarts"], end["NumTasks"]) == ("COMPLETED", "0", "2"), job.log() + job.log(1)
    assert job.steps() == list(range(1, STEPS + 1))
    for task in range(2):
        assert f"local_rank={task}(2)" in job.log(task)
        assert "Traceback" not in job.log(task)
    assert "steps in" not in job.log(1)  # one process alone talks to the user
    last = json.loads(job.lines()[-1])
    assert last["train/skipped_steps"] == 0
    assert last["train/gradient_norm"] > 0


def test_an_array_leaves_runs_with_their_own_configurations(jobs):
    array = [jobs[scheme] for scheme in "AB"]
    assert len({job.number.partition("_")[0] for job in array}) == 1
    for scheme, job in zip("AB", array, strict=True):
        end = job.end()
        assert end["JobState"] == "COMPLETED", job.log()
        assert job.folder.name == f"sweep-scheme-{scheme}"
        config = OmegaConf.load(job.folder / "config.yaml")
        assert (config.hyperet.scheme, config.run_dir) == (scheme, str(job.folder))
        assert read_adapter_config(job.folder / "adapter.safetensors").scheme == scheme


def test_evaluations_and_predictions_run_as_jobs(cluster, forked, tmp_path, monkeypatch):
    """Their results lie where the commands would have put them. Two tasks share the images of an evaluation, which was
    preempted and goes on."""
    random, slurm = ["model=tiny", "model.checkpoint=random"], RUN[:2]
    scenes = ["data=scenes", "data.splits.val=16", f"paths.scenes={tmp_path / 'scenes'}", "protocol.examples=0"]
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    folders = [evaluate([*slurm, *random, *scenes, "devices=2", "threads=1", f"run_dir={tmp_path / 'evaluated'}"])]
    monkeypatch.setattr(sys, "executable", PYTHON)  # nothing is forked
    asked = [f"images={tmp_path / 'a.png'}", "prompts=car"]
    folders.append(predict([*slurm, *random, *asked, f"run_dir={tmp_path / 'predicted'}"]))
    numbers = [next((folder / "slurm").glob("*_submitted.pkl")).name.partition("_")[0] for folder in folders]
    jobs = [Job(cluster, number, folder, folder / "slurm") for number, folder in zip(numbers, folders, strict=True)]
    cluster.wait_for(lambda: any(folders[0].glob("records/*/*.npz")), 200, "the first record")
    cluster.ask("scancel", "--signal=USR2", numbers[0])
    cluster.hurry(numbers[0])
    for job, written, restarts in zip(jobs, ("report.html", "predictions.json"), ("1", "0"), strict=True):
        end = job.end()
        assert (end["JobState"], end["Restarts"]) == ("COMPLETED", restarts), job.log() + job.log(1)
        assert (job.folder / written).is_file()
        assert "precision: 32-true on cpu" in job.log()
    assert re.search(r"base: goes on with \d+ of 16 images", jobs[0].log())
    assert json.loads((folders[0] / "metrics.json").read_text())["scenes/images"] == 16


def test_the_dry_run_prints_what_is_submitted(jobs, capsys):
    submitted = jobs["A"].logs / f"{jobs['A'].number.partition('_')[0]}_submission.sh"
    logs = jobs["A"].logs
    options = ["scheme=A,B", "name=sweep", "train.max_steps=2", "launcher.dry_run=true", "resume=never"]
    main([*RUN, *options, f"run_dir={logs.parent}"])
    assert capsys.readouterr().out.endswith(submitted.read_text() + "\n")


def test_a_job_that_slurm_refuses_is_an_error_in_words(cluster, tmp_path):
    with pytest.raises(ConfigError, match=r"partition: launcher.partition=none; expected one of main"):
        main([*RUN, "launcher.partition=none", f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(ConfigError, match="sbatch refused the job: sbatch: error: invalid partition specified: none"):
        main([*RUN, "launcher.partition=none", "launcher.doctor=false", f"run_dir={tmp_path / 'run'}"])
