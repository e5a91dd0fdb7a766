"""`tools/evaluate.py`: score the base and any number of adapted models side by side on any data set."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from sam3_hyperet import sam3_host as host
from sam3_hyperet.choices import KEPT
from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.compare import compare_and_report
from sam3_hyperet.cli.composition import plain
from sam3_hyperet.cli.dial import DialOptions, print_front, save_dials, set_dials, tuned_on
from sam3_hyperet.cli.doctor import warnings_of
from sam3_hyperet.cli.of_run import config_of_run, listed
from sam3_hyperet.cli.processes import launched
from sam3_hyperet.cli.progress import counted
from sam3_hyperet.cli.recognition import recognised, recognised_here
from sam3_hyperet.cli.submit import parse_runs, submit_jobs
from sam3_hyperet.data.answers import AnsweredImages
from sam3_hyperet.data.options import RESERVED_NAMES, DataOptions, KeptOptions, RehearsalOptions
from sam3_hyperet.data.sources import Split, open_split
from sam3_hyperet.data.vocabularies import listed as listed_names
from sam3_hyperet.doctor.cluster import unseen
from sam3_hyperet.doctor.findings import Finding, ok
from sam3_hyperet.doctor.job import examine_job
from sam3_hyperet.doctor.splits import small
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.evaluation.cascade import calibration_images
from sam3_hyperet.evaluation.dial import choose_dial
from sam3_hyperet.evaluation.kept import open_kept
from sam3_hyperet.evaluation.models import FOLDERS, TrainedFiles, along_dial, open_models
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.recording import RECORDS
from sam3_hyperet.evaluation.task import check_tiles, open_task
from sam3_hyperet.files import Manifest, sole_use
from sam3_hyperet.inference.predictor import check_prompts
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.modeling.adapter_source import adapter_name, is_on_hub, locate_adapter
from sam3_hyperet.modeling.config import ModelOptions
from sam3_hyperet.modeling.opening import check_checkpoint, choose_device, set_threads
from sam3_hyperet.options import read_options
from sam3_hyperet.override import override
from sam3_hyperet.reading import regular_file
from sam3_hyperet.training.gathering import from_first
from sam3_hyperet.training.run_files import ADAPTER, EVALUATION_FILES, WEIGHTS
from sam3_hyperet.wording import count_of, unique


def main(argv: list[str] | None = None) -> Path:
    """Run the tool, or submit it to Slurm; returns the folder with metrics.json and report.html, or of all of them."""
    configs, folder = parse_runs("evaluate", argv)
    if configs[0].launcher.name == "local":
        return evaluate(configs[0])
    say = partial(Console(highlight=False).print, markup=False, soft_wrap=True)
    configs = [recognised_here(config, say) for config in configs]
    for config in configs:
        launcher = read_options(SlurmOptions, plain(config.launcher), "launcher")
        launcher.check_processes({"nodes": config.nodes, "devices": config.devices}, {"device": config.device})
    return submit_jobs(f"{__name__}:{evaluate_job.__name__}", configs, folder, "evaluate", _warnings, state=RECORDS)


def evaluate_job(config: DictConfig) -> None:
    """`evaluate` as a job on a cluster runs it: an error of the user is one line of its log."""
    exit_cleanly(evaluate)(config)


def evaluate(config: DictConfig) -> Path:
    """Evaluate here and now; returns the folder with metrics.json and report.html."""
    protocol = read_options(Protocol, plain(config.protocol), "protocol")
    model_values = plain(config.model)
    check_checkpoint(model_values)
    lines: list[str] = []  # printed by the first process alone
    config = recognised(config, lines.append)
    data = read_options(DataOptions, plain(config.data), "data")
    trained, dials = _trained(config, data), DialOptions.of(config)
    dials.check(trained, data, str(config.split))
    for files in trained.values():
        if files.adapter:  # before the data is opened
            regular_file(files.adapter, CheckpointError)
    set_threads(config.threads)
    device, processes = choose_device(config.device), {"devices": config.devices, "nodes": config.nodes}
    strategy = "ddp" if config.devices * config.nodes > 1 else "auto"
    blamed = f"device={config.device}, devices={config.devices}, nodes={config.nodes}"
    fabric = launched(blamed, accelerator=device.type, strategy=strategy, **processes)
    console = Console(highlight=False, quiet=not fabric.is_global_zero)
    say = partial(console.print, markup=False, soft_wrap=True)
    for line in lines:
        say(line)
    with ExitStack() as stack:

        def begin() -> Path:
            if notice := stack.enter_context(sole_use(Path(config.run_dir))):
                say(notice)
            return Path(config.run_dir)

        run_dir = from_first(fabric, begin)  # whose clock names it
        with fabric.rank_zero_first():  # it may draw the images
            split = open_split(data, str(config.split))
            check_tiles(split, protocol)
            tuning = calibration_images(data, split, protocol)
            own = "data" in config.of_run or tuning or dials.is_auto  # which needs the training images
            if split.name == "val" and not own and (hint := _all_images(data)):
                say(hint)
            opened = _kept(config, protocol)
            kept = opened(split, say)
            choosing = dials.open_tuning(data, split, protocol, opened)
        models = open_models(model_values, trained, fabric.device if fabric.world_size > 1 else device)
        front = None
        if choosing and dials.rule:
            if warning := tuned_on(config.run, data):
                say(warning)
            base, adapted = (one.model for one in models)
            choose = partial(choose_dial, base=base, run_dir=run_dir, fabric=fabric, resume=config.resume == "auto")
            on_tuning = partial(counted, console, "tuning images")
            front = choose(adapted, data, choosing, dials.rule, dials.grid, say=say, progress=on_tuning)
            print_front(console, front)
        if dials.along:
            models = along_dial(models, dials.along)
        else:
            set_dials(models, front.chosen if front else dials.number, say)
        compare_and_report(
            models,
            data,
            split,
            protocol,
            run_dir,
            config_text=OmegaConf.to_yaml(config),
            extra={},
            console=console,
            fabric=fabric,
            tuning=tuning,
            kept=kept,
            resume=config.resume,
            keep_records=config.keep_records,
            dial_rule=dials.rule,
            front=front,
            base=read_options(ModelOptions, model_values, "model").weights,
        )
        if dials.save and fabric.is_global_zero:
            save_dials(models, say)
    say(f"wrote {run_dir / 'metrics.json'}, {run_dir / 'report.html'}")
    return run_dir


def _all_images(data: DataOptions) -> str:
    """How to score all images of a set that has one split, of which a part is held out; "" for others."""
    source = data.splits.get("train")
    if "val" in data.splits or not isinstance(source, str | list):
        return ""
    return f"to score all images of a set that nothing was trained on: {override('data.splits', {'val': source})}"


def _trained(config: DictConfig, data: DataOptions) -> dict[str, TrainedFiles]:
    use_weights = "model" in config.of_run
    return find_trained(listed(config.adapter), listed(config.run), data=data.name, use_weights=use_weights)


def _kept(config: DictConfig, protocol: Protocol) -> Callable[..., AnsweredImages | None]:
    """A function from a split to what `open_kept` returns for it, by the options and the runs, read once."""
    runs = [config_of_run(run) for run in listed(config.run)]
    options = read_options(KeptOptions, plain(config.kept), KEPT)
    if runs and options == KeptOptions():  # so that the numbers are those of the run
        own = read_options(KeptOptions, plain(runs[0].get(KEPT) or OmegaConf.create()), KEPT)
        options = replace(own, names=None)
    of_runs = [name for run in runs for name in _kept_by(run)]

    def opened(split: Split, say: Callable[[str], None] = lambda line: None) -> AnsweredImages | None:
        return open_kept(options, split, protocol, of_runs=of_runs, say=say)

    return opened


def _kept_by(run: DictConfig) -> Sequence[str]:
    """The names that the evaluation of a run asks the base for; an earlier version's run has none."""
    own, rehearsed = ((run.get(section) or {}).get("names") for section in (KEPT, RehearsalOptions.SECTION))
    return listed_names((rehearsed or ()) if own is None else own)


def _warnings(values: dict[str, Any]) -> list[str]:
    """What is to be said of an evaluation before it is submitted. Raises ConfigError if it would fail."""
    config = OmegaConf.create(values)
    data = read_options(DataOptions, values["data"], "data")
    protocol = read_options(Protocol, values["protocol"], "protocol")
    trained = _trained(config, data)
    DialOptions.of(config).check(trained, data, str(config.split))
    launcher = read_options(SlurmOptions, values["launcher"], "launcher")

    def data_rows(model: host.Sam3Image) -> Iterator[Finding]:
        if data.format != "scenes" and not Path(data.root).expanduser().is_dir():
            yield unseen("data", Path(data.root))
            return
        with tempfile.TemporaryDirectory() as folder:
            few = small(data, Path(folder))
            split = open_split(few, values["split"])
            check_tiles(split, protocol)
            calibration_images(few, split, protocol)
            task = open_task(split, protocol, _kept(config, protocol)(split))
        check_prompts(model, task.vocabulary)
        yield ok("data", f"{count_of(len(task.positions), 'image')}, {count_of(len(task.vocabulary), 'prompt')}")

    adapters = [one.adapter for one in trained.values() if one.adapter]
    options = read_options(ModelOptions, values["model"], "model")
    run_dir = Path(values["run_dir"])
    Manifest(run_dir).check(*EVALUATION_FILES)
    return warnings_of(examine_job(launcher, run_dir, options, adapters, {"data": data_rows}), values["run_dir"])


def find_trained(adapters: list[Path], runs: list[Path], *, data: str, use_weights: bool) -> dict[str, TrainedFiles]:
    """All adapted models, by unique names: those of the adapters, as for `load_adapter`, or else of the runs.

    No model gets the name of the data set, `data`. `use_weights` takes the base weights that a run trained, if it did.
    Raises ConfigError for adapter files together with several runs.
    """
    if adapters and len(runs) > 1:
        raise ConfigError(f"adapter= and {len(runs)} runs; expected adapter files, with one run at most, or runs")
    weights = [_existing(run / WEIGHTS["best"]) if use_weights else None for run in runs]
    if adapters:
        located = [locate_adapter(given) for given in adapters]
        names = [adapter_name(g if is_on_hub(g) else file) for g, file in zip(adapters, located, strict=True)]
        files = [TrainedFiles(file, *weights) for file in located]
    else:
        names = [run.resolve().name for run in runs]
        files = [TrainedFiles(_existing(run / ADAPTER["best"]), own) for run, own in zip(runs, weights, strict=True)]
    found: dict[str, TrainedFiles] = {}
    for name, of_model in zip(names, files, strict=True):
        if of_model.adapter or of_model.weights:  # the name is also that of a folder
            taken = {*found, data, *RESERVED_NAMES, *FOLDERS}
            found[unique(name.strip(".") or "adapter", taken)] = of_model
    return found


def _existing(file: Path) -> Path | None:
    return file if file.is_file() else None
