"""The weights that come with the package: small, whole, and good at what they were trained for, and at that alone."""

from __future__ import annotations

import io
from importlib import resources

import pytest
from lightning_fabric import Fabric
from rich.console import Console

import sam3_hyperet as hy
from sam3_hyperet.cli.compare import compare_and_report
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.evaluation.models import EvalModel
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.modeling.build import TINY_WEIGHTS

pytestmark = pytest.mark.integration
PICTURES = 40


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    """On scenes of a seed and split that neither training nor the demo has seen."""
    root = tmp_path_factory.mktemp("scenes")
    data = DataOptions(name="unseen", format="scenes", root=str(root), splits={"val": PICTURES}, seed=4321)
    found = compare_and_report(
        [EvalModel("base", hy.build_model("tiny"))],
        data,
        open_split(data, "val"),
        Protocol(granularity=False, examples=0),
        root / "evaluated",
        config_text="",
        extra={},
        console=Console(file=io.StringIO()),
        fabric=Fabric(accelerator="cpu", devices=1),
    )
    return {key.removeprefix("unseen/"): value for key, value in found.items()}


def test_the_file_is_small():
    assert (resources.files("sam3_hyperet") / "weights" / TINY_WEIGHTS).stat().st_size <= 12e6


def test_objects_are_well_learnt(metrics):
    assert metrics["object/segm/AP"] > 0.55
    assert metrics["object/presence/accuracy_absent"] > 0.9
    assert metrics["object/presence/accuracy_present"] > 0.9


def test_groups_and_parts_are_not(metrics):
    assert metrics["group/segm/AP"] < 0.1
    assert metrics["part/segm/AP"] < 0.05
