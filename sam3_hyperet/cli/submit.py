"""`launcher=slurm`: a run of a tool, or a sweep of runs as one array."""

import itertools
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.composition import plain
from sam3_hyperet.cli.doctor import check_before_submission
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.files import Manifest, replacing, sole_use
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.launch.slurm import ToolJob, check_name, open_executor, script, submit
from sam3_hyperet.options import read_options
from sam3_hyperet.training.options import TrainOptions
from sam3_hyperet.training.run_files import CONFIG_FILE, STATE_FILE
from sam3_hyperet.wording import count_of

_CHECKED = ("model", "hyperet", "stage", "data", "more_data", "rehearsal", "train", "cache", "launcher", "evaluate")
"""Keys that decide what `doctor` finds: runs of a sweep in which they are the same are checked once."""


def parse_runs(tool: str, argv: Sequence[str] | None = None) -> tuple[list[DictConfig], Path]:
    """Every run that a command line describes, and the folder that they share.

    With another launcher than local, comma-separated values (scheme=A,B,C) and ranges (seed=range(0,3)) are a run each,
    in a folder of its own; `launcher.…=` and `prompts=` excepted. Without, there is one run, and the folder is its own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    is_submitted = any(one.startswith("launcher=") and one != "launcher=local" for one in arguments)
    choices = [_choices(argument) if is_submitted else [argument] for argument in arguments]
    configs = [parse_command(tool, combination)[1] for combination in itertools.product(*choices)]
    folder = Path(configs[0].run_dir)
    if len(configs) > 1:
        swept = [position for position, values in enumerate(choices) if len(values) > 1]
        for config, combination in zip(configs, itertools.product(*choices), strict=True):
            parts = [re.sub(r"[^\w.+-]+", "-", combination[position]).strip("-") for position in swept]
            config.run_dir = str(folder / "-".join([config.get("name", tool), *parts]))
        if len({config.run_dir for config in configs}) < len(configs):
            raise ConfigError(f"launcher=slurm: two runs of the sweep would be written to {configs[0].run_dir}")
    return configs, folder


def submit_runs(function: str, configs: Sequence[DictConfig], folder: Path) -> Path:
    """Submit training runs that `parse_runs` read, each with its configuration in its folder; returns `folder`.

    function: as for `submit_jobs`.
    """
    from sam3_hyperet.launch.memory import estimate  # imports torch, and a command line is read without
    from sam3_hyperet.training.run_folder import RunFolder

    console = Console(highlight=False, soft_wrap=True)
    options = _launcher(configs)
    for values in map(plain, configs):
        train_options = read_options(TrainOptions, values["train"], "train")
        options.check(train_options)
        model, hyperet, stage = (values[name] for name in ("model", "hyperet", "stage"))
        expected = estimate(model, hyperet, stage, train_options.max_steps, Path(values["run_dir"]))
        console.print(f"{values['run_dir']}: {expected}")

    def begin(config: DictConfig) -> None:
        run_dir = Path(config.run_dir)
        with sole_use(run_dir):
            if config.resume == "never":  # else a restarted job would go on from the state of an earlier run
                RunFolder(run_dir).prepare()
            Manifest(run_dir).claim(CONFIG_FILE)
            with replacing(run_dir / CONFIG_FILE) as file:
                file.write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")

    return submit_jobs(function, configs, folder, configs[0].name, checked_once(), state=STATE_FILE, begin=begin)


def checked_once() -> Callable[[dict[str, Any]], list[str]]:
    """Checks of training runs before their submission, for `submit_jobs`: once for all runs that they find the same."""
    checked: list[dict[str, Any]] = []

    def check(values: dict[str, Any]) -> list[str]:
        same = {key: values[key] for key in _CHECKED}
        if same in checked:
            return []
        checked.append(same)
        return check_before_submission(values)

    return check


def submit_jobs(
    function: str,
    configs: Sequence[DictConfig],
    folder: Path,
    name: str,
    check: Callable[[dict[str, Any]], Iterable[str]],
    *,
    state: str = "",
    begin: Callable[[DictConfig], None] = lambda config: None,
) -> Path:
    """Submit a job for each configuration, or print the script if `launcher.dry_run`; returns `folder`.

    Args:
        function: what each task of a job calls with its configuration, as "package.module:function".
        check: the warnings about plain values of a configuration. Raises a UserError if the run would fail; it is
            called for all of them before anything is written.
        state: what a disturbed run leaves in its folder to go on from.
        begin: called before a configuration is submitted.
    """
    console = Console(highlight=False, soft_wrap=True)
    options, logs, runs = _launcher(configs), folder / "slurm", list(map(plain, configs))
    check_name(options, name)
    memory = "the cluster's default memory" if options.mem_gb is None else f"{options.mem_gb:g} GB"
    console.print(
        f"asked for: {options.nodes} x {count_of(options.tasks_per_node, 'process')}; "
        f"a node has {options.gpus_of_node} and {memory}; "
        f"{options.timeout_min} min, then requeued up to {count_of(options.max_timeouts, 'time')}"
    )
    if not options.has_gpus and any((values.get("model") or {}).get("name") == "large" for values in runs):
        console.print("warning: model=large on CPU cores, which is slow; launcher.gpus_per_node=1 asks for a GPU")
    if options.dry_run:
        console.print(script(options, logs, name, len(configs)), markup=False)
        return folder
    if options.doctor:
        for line in dict.fromkeys(line for values in runs for line in check(values)):
            console.print(line, markup=False)
    executor = open_executor(options, logs, name)
    for config in configs:
        begin(config)
    jobs = submit(executor, [ToolJob(function, values, state) for values in runs])
    for job, values in zip(jobs, runs, strict=True):
        log = logs / f"{job}_0_log.out"
        console.print(f"submitted {job}: {values['run_dir']}; log: {log}; to end it: scancel {job}", markup=False)
    return folder


def _launcher(configs: Sequence[DictConfig]) -> SlurmOptions:
    """The options of the one job or array of all configurations. Raises ConfigError where they differ."""
    if any(config.launcher != configs[0].launcher for config in configs):
        raise ConfigError("launcher=slurm: the runs of a sweep are one array; expected the same launcher.… of all")
    return read_options(SlurmOptions, plain(configs[0])["launcher"], "launcher")


def _choices(argument: str) -> list[str]:
    """The overrides that a sweep's argument stands for; any other argument alone."""
    if argument.startswith(("launcher", "prompts=")):  # car,wheel are the prompts of one run
        return [argument]
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return [argument]  # parse_command says what is wrong with it
    if not override.is_sweep_override():
        return [argument]
    return [f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()]
