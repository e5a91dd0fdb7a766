"""`sam3-hyperet demo`: a page in the browser with phrases, boxes and the dial, base and adapted side by side."""

import importlib.util
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.composition import plain
from sam3_hyperet.cli.evaluate import find_trained
from sam3_hyperet.cli.of_run import listed
from sam3_hyperet.cli.predict_inputs import find_images, listed_prompts, passed_over
from sam3_hyperet.data.image_files import limit_megapixels
from sam3_hyperet.demo.concepts import Concepts
from sam3_hyperet.demo.models import Models
from sam3_hyperet.demo.samples import MOST, Samples
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.evaluation.models import BASE, EvalModel, TrainedFiles, open_models
from sam3_hyperet.inference.predictor import check_prompts
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.config import PACKAGED, adapter_config, packaged_adapter
from sam3_hyperet.modeling.opening import choose_device, set_threads
from sam3_hyperet.modeling.parameters import parameter_report
from sam3_hyperet.precision import precision_text, resolved_precision
from sam3_hyperet.training.run_files import ADAPTER

_PHRASES = ("building", "roof", "wheel")  # two of parts and one group, all of which the packaged adapter has learnt


def main(argv: list[str] | None = None) -> None:
    """Run the tool until it is interrupted."""
    _, config = parse_command("demo", argv)
    console = Console(highlight=False)
    with serving(config, console) as address:
        console.print(f"the page is at {address} (Ctrl-C ends it)", markup=False, soft_wrap=True)
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            threading.Event().wait()
        except KeyboardInterrupt:
            console.print("ended")


@contextmanager
def serving(config: DictConfig, console: Console) -> Iterator[str]:
    """Context in which the page is served; its address. What cannot be is an error before a model is built."""
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError('the page needs Gradio: pip install "sam3_hyperet[demo]"')
    limit_megapixels(config.max_megapixels)
    set_threads(config.threads)
    port, device = _free_port(config.host, config.port), choose_device(config.device)
    resolved_precision(config.precision, device.type)
    trained = _trained(config)
    samples, lines = _samples(config)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    concepts = Concepts.read(Path(config.tree)) if config.tree else None
    if concepts is None and config.model.name in PACKAGED and config.model.checkpoint is None:
        concepts = Concepts.of_scenes()
    prompts = listed_prompts(config.prompts) if config.prompts is not None else () if config.images else _PHRASES
    base, *adapted = open_models(plain(config.model), trained, device)
    _check(base, adapted)
    if prompts:
        check_prompts(base.model, prompts)
    options = {"precision": config.precision, "prompts_at_once": config.prompts_at_once, "pictures": config.pictures}
    with Models(base.model, {one.name: one.model for one in adapted}, **options) as models:
        console.print(precision_text(config.precision, models.precision, device.type), markup=False, soft_wrap=True)
        about = [
            f"{config.model.name}: {resolution(base.model)} pixels, {models.precision} on {device.type}",
            *(_description(one.name, one.model) for one in adapted),
            *_remarks(trained),
        ]
        for line in about:
            console.print(line, markup=False, soft_wrap=True)
        from sam3_hyperet.demo.page import Start, served  # Gradio takes seconds to import

        start = Start(tuple(prompts), float(config.dial), float(config.score_threshold), " · ".join(about))
        with served(
            models, samples, concepts, start, host=config.host, port=port, in_browser=config.browser
        ) as address:
            yield address


def _trained(config: DictConfig) -> Mapping[str, TrainedFiles]:
    """The adapted models that `run=` and `adapter=` describe, by name; the packaged one without either."""
    runs, adapters = listed(config.run), listed(config.adapter)
    if not runs and not adapters:
        packaged = packaged_adapter(config.model.name) if config.model.checkpoint is None else None
        if packaged is None:
            which = f"model={config.model.name} model.checkpoint={config.model.checkpoint or 'null'}"
            raise ConfigError(f"demo: no adapter comes with {which}; expected adapter=FILE or run=DIR")
        return {"adapted": TrainedFiles(packaged)}
    found = find_trained(adapters, runs, data="", use_weights="model" in config.of_run)
    if not found or any(files.adapter is None for files in found.values()):
        expected = "expected finished runs with adapters, which have a dial"
        raise CheckpointError(f"run={config.run}: no {ADAPTER['best']} in one of them; {expected}")
    return found


def _samples(config: DictConfig) -> tuple[Samples, list[str]]:
    """Pictures to begin with, and lines about those that are left out."""
    if config.images is None:
        return Samples(), []
    files, lines = find_images(config.images), passed_over(config.images)
    if len(files) > MOST:
        lines.append(f"the first {MOST} of {len(files):,} images are offered; the page opens any other by upload")
    return Samples(files), lines


def _check(base: EvalModel, adapted: list[EvalModel]) -> None:
    """Raise a ConfigError where there is nothing to compare."""
    if base.name != BASE or not adapted:
        raise ConfigError("demo: the run trained all of a random model, so there is no base to compare with")


def _description(name: str, model: host.Sam3Image) -> str:
    """An adapter in one line."""
    config, counts = adapter_config(model), parameter_report(model)
    assert config is not None
    geometry = f"{config.geometry}, " if config.adapter == "hyperet" else ""
    return f"{name}: {config.place}, {geometry}{counts['added']:,} parameters ({100 * counts['added_ratio']:.2g} %)"


def _remarks(trained: Mapping[str, TrainedFiles]) -> list[str]:
    """What is to be known of runs that trained base weights."""
    names = [name for name, files in trained.items() if files.weights]
    return [f"{', '.join(names)} trained base weights, too: dial 0 is not the base"] if names else []


def _free_port(name: str, port: int) -> int:
    """The port itself, or any that is free for 0. Raises ConfigError for one that cannot be had."""
    try:
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind((name, port))
            return int(free.getsockname()[1])
    except OSError as error:
        expected = "expected another port=, or port=0 for any that is free"
        raise ConfigError(f"host={name} port={port}: {error.strerror or error}; {expected}") from error
