"""A folder of ONNX files, the tokenizer and a description of them, there as a whole or not at all."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.export.check import Trial, largest_differences
from sam3_hyperet.export.graphs import Graph, Grounding, ImageEncoder, TextEncoder
from sam3_hyperet.export.onnx_files import write_onnx
from sam3_hyperet.export.tokenizer import TOKENIZER, write_tokenizer
from sam3_hyperet.files import new_folder, write_json
from sam3_hyperet.inference.rounding import TOLERANCE
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.version import __version__

DESCRIPTION = "export.json"
_NEEDED = ("onnx", "onnxscript", "onnxruntime", "tokenizers")


def check_export(folder: Path) -> None:
    """Raise a ConfigError if the extra `onnx` is missing, or the folder is there already."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"export needs {', '.join(missing)}: pip install 'sam3_hyperet[onnx]'")
    if os.path.lexists(folder):
        raise ConfigError(f"out={folder}: is there already; expected a new folder")


def export_onnx(
    model: host.Sam3Image, folder: Path, checked: Sequence[Trial], boxes: int, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a model on the CPU, adapters included, as ONNX files; returns the description, which has `facts`.

    boxes: of each prompt, at most. Raises ConfigError for what PyTorch's exporter does not take, and CheckpointError
    where ONNX Runtime's outputs are not those of `checked`; nothing is written then.
    """
    folder = Path(folder)
    with torch.inference_mode():
        side = resolution(model)
        positions = model.backbone.forward_image(torch.zeros(1, 3, side, side))["vision_pos_enc"]
    graphs: list[Graph] = [ImageEncoder(model), TextEncoder(model), Grounding(model, boxes, positions)]
    with new_folder(folder) as whole:
        phrases = dict.fromkeys(phrase for trial in checked for phrase in trial.prompts)
        write_tokenizer(model, whole, list(phrases))
        for graph in graphs:
            write_onnx(graph.eval(), whole)
            host.clear_caches(model)  # of what has no values
        differences = largest_differences(model, whole, checked)
        for name, difference in differences.items():
            if not difference <= TOLERANCE:
                raise CheckpointError(
                    f"{name} in ONNX Runtime differ from PyTorch's by {difference:.1e}, relative to the largest "
                    f"value; expected at most {TOLERANCE}"
                )
        description = _description(graphs, boxes, differences, facts)
        write_json(whole / DESCRIPTION, description)
    return description


def _description(
    graphs: Sequence[Graph], boxes: int, differences: Mapping[str, float], facts: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        **facts,
        "sam3_hyperet": __version__,
        "torch": torch.__version__,
        "precision": "float32",
        "pixels": {"channels": "RGB", "scale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3, "resize": "bilinear"},
        "text": {"tokenizer": TOKENIZER, "tokens": host.CONTEXT_LENGTH, "padding": 0},
        "prompts": "any number",
        "boxes_of_a_prompt": boxes,
        "difference_from_pytorch": differences,
        "graphs": {
            graph.file: {
                kind: {port.name: {"shape": list(port.axes), "dtype": port.dtype, "is": port.meaning} for port in ports}
                for kind, ports in (("inputs", graph.inputs), ("outputs", graph.outputs))
            }
            for graph in graphs
        },
    }
