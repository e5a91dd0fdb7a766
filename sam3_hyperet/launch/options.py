"""Options of a Slurm job, without torch and submitit."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.options import NonNegativeInt, PositiveFloat, PositiveInt, check_fields
from sam3_hyperet.training.options import TrainOptions
from sam3_hyperet.wording import count_of

_SIGNAL_MARGIN_S = 60  # Slurm may send a signal so much earlier than told
_LATE_S, _LATE = 600, 0.2  # seconds, or fraction of the limit, before its end: only from then on is it a time-out


@dataclass(frozen=True)
class SlurmOptions:
    """Options of a Slurm job; None leaves a choice to the cluster.

    Attributes:
        name: "local" to run here and now, or "slurm".
        nodes, tasks_per_node: processes; one drives one device, so they are the run's own `nodes` and `devices`.
        gpus_per_node: 0 to run on the CPU.
        cpus_per_task: cores of a process, its loader processes included.
        mem_gb: memory of a node.
        timeout_min: the limit; the job is requeued when it comes near.
        signal_delay_s: seconds before the limit at which the job is told.
        max_timeouts: so many times a job that came near its limit is requeued.
        partition, account, qos, constraint: as sbatch has them.
        exclude: nodes, as a list or joined by commas.
        array_parallelism: at most so many jobs of a sweep run at once.
        setup: shell commands of the script, before srun.
        additional: more options of sbatch by their long names.
        doctor: checks of weights, data and options before the run is submitted, which a failed one stops.
        dry_run: print the script, check and submit nothing.
    """

    name: Annotated[str, ("slurm", "local")] = "slurm"
    nodes: PositiveInt = 1
    tasks_per_node: PositiveInt = 1
    gpus_per_node: NonNegativeInt = 0
    cpus_per_task: PositiveInt = 1
    mem_gb: PositiveFloat | None = None
    timeout_min: PositiveInt = 240
    signal_delay_s: PositiveInt = 120
    max_timeouts: NonNegativeInt = 3
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | tuple[str, ...] | None = None
    array_parallelism: PositiveInt = 256
    setup: tuple[str, ...] = ()
    additional: Mapping[str, Any] = field(default_factory=dict)
    doctor: bool = True
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "launcher")
        if self.timeout_min * 60 < self.signal_delay_s + _SIGNAL_MARGIN_S:
            least = math.ceil((self.signal_delay_s + _SIGNAL_MARGIN_S) / 60)
            signal = f"Slurm's signal comes launcher.signal_delay_s={self.signal_delay_s} before it"
            found = f"launcher.timeout_min={self.timeout_min}, but {signal}, or up to a minute earlier"
            raise ConfigError(f"{found}; expected a limit of {least} minutes at least, or a shorter delay")
        if self.signal_delay_s + _SIGNAL_MARGIN_S > (most := max(_LATE_S, _LATE * 60 * self.timeout_min)):
            found = f"launcher.signal_delay_s={self.signal_delay_s} before launcher.timeout_min={self.timeout_min}"
            taken = "submitit takes a signal so early for a preemption, and requeues the job without end"
            raise ConfigError(f"{found}: {taken}; expected {most - _SIGNAL_MARGIN_S:.0f} seconds at most")
        if not isinstance(self.additional, Mapping):
            raise ConfigError(f"launcher.additional={self.additional!r}; expected options of sbatch by name")
        if self.excluded is not None and not re.fullmatch(r"[^\s,]+(,[^\s,]+)*", self.excluded):
            raise ConfigError(f"launcher.exclude={self.exclude!r}; expected names of nodes, joined by commas")

    @property
    def excluded(self) -> str | None:
        """The excluded nodes, joined by commas."""
        return ",".join(self.exclude) if isinstance(self.exclude, tuple) else self.exclude

    @property
    def has_gpus(self) -> bool:
        """Whether the job asks for GPUs, by its own option or by one of sbatch."""
        return bool(self.gpus_per_node) or any("gpu" in f"{name}={value}" for name, value in self.additional.items())

    @property
    def gpus_of_node(self) -> str:
        """The GPUs that a node of the job has, for people."""
        if self.gpus_per_node:
            return count_of(self.gpus_per_node, "GPU")
        return "the GPUs of launcher.additional" if self.has_gpus else "no GPU (launcher.gpus_per_node=0)"

    def check(self, train: TrainOptions) -> None:
        """Raise ConfigError unless a task drives each device of a training run."""
        processes = {"train.nodes": train.nodes, "train.devices": train.devices}
        self.check_processes(processes, {"train.accelerator": train.accelerator})

    def check_processes(self, processes: Mapping[str, int], device: Mapping[str, str]) -> None:
        """Raise ConfigError unless a task drives each device: nodes, devices of a node, and their kind, by option."""
        (nodes, per_node), [(option, kind)] = processes, device.items()
        pairs = [("nodes", nodes), ("tasks_per_node", per_node), ("gpus_per_node", per_node)]
        for name, of_run in pairs if self.gpus_per_node else pairs[:2]:
            value, wanted = getattr(self, name), processes[of_run]
            if value != wanted:
                raise ConfigError(f"launcher.{name}={value}, but {of_run}={wanted}; expected the same number")
        if kind.partition(":")[0] in ("gpu", "cuda") and not self.has_gpus:
            raise ConfigError(f"{option}={kind}, but launcher.gpus_per_node=0")
