"""`sam3-hyperet export`: a model with its adapter as ONNX files, checked in ONNX Runtime before they are kept."""

from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from sam3_hyperet.cli.adapted_model import dial_line, open_adapted
from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.composition import with_values
from sam3_hyperet.cli.predict_inputs import listed_prompts, trial_images
from sam3_hyperet.digest import sha256
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.export.check import trials
from sam3_hyperet.export.folder import DESCRIPTION, check_export, export_onnx
from sam3_hyperet.inference.predictor import check_prompts, model_input
from sam3_hyperet.modeling.adapter_source import adapter_name
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.dial import dial_of
from sam3_hyperet.modeling.merge import merge
from sam3_hyperet.modeling.opening import set_threads
from sam3_hyperet.options import PositiveInt, check_value
from sam3_hyperet.wording import count_of

_CPU = torch.device("cpu")


def main(argv: list[str] | None = None) -> Path:
    """Run the tool; returns the folder written.

    Raises ConfigError for what cannot be exported and for a folder that is there, CheckpointError for files that do
    not fit and for outputs that differ from PyTorch's. Nothing is written then.
    """
    _, config = parse_command("export", argv)
    console = Console(highlight=False, soft_wrap=True)
    check_value("boxes", config.boxes, PositiveInt)
    set_threads(config.threads)
    out = Path(config.out)
    check_export(out)
    images = trial_images(config.images, partial(console.print, markup=False))
    prompts = listed_prompts(config.prompts)
    model, adapter = open_adapted(with_values(config, {"device": "cpu"}))
    check_prompts(model, prompts)
    if line := dial_line(model, config.dial):
        console.print(line, markup=False)
    pixels = [model_input(image, resolution(model), _CPU) for image in images]
    checked = trials(model, pixels, prompts, config.boxes)
    dial, merged = dial_of(model) if adapter else None, None
    if adapter:
        try:
            merge(model, torch.stack(pixels))
            merged = True
            console.print("the adapter is folded into the weights", markup=False)
        except ConfigError as error:
            merged = False
            console.print(f"the adapter stays a part of the graphs: {error}", markup=False)
    checkpoint = config.model.checkpoint
    facts = {
        "model": config.model.name,
        "checkpoint": Path(checkpoint).name if checkpoint and Path(checkpoint).exists() else checkpoint,
        "run": config.run and Path(str(config.run)).name,
        "adapter": adapter and adapter_name(adapter),
        "adapter_sha256": adapter and sha256(Path(adapter)),
        "dial": dial,
        "merged": merged,
    }
    description = export_onnx(model, out, checked, config.boxes, facts)
    differences = description["difference_from_pytorch"]
    name = max(differences, key=differences.__getitem__)
    compared = f"{count_of(len(images), 'image')}, {count_of(len(prompts), 'prompt')} with and without boxes"
    console.print(f"ONNX Runtime and PyTorch differ by at most {differences[name]:.1e} ({name}) on {compared}")
    console.print(f"wrote {', '.join(sorted(file.name for file in out.iterdir()))} to {out}", markup=False)
    console.print(f"inputs, outputs and how to prepare them: {out / DESCRIPTION}", markup=False)
    return out
