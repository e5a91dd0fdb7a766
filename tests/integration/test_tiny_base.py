"""The weights that come with the package: small, whole, and good at what they were trained for, and at that alone."""

from __future__ import annotations

import io
from importlib import resources

import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from rich.console import Console

import sam3_hyperet as hy
from sam3_hyperet.cli.compare import compare_and_report
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.data.vocabularies import VOCABULARIES
from sam3_hyperet.evaluation.models import EvalModel
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.config import PACKAGED
from sam3_hyperet.scenes.concepts import CONCEPTS, HELD_OUT
from sam3_hyperet.scenes.dataset import scene

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


@pytest.mark.parametrize("name", PACKAGED)
def test_the_file_is_small(name):
    assert (resources.files("sam3_hyperet") / "weights" / PACKAGED[name]).stat().st_size <= 12e6


@torch.inference_mode()
def test_the_second_base_knows_its_half_of_the_levels_and_of_the_rest_that_it_is_absent():
    predictor = Predictor(hy.build_model("tiny_levels"), VOCABULARIES["scenes_known"] + HELD_OUT, 128)
    found = list[tuple[str, bool, bool, bool]]()
    for index in range(1, 9):
        image, instances = scene(4321, "val", index)
        present = {instance.concept for instance in instances}
        encoded = predictor.encode(Image.fromarray(image))
        for name, prediction in zip(predictor.vocabulary, predictor.predict(encoded), strict=True):
            found.append((CONCEPTS[name].granularity, name in HELD_OUT, name in present, prediction.presence >= 0.5))
    for level in ("object", "part", "group"):
        known = [said == there for of, held_out, there, said in found if of == level and not held_out]
        assert sum(known) > 0.9 * len(known), level
    assert sum(said for _, held_out, _, said in found if held_out) <= 2


def test_objects_are_well_learnt(metrics):
    assert metrics["object/segm/AP"] > 0.55
    assert metrics["object/presence/accuracy_absent"] > 0.9
    assert metrics["object/presence/accuracy_present"] > 0.9


def test_groups_and_parts_are_not(metrics):
    assert metrics["group/segm/AP"] < 0.1
    assert metrics["part/segm/AP"] < 0.05
