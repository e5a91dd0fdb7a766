"""The weights that come with the package: small, whole, and good at what they were trained for, and at that alone."""

from __future__ import annotations

from importlib import resources

import pytest

import sam3_hyperet as hy
from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.data.scenes import write_scenes
from sam3_hyperet.evaluation.predictor import Predictor
from sam3_hyperet.evaluation.runner import Protocol, evaluate_instances
from sam3_hyperet.modeling.build import TINY_WEIGHTS

pytestmark = pytest.mark.integration
PICTURES = 40


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    """On scenes of a seed and split that neither training nor the demo has seen."""
    scenes = write_scenes(tmp_path_factory.mktemp("scenes"), PICTURES, 4321, 128, "unseen")
    images = read_coco(scenes.annotations(), scenes.image_folder, tree=scenes.concepts)
    model = hy.build_model("tiny")
    predictor = Predictor(model, [category.name for category in images.categories], hy.resolution(model))
    return evaluate_instances(predictor, images, scenes.annotations(), Protocol()).metrics


def test_the_file_is_small():
    assert (resources.files("sam3_hyperet") / "weights" / TINY_WEIGHTS).stat().st_size <= 12e6


def test_objects_are_well_learnt(metrics):
    assert metrics["object/segm/AP"] > 0.55
    assert metrics["object/presence/accuracy_absent"] > 0.9
    assert metrics["object/presence/accuracy_present"] > 0.9


def test_groups_and_parts_are_not(metrics):
    assert metrics["group/segm/AP"] < 0.1
    assert metrics["part/segm/AP"] < 0.05
