"""Training as a Slurm job, through submitit: the options, the job, its submission, and the script for a dry run.

Nothing here loads torch: a job that is preempted while it unpickles would die, as submitit listens only afterwards.
"""

from __future__ import annotations

import os
import pkgutil
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import submitit
from omegaconf import OmegaConf
from submitit.helpers import Checkpointable, clean_env, environment_variables

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.options import one_of

if TYPE_CHECKING:
    from sam3_hyperet.training.loop import TrainOptions

_PORTS = range(15000, 32000)  # free for anyone, and below those that Linux gives to outgoing connections


@dataclass(frozen=True)
class SlurmOptions:
    """Options of a Slurm job; None leaves a choice to the cluster.

    Attributes:
        nodes, tasks_per_node: processes; one drives one device, so they are `train.nodes` and `train.devices`.
        gpus_per_node: 0 to train on the CPU.
        cpus_per_task: cores of a process, its loader processes included.
        mem_gb: memory of a node.
        timeout_min: the limit; the job is requeued when it comes near.
        signal_delay_s: seconds before the limit at which the job is told.
        max_timeouts: so many times a job that came near its limit is requeued.
        exclude: nodes, as a list or joined by commas.
        array_parallelism: at most so many jobs of a sweep run at once.
        setup: shell commands of the script, before srun.
        additional: more options of sbatch by their long names.
        dry_run: print the script and submit nothing.
    """

    name: str = "slurm"
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    mem_gb: float | None = None
    timeout_min: int = 240
    signal_delay_s: int = 120
    max_timeouts: int = 3
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | tuple[str, ...] | None = None
    array_parallelism: int = 256
    setup: tuple[str, ...] = ()
    additional: Mapping[str, Any] = field(default_factory=dict)
    dry_run: bool = False

    def __post_init__(self) -> None:
        one_of("launcher.name", self.name, ("slurm", "local"))
        for name in ("nodes", "tasks_per_node", "cpus_per_task", "timeout_min", "signal_delay_s", "array_parallelism"):
            if getattr(self, name) < 1:
                raise ConfigError(f"launcher.{name}={getattr(self, name)}; expected an integer from 1")
        for name in ("gpus_per_node", "max_timeouts"):
            if getattr(self, name) < 0:
                raise ConfigError(f"launcher.{name}={getattr(self, name)}; expected an integer from 0")
        if self.mem_gb is not None and self.mem_gb <= 0:
            raise ConfigError(f"launcher.mem_gb={self.mem_gb}; expected a positive number, or null")
        if not isinstance(self.additional, Mapping):
            raise ConfigError(f"launcher.additional={self.additional!r}; expected options of sbatch by name")
        excluded = self.excluded
        if excluded is not None and not re.fullmatch(r"[^\s,]+(,[^\s,]+)*", excluded):
            raise ConfigError(f"launcher.exclude={self.exclude!r}; expected names of nodes, joined by commas")

    @property
    def excluded(self) -> str | None:
        """The excluded nodes, joined by commas."""
        return ",".join(self.exclude) if isinstance(self.exclude, tuple) else self.exclude

    def check(self, train: TrainOptions) -> None:
        """Raise ConfigError unless a task drives each device of the run."""
        pairs = [("nodes", self.nodes, "nodes"), ("tasks_per_node", self.tasks_per_node, "devices")]
        if self.gpus_per_node:
            pairs.append(("gpus_per_node", self.gpus_per_node, "devices"))
        for name, value, of_run in pairs:
            if value != getattr(train, of_run):
                raise ConfigError(
                    f"launcher.{name}={value}, but train.{of_run}={getattr(train, of_run)}; expected the same number"
                )
        if train.accelerator in ("gpu", "cuda") and not self.gpus_per_node:
            raise ConfigError(f"train.accelerator={train.accelerator}, but launcher.gpus_per_node=0")


class TrainingJob(Checkpointable):  # type: ignore[misc]
    """What submitit pickles and runs in each task of a job: train as a configuration says.

    Args:
        train: where to find a function of a configuration, as "package.module:function".
        config: plain values, with the run's folder in `run_dir`.
    """

    def __init__(self, train: str, config: Mapping[str, Any]) -> None:
        self.train, self.config = train, dict(config)

    def __call__(self) -> None:
        """Train, or go on from the state that an earlier start of this same job saved."""
        signal.signal(signal.SIGTERM, _end)  # submitit ignores it, and scancel would have to kill
        os.environ["MASTER_PORT"] = str(rendezvous_port(int(os.environ["SLURM_JOB_ID"])))
        os.environ.setdefault("COLUMNS", "120")  # of the log; a terminal that is none has 80
        from sam3_hyperet.training.state import FILE as STATE_FILE

        restarted = int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
        if restarted and (Path(self.config["run_dir"]) / STATE_FILE).is_file():
            self.config["resume"] = "auto"
        pkgutil.resolve_name(self.train)(OmegaConf.create(self.config))


def rendezvous_port(job_id: int) -> int:
    """The port at which the tasks of a job meet: its own, and the same after it was requeued."""
    return _PORTS[job_id % len(_PORTS)]


def open_executor(options: SlurmOptions, folder: Path, name: str) -> submitit.AutoExecutor:
    """submitit's executor with the options.

    Args:
        folder: will get the logs and submitit's files; every node must see it.

    Raises:
        ConfigError: no Slurm here.
    """
    try:
        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=options.max_timeouts)
    except RuntimeError as error:
        raise ConfigError("launcher=slurm: there is no srun here; expected Slurm's commands on the PATH") from error
    general, of_slurm = _parameters(options, name)
    executor.update_parameters(**general, **{f"slurm_{key}": value for key, value in of_slurm.items()})
    return executor


def submit(executor: submitit.AutoExecutor, jobs: Sequence[TrainingJob]) -> list[str]:
    """Submit the jobs, several as one array; returns their ids in Slurm.

    Raises:
        ConfigError: Slurm refuses them.
    """
    kept = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    try:
        with clean_env(), environment_variables(**kept), executor.batch():
            submitted = [executor.submit(job) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        raise ConfigError(f"launcher=slurm: sbatch refused the job: {' '.join(str(error).split())}") from error
    return [job.job_id for job in submitted]


def script(options: SlurmOptions, folder: Path, name: str, jobs: int = 1) -> str:
    """The sbatch script that `submit` submits for so many jobs; needs no Slurm."""
    executor = _ScriptWriter(folder)
    general, of_slurm = _parameters(options, name)
    executor.update_parameters(**executor._convert_parameters(general), **of_slurm)
    return executor.script(jobs)


class _ScriptWriter(submitit.SlurmExecutor):  # type: ignore[misc]
    """submitit's executor for Slurm where there may be none."""

    @classmethod
    def affinity(cls) -> int:
        return 1

    def script(self, jobs: int) -> str:
        if jobs > 1:
            self.parameters["map_count"] = jobs
        text: str = self._make_submission_file_text(self._submitit_command_str, "")
        return text


def _parameters(options: SlurmOptions, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What submitit calls the options: those of every cluster, and those of Slurm."""
    general = {
        "name": name,
        "nodes": options.nodes,
        "tasks_per_node": options.tasks_per_node,
        "gpus_per_node": options.gpus_per_node or None,
        "cpus_per_task": options.cpus_per_task,
        "mem_gb": options.mem_gb,
        "timeout_min": options.timeout_min,
    }
    of_slurm = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "exclude": options.excluded,
        "signal_delay_s": options.signal_delay_s,
        "array_parallelism": options.array_parallelism,
        "setup": list(options.setup) or None,
        # a task that fails would leave the others waiting; and srun does not take its cores over from sbatch
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={options.cpus_per_task}"],
        # a node's failure or a preemption by the cluster requeues as well
        "additional_parameters": {"requeue": True, **options.additional},
    }
    given: tuple[dict[str, Any], ...] = tuple(
        {key: value for key, value in part.items() if value is not None} for part in (general, of_slurm)
    )
    return given[0], given[1]


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
