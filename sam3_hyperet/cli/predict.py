"""`sam3-hyperet predict`: what a model finds on images, as overlays, as one JSON file, and as COCO results."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.adapted_model import check_opening, described
from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.composition import plain
from sam3_hyperet.cli.doctor import warnings_of
from sam3_hyperet.cli.predict_files import check_written, remove_outdated, results_facts, write_files
from sam3_hyperet.cli.predict_images import ImageWriter, predict_images
from sam3_hyperet.cli.predict_inputs import Inputs, passed_over
from sam3_hyperet.cli.predict_models import PromptedModels
from sam3_hyperet.cli.predict_overlays import Overlays, check_options
from sam3_hyperet.cli.predict_records import PREDICTED, PredictionRecords, deciding
from sam3_hyperet.cli.progress import counted
from sam3_hyperet.cli.submit import parse_runs, submit_jobs
from sam3_hyperet.data.image_files import limit_megapixels
from sam3_hyperet.doctor.findings import Finding, ok
from sam3_hyperet.doctor.job import examine_job
from sam3_hyperet.files import Manifest, sole_use
from sam3_hyperet.inference.predictor import check_prompts
from sam3_hyperet.inference.tiles import Tiling
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.modeling.config import ModelOptions
from sam3_hyperet.modeling.opening import set_threads
from sam3_hyperet.options import read_options
from sam3_hyperet.wording import count_of


def main(argv: list[str] | None = None) -> Path:
    """Run the tool, or submit it to Slurm; returns the folder with the overlays and the JSON files, or of all runs."""
    configs, folder = parse_runs("predict", argv)
    if configs[0].launcher.name == "local":
        return predict(configs[0])
    for config in configs:
        launcher = read_options(SlurmOptions, plain(config.launcher), "launcher")
        launcher.check_processes({"predict's nodes": 1, "predict's devices": 1}, {"device": config.device})
    return submit_jobs(f"{__name__}:{predict_job.__name__}", configs, folder, "predict", _warnings, state=PREDICTED)


def predict_job(config: DictConfig) -> None:
    """`predict` as a job on a cluster runs it: an error of the user is one line of its log."""
    exit_cleanly(predict)(config)


def predict(config: DictConfig) -> Path:
    """Predict here and now; returns the folder with the overlays, predictions.json, results.json and images.json."""
    console = Console(highlight=False)
    say = partial(console.print, markup=False, soft_wrap=True)
    limit_megapixels(config.max_megapixels)
    tiling = Tiling.of(config.tiles, config.tile_overlap)
    inputs = Inputs.of(config)
    values, adapter = described(config)
    check_opening(config, values, adapter)
    check_options(config, is_adapted=adapter is not None)
    run_dir = Path(config.run_dir)
    written = check_written(run_dir, inputs, config)
    with sole_use(run_dir) as notice:
        others = passed_over(config.images) if config.annotations is None else ()
        notes, sizes = inputs.check(tiling, console)
        for line in filter(None, [notice, *notes, *others]):
            say(line)
        set_threads(config.threads)
        models = PromptedModels.of(config, values, adapter, list(inputs.categories), tiling)
        for line in models.lines:
            say(line)
        Manifest(run_dir).claim(*written)
        records = PredictionRecords(run_dir, inputs)
        left = records.prepare(deciding(config, inputs, models), resume=config.resume == "auto", say=say)
        remove_outdated(run_dir)
        overlays = Overlays.of(config, inputs.categories, models.headings) if config.overlays else None
        writer = ImageWriter(run_dir, inputs, records, overlays, config.masks)
        with records.kept(say):
            with models.running(sizes), counted(console, "images", len(left)) as on_image:
                predict_images(left, models, writer, say=say, on_image=on_image)
            for line in write_files(config, inputs, records, overlays, results_facts(config, models, adapter)):
                say(line)
        records.remove()
    return run_dir


def _warnings(values: dict[str, Any]) -> list[str]:
    """What is to be said of a prediction before it is submitted. Raises ConfigError if it would fail."""
    config, run_dir = OmegaConf.create(values), Path(values["run_dir"])
    Tiling.of(config.tiles, config.tile_overlap)
    model, adapter = described(config)
    check_options(config, is_adapted=adapter is not None)
    launcher = read_options(SlurmOptions, values["launcher"], "launcher")
    limit_megapixels(config.max_megapixels)

    def input_rows(model: host.Sam3Image) -> Iterator[Finding]:
        inputs = Inputs.of(config)
        check_written(run_dir, inputs, config)
        check_prompts(model, list(inputs.categories))
        yield ok("images", f"{count_of(len(inputs.paths), 'image')}, {count_of(len(inputs.categories), 'prompt')}")

    options, adapters = read_options(ModelOptions, model, "model"), [Path(adapter)] if adapter else []
    return warnings_of(examine_job(launcher, run_dir, options, adapters, {"images": input_rows}), values["run_dir"])
