"""`sam3-hyperet predict`: what a model finds on images, as overlays, as one JSON file, and as COCO results."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
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
from sam3_hyperet.cli.predict_files import IMAGES, JSON_FILES, PREDICTIONS, RESULTS, open_results
from sam3_hyperet.cli.predict_inputs import Inputs, passed_over
from sam3_hyperet.cli.predict_models import PromptedModels
from sam3_hyperet.cli.predict_overlays import MASKS, PAGE, Overlays, check_options, write_masks
from sam3_hyperet.cli.progress import counted
from sam3_hyperet.cli.submit import parse_runs, submit_jobs
from sam3_hyperet.data.image_files import limit_megapixels
from sam3_hyperet.doctor.findings import Finding, ok
from sam3_hyperet.doctor.job import examine_job
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.files import Manifest, write_json
from sam3_hyperet.inference.predictor import check_prompts
from sam3_hyperet.inference.tiles import Tiling
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.modeling.adapter_source import HUB, PACKAGE, adapter_name
from sam3_hyperet.modeling.config import ModelOptions
from sam3_hyperet.modeling.dial import dial_of
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
    return submit_jobs(f"{__name__}:{predict_job.__name__}", configs, folder, "predict", _warnings)


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
    names: Sequence[str | None] = inputs.overlays() if config.overlays else [None] * len(inputs.paths)
    run_dir = Path(config.run_dir)
    written = _check_written(run_dir, inputs, names, masks=config.masks)
    for line in [*inputs.check(tiling, console), *(passed_over(config.images) if config.annotations is None else ())]:
        say(line)
    set_threads(config.threads)
    models = PromptedModels.of(config, values, adapter, list(inputs.categories), tiling)
    for line in models.lines:
        say(line)
    run_dir.mkdir(parents=True, exist_ok=True)
    if config.masks:
        Manifest(run_dir).remove(MASKS)
    Manifest(run_dir).claim(*written)
    colors = {prompt: number for number, prompt in enumerate(inputs.categories)}
    overlays = Overlays(run_dir, colors, models.headings, config.overlay_side, config.score_threshold)
    facts = {
        "adapter": adapter,
        "dial": dial_of(models.own.model) if adapter else None,
        "score_threshold": config.score_threshold,
        "precision": models.own.precision,
        **({} if tiling.is_whole else {"tiles": config.tiles, "tile_overlap": config.tile_overlap}),
        **({} if config.exemplars is None else {"exemplars": str(config.exemplars)}),
    }
    stems, masks, sizes = [Path(name).stem for name in inputs.overlays()], 0, []
    with ExitStack() as stack:
        stack.enter_context(models.running(inputs.paths))
        write = stack.enter_context(open_results(run_dir, facts, inputs.categories))
        on_image = stack.enter_context(counted(console, "images", len(inputs.paths)))
        for i, (path, name) in enumerate(zip(inputs.paths, names, strict=True)):
            image = inputs.load(i)
            entries = models.find(image, inputs.asked(i, image.size))
            if config.masks:
                masks += write_masks(run_dir, stems[i], entries[-1])
            if name:
                overlays.draw(name, path.name, image, entries)
            write(path, inputs.ids[i], entries[-1], name)
            sizes.append(image.size)
            say(models.line(path.name, image.size, entries))
            on_image()
    write_json(run_dir / IMAGES, inputs.listing(sizes))
    if config.overlays:
        title = f"{count_of(len(sizes), 'image')}, {count_of(len(inputs.categories), 'phrase')}"
        overlays.write_page(title, _facts(config, facts), [*JSON_FILES, *([f"{MASKS}/"] if masks else [])])
        for line in overlays.lines():
            say(line)
    say(_written_line(config, len(sizes), masks))
    return run_dir


def _written_line(config: DictConfig, images: int, masks: int) -> str:
    """What has been written, and where, for so many images."""
    ids = f"ids of {config.annotations}" if config.annotations else f"ids as in {IMAGES}"
    what = f"{count_of(images, 'overlay')} and the page {PAGE}, " if config.overlays else ""
    what += f"{count_of(masks, 'mask')}, " if config.masks else ""
    return f"wrote {what}{PREDICTIONS} and, in COCO's format, {RESULTS} ({ids}) to {Path(config.run_dir)}"


def _facts(config: DictConfig, facts: Mapping[str, Any]) -> dict[str, str]:
    """What the overlays' page says of how they were made: files by their names, for the page is passed on."""
    adapter, given = "none: the base", str(config.adapter)
    if facts["adapter"]:
        file, name = Path(facts["adapter"]), adapter_name(facts["adapter"])
        of_run = file.name if name == file.stem else f"{name}/{file.name}"
        adapter = given if given.startswith((HUB, PACKAGE)) else of_run
    named = {"adapter": adapter, "base": config.model.name, **{k: v for k, v in facts.items() if k != "adapter"}}
    if "exemplars" in named:
        named["exemplars"] = Path(named["exemplars"]).name
    if facts["dial"] is None:
        del named["dial"]
    return {
        key.replace("_", " "): f"{value:g}" if isinstance(value, float) else str(value) for key, value in named.items()
    }


def _check_written(run_dir: Path, inputs: Inputs, overlays: Sequence[str | None], *, masks: bool = False) -> list[str]:
    """Names of the files to write. Raises ConfigError if one of them would replace what `predict` did not write."""
    page = [PAGE] if any(overlays) else []
    written = [name for name in (*overlays, *page, *([MASKS] * masks), *JSON_FILES) if name]
    if replaced := {(run_dir / name).resolve() for name in written} & {path.resolve() for path in inputs.paths}:
        raise ConfigError(f"run_dir={run_dir}: the overlay would replace the image {replaced.pop()}; use another")
    Manifest(run_dir).check(*written)
    return written


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
        _check_written(run_dir, inputs, inputs.overlays() if config.overlays else [], masks=config.masks)
        check_prompts(model, list(inputs.categories))
        yield ok("images", f"{count_of(len(inputs.paths), 'image')}, {count_of(len(inputs.categories), 'prompt')}")

    options, adapters = read_options(ModelOptions, model, "model"), [Path(adapter)] if adapter else []
    return warnings_of(examine_job(launcher, run_dir, options, adapters, {"images": input_rows}), values["run_dir"])
