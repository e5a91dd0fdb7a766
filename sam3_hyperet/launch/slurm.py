"""A tool as a Slurm job, through submitit: the job, its submission, and the script for a dry run.

Nothing here loads torch: a job that is preempted while it unpickles would die, as submitit listens only afterwards.
"""

import os
import pkgutil
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import submitit
from omegaconf import OmegaConf
from submitit.helpers import Checkpointable, clean_env, environment_variables

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.training.requeue import REQUEUE, is_preempted

_OF_ANY_CLUSTER = ("nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb", "timeout_min")
_OF_SLURM = ("partition", "account", "qos", "constraint", "exclude", "signal_delay_s", "array_parallelism", "setup")
_INTERACTIVE = ("bash", "interactive")
_SAME = {
    "timelimit": "time",
    "array-inx": "array",
    "no-requeue": "requeue",
    **dict.fromkeys(("mem-per-node", "mem-per-cpu", "mem-per-gpu"), "mem"),
    **dict.fromkeys(("gpus", "gpus-per-task"), "gpus-per-node"),
}
_PORTS = range(15000, 32000)  # free for anyone, and below those that Linux gives to outgoing connections


class ToolJob(Checkpointable):
    """Task of a job, which submitit pickles and runs: one run of a tool.

    `function` is where to find a function of a configuration, as "package.module:function"; `config` has plain values,
    with the run's folder in `run_dir`; `state` is what a run that was disturbed leaves there to go on from.
    """

    def __init__(self, function: str, config: Mapping[str, Any], state: str) -> None:
        self.function, self.config, self.state = function, dict(config), state

    def __call__(self) -> None:
        """Run, or go on from what an earlier start of this same job left."""
        signal.signal(signal.SIGTERM, _end)  # submitit ignores it, and scancel would have to kill
        os.environ["MASTER_PORT"] = str(rendezvous_port(int(os.environ["SLURM_JOB_ID"])))
        os.environ.setdefault("COLUMNS", "120")  # of the log; a terminal that is none has 80
        restarted = int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
        if restarted and self.state and (Path(self.config["run_dir"]) / self.state).exists():
            self.config["resume"] = "auto"
        pkgutil.resolve_name(self.function)(OmegaConf.create(self.config))


def rendezvous_port(job_id: int) -> int:
    """The port at which the tasks of a job meet: its own, and the same after it was requeued."""
    return _PORTS[job_id % len(_PORTS)]


def check_name(options: SlurmOptions, name: str) -> None:
    """Raise a ConfigError for the names by which Lightning knows a shell within a job: each task would run alone."""
    called = options.additional.get("job-name", options.additional.get("job_name", name))
    if called in _INTERACTIVE:
        fault = f"name={called}: Lightning takes a job of this name for an interactive shell, and its tasks run apart"
        raise ConfigError(f"{fault}; expected another name")


def open_executor(
    options: SlurmOptions, folder: Path, name: str, kind: type[submitit.SlurmExecutor] = submitit.SlurmExecutor
) -> submitit.SlurmExecutor:
    """submitit's executor with the options; its files and the logs go to `folder`, which every node must see.

    Raises a ConfigError where there is no Slurm.
    """
    try:
        executor = kind(folder, max_num_timeout=options.max_timeouts)
    except RuntimeError as error:
        raise ConfigError("launcher=slurm: there is no srun here; expected Slurm's commands on the PATH") from error
    lists = {"exclude": options.excluded, "setup": list(options.setup) or None}
    values = {**vars(options), **lists, "gpus_per_node": options.gpus_per_node or None}
    given = {key: value for key, value in values.items() if value is not None}
    executor.update_parameters(
        **executor._convert_parameters({"name": name, **{key: given[key] for key in _OF_ANY_CLUSTER if key in given}}),
        **{key: given[key] for key in _OF_SLURM if key in given},
        # a task that fails would leave the others waiting, and one that ends early must not end them, as the cluster's
        # WaitTime may; and srun does not take its cores over from sbatch
        srun_args=["--kill-on-bad-exit=1", "--wait=0", f"--cpus-per-task={options.cpus_per_task}"],
        # a node's failure or a preemption by the cluster requeues as well
        additional_parameters={"requeue": True, **options.additional},
    )
    return executor


def submit(executor: submitit.SlurmExecutor, jobs: Sequence[ToolJob]) -> list[str]:
    """Submit the jobs, several as one array; returns their ids. Raises ConfigError if Slurm refuses them."""
    kept = kept_variables(_text(executor), os.environ)
    try:
        with clean_env(), environment_variables(**kept), executor.batch():
            submitted = [executor.submit(job) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        raise ConfigError(f"launcher=slurm: sbatch refused the job: {' '.join(str(error).split())}") from error
    return [job.job_id for job in submitted]


def script(options: SlurmOptions, folder: Path, name: str, jobs: int = 1) -> str:
    """The sbatch script that `submit` submits for so many jobs; needs no Slurm."""
    executor = open_executor(options, folder, name, _ScriptWriter)
    if jobs > 1:
        executor.parameters["map_count"] = jobs
    return _text(executor)


def kept_variables(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables by which a user tells sbatch what the script, whose text it is, leaves open: SBATCH_ACCOUNT and so on.

    submitit takes all of them away. Of those that stay, sbatch would follow each rather than the script.
    """
    # wckey=submitit is in every script, and nobody's wish
    written = {"array", *map(_kind, re.findall(r"^#SBATCH --(?!wckey=submitit$)([\w-]+)", text, re.MULTILINE))}
    kept = {name: value for name, value in environment.items() if name == "SLURM_CONF"}
    for name, value in environment.items():
        option = name.removeprefix("SBATCH_").lower().replace("_", "-")
        if name.startswith("SBATCH_") and _kind(option) not in written:
            kept[name] = value
    return kept


def _kind(option: str) -> str:
    """The same for all options of sbatch, and names of its variables, that say the same thing."""
    return _SAME.get(option, option)


def _text(executor: submitit.SlurmExecutor) -> str:
    """The script that an executor submits."""
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    return text


class _ScriptWriter(submitit.SlurmExecutor):
    """submitit's executor for Slurm where there may be none."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def _end(number: int, frame: FrameType | None) -> None:
    """End after `scancel`; a preempted job asks to be requeued, as at its time limit."""
    if is_preempted():
        signal.signal(number, signal.SIG_IGN)  # Slurm signals twice
        signal.raise_signal(REQUEUE)  # whose handler ends the first process and lets the others go on
        return
    raise SystemExit(128 + number)
