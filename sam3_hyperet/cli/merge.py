"""`sam3-hyperet merge`: an adapter folded into the base weights, checked on images, then written in a chosen layout."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.adapted_model import check_opening, described, dial_line, open_described
from sam3_hyperet.cli.command import check_output, parse_command
from sam3_hyperet.cli.of_run import listed
from sam3_hyperet.cli.predict_inputs import listed_prompts, trial_images
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.inference.predictor import Predictor, model_input
from sam3_hyperet.inference.rounding import TOLERANCE, relative_difference
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.checkpoint import check_without_adapters, save_base, save_official
from sam3_hyperet.modeling.layouts.base_files import REMAINDER, locate_base
from sam3_hyperet.modeling.layouts.transformers_folder import check_new_folder, save_transformers
from sam3_hyperet.modeling.merge import merge
from sam3_hyperet.modeling.opening import set_threads
from sam3_hyperet.options import one_of
from sam3_hyperet.precision import float32_products
from sam3_hyperet.training.run_files import ADAPTER, WEIGHTS
from sam3_hyperet.wording import count_of

_CPU = torch.device("cpu")
LAYOUTS = ("official", "base", "transformers")


def main(argv: list[str] | None = None) -> Path:
    """Run the tool; returns the file or folder written.

    Raises ConfigError for an adapter that does not fold, CheckpointError for files that do not fit and for outputs that
    changed. Nothing is written then.
    """
    _, config = parse_command("merge", argv)
    console = Console(highlight=False, soft_wrap=True)
    set_threads(config.threads)
    out = Path(config.out)
    layout = _layout(config.layout, out, config.carry_over)
    of_run = (run / name for run in listed(config.run) for name in (*ADAPTER.values(), *WEIGHTS.values()))
    check_output(out, *listed(config.adapter), config.carry_over, config.model.checkpoint, *of_run)
    if config.adapter is None and config.run is None and config.layout is None:
        raise ConfigError("merge: needs adapter=… or run=…, or layout=… to write the base alone (see --help)")
    images = trial_images(config.images, partial(console.print, markup=False))
    prompts = listed_prompts(config.prompts)
    if config.carry_over and not locate_base(config.carry_over).is_file():  # before the model is built
        raise CheckpointError(f"carry_over={config.carry_over}: no such file")
    values, adapter = described(config)
    check_opening(config, values, adapter)
    if (checkpoint := values["checkpoint"]) not in (None, "random"):
        check_without_adapters(checkpoint)
    model = open_described(config, values, adapter)
    if adapter is None and config.layout is None:
        raise ConfigError(f"run={config.run} has no adapter; expected weights to fold one into, or layout=…")
    checked = "no adapter"
    if adapter is not None:
        line = dial_line(model, config.dial)
        before = list(_outputs(model, images, prompts))
        merge(model, torch.stack([model_input(image, resolution(model), _CPU) for image in images]))
        after = _outputs(model, images, prompts)
        difference = np.max([relative_difference(x, y) for x, y in zip(after, before, strict=True)])
        if not difference <= TOLERANCE:
            raise CheckpointError(f"{adapter}: merged outputs differ by {difference:.1e}; expected at most {TOLERANCE}")
        checked = f"{line and f'{line}; '}outputs on {count_of(len(images), 'image')} differ by {difference:.1e}"
    if layout == "base":
        save_base(model, out)
    elif layout == "official":
        save_official(model, out, config.carry_over)
    else:
        kept = save_transformers(model.to("cpu"), out, config.carry_over)
        console.print(f"kept beside, in {REMAINDER}, for transformers has no place for it: {kept}")
        console.print("asked with text alone, transformers leaves out a token that SAM 3 has: see docs/weights.md")
    console.print(f"{checked}; wrote {out}", markup=False)
    return out


def _layout(layout: str | None, out: Path, carry_over: str | None) -> str:
    """The layout to write, chosen or by the ending of `out`. Raises ConfigError for an ending that misleads."""
    is_safetensors = out.suffix == ".safetensors"
    layout = layout or ("base" if is_safetensors else "official")
    one_of("layout", layout, LAYOUTS)
    if layout == "transformers":
        check_new_folder(out)
    elif is_safetensors is not (layout == "base"):
        expected = "*.safetensors" if layout == "base" else "another ending, such as .pt, which its builders read"
        raise ConfigError(f"out={out} with layout={layout}; expected {expected}")
    if layout == "base" and carry_over:
        raise ConfigError(f"carry_over={carry_over} is for SAM 3's own layout; out={out} is for checkpoint=")
    return layout


def _outputs(model: host.Sam3Image, images: list[Image.Image], prompts: list[str]) -> Iterator[Tensor]:
    """Scores, boxes and masks of every prompt on every image, on the CPU."""
    predictor = Predictor(model, prompts, resolution(model))
    with float32_products(predictor.precision):
        for p in (prediction for image in images for prediction in predictor.predict(image)):
            yield from (one.cpu() for one in (p.query_scores, p.boxes, p.mask_logits, p.semantic_logits))
