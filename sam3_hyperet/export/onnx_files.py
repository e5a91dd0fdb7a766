"""A graph as an ONNX file, by PyTorch's exporter."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.export.graphs import Graph

MOST_PROMPTS = 4096
"""The exporter wants a bound of what is free; none of the graphs has one of its own."""
_CHATTY = "onnxscript"


def write_onnx(graph: Graph, folder: Path) -> Path:
    """Write a graph in evaluation mode to its file in a folder; above 1.5 GB the weights are in a file beside it.

    Raises ConfigError, with PyTorch's reason, for what its exporter does not take.
    """
    free = {axis for port in graph.inputs for axis in port.axes if isinstance(axis, str)}
    dims = {axis: torch.export.Dim(axis, min=1, max=MOST_PROMPTS) for axis in free}
    axes = tuple({i: dims[a] for i, a in enumerate(port.axes) if isinstance(a, str)} or None for port in graph.inputs)
    dynamic = (axes,) if free else None  # of the one parameter *inputs
    path = folder / graph.file
    with _quiet(), torch.no_grad():
        try:
            exported = torch.export.export(graph, graph.example(), dynamic_shapes=dynamic, strict=False)
            program = torch.onnx.export(
                exported,
                dynamo=True,
                verbose=False,
                dynamic_shapes=dynamic,  # for the axes' names alone
                input_names=[port.name for port in graph.inputs],
                output_names=[port.name for port in graph.outputs],
            )
        except RuntimeError as error:  # so are the exporter's own
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"{graph.file}: PyTorch {torch.__version__} cannot export this model: {reason}"
            ) from error
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces with this machine's paths, most of a small file
    program.save(path)
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without the exporter's remarks on its own progress, and without fused attention, which it lacks."""
    logger = logging.getLogger(_CHATTY)
    level, fused = logger.level, torch.backends.mha.get_fastpath_enabled()
    logger.setLevel(logging.ERROR)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fused)
