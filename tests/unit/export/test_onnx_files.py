"""Adjustments of every geometry as graphs: ONNX Runtime adjusts as PyTorch does, near the origin and far from it."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.choices import GEOMETRIES
from sam3_hyperet.export.graphs import Graph, Port
from sam3_hyperet.export.onnx_files import write_onnx

DIM = 8


class Adjusted(Graph):
    file = "adjusted.onnx"
    inputs = (Port("features", (1, "prompts", DIM), "float32", ""),)
    outputs = (Port("adjusted", (1, "prompts", DIM), "float32", ""),)

    def __init__(self, geometry: str) -> None:
        super().__init__()
        self.adjustment = HyperET(DIM, geometry=geometry, curvature=0.1)
        generator = torch.Generator().manual_seed(3)
        for parameter in self.adjustment.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
        if (b := self.adjustment.translation) is not None:
            b.data *= 1.5 / (0.1**0.5 * b.data.norm())  # long, as has a formula of its own

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.adjustment(inputs[0], 0.7)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_an_adjustment_is_exported(geometry, tmp_path):
    graph = Adjusted(geometry).eval()
    session = onnxruntime.InferenceSession(str(write_onnx(graph, tmp_path)))
    for norm in (0.0, 1e-4, 1.0, 30.0):
        x = norm * F.normalize(torch.randn(1, 5, DIM, generator=torch.Generator().manual_seed(4)), dim=-1)
        (found,) = session.run(None, {"features": x.numpy()})
        expected = graph(x).detach()
        # near 0, ONNX Runtime's asinh is off by some roundings of 1
        assert abs(torch.from_numpy(found) - expected).max() <= 1e-7 + 1e-5 * expected.abs().max()
