"""`tools/merge.py`: an adapter folded into the base weights, checked on pictures, then written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from torch import Tensor

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.evaluate import choose_device
from sam3_hyperet.cli.predict import find_pictures
from sam3_hyperet.data.annotations import read_picture
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.inference.predictor import Predictor, model_input
from sam3_hyperet.modeling.adapter_file import load_adapter
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.checkpoint import save_base, save_official
from sam3_hyperet.modeling.merge import merge
from sam3_hyperet.modeling.opening import open_model, set_threads

TOLERANCE = 1e-4
"""Largest difference of an output, relative to the output's largest value, that rounding explains."""


def main(argv: list[str] | None = None) -> Path:
    """Run the tool; returns the file written.

    Raises:
        ConfigError: an adapter that does not fold.
        CheckpointError: files that do not fit, or outputs that changed: nothing is written.
    """
    _, config = parse_command("merge", argv)
    console = Console(highlight=False)
    set_threads(config.threads)
    out = Path(config.out)
    if out.suffix == ".safetensors" and config.carry_over:
        raise ConfigError(f"carry_over={config.carry_over} is for SAM 3's own layout; out={out} is for checkpoint=")
    paths = find_pictures(config.images) if config.images else {}
    pictures = [read_picture(path) for path in paths] or [_noise()]
    model = open_model(OmegaConf.to_container(config.model)).to(choose_device(config.device))
    load_adapter(model, config.adapter)
    before = _outputs(model, pictures, list(config.prompts))
    merge(model, torch.stack([model_input(picture, resolution(model), model.device) for picture in pictures]))
    after = _outputs(model, pictures, list(config.prompts))
    difference = max(float((x - y).abs().max() / x.abs().max()) for x, y in zip(before, after, strict=True))
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"{config.adapter}: merged outputs differ by {difference:.1e}; expected at most {TOLERANCE}"
        )
    if out.suffix == ".safetensors":
        save_base(model, out)
    else:
        save_official(model, out, config.carry_over)
    console.print(f"outputs on {len(pictures)} pictures differ by {difference:.1e}; wrote {out}")
    return out


def _noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))


def _outputs(model: host.Sam3Image, pictures: list[Image.Image], prompts: list[str]) -> list[Tensor]:
    """Scores, boxes and masks of every prompt on every picture."""
    predictor = Predictor(model, prompts, resolution(model))
    answers = [answer for picture in pictures for answer in predictor.predict(picture)]
    return [tensor for a in answers for tensor in (a.query_scores, a.boxes, a.mask_logits, a.semantic_logits)]
