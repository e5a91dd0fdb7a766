"""The score of a model while it trains: the evaluation's own metrics, and nothing of training disturbs it."""

from __future__ import annotations

import contextlib
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

import sam3_hyperet as hy
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split, training_split
from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.compare import compare
from sam3_hyperet.evaluation.models import EvalModel
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.task import open_task
from sam3_hyperet.evaluation.validation_score import ValidationScore, known_metrics, open_validation
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.modeling.parameters import adapter_parameters, adapter_sites
from sam3_hyperet.training.gathering import Stopped


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    return DataOptions(name="drawn", format="scenes", root=str(root), splits={"train": 2, "tune": 2})


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu", devices=1)


def evaluated(model, data, folder, fabric):
    """What the evaluation says of a model on the same images."""
    task = open_task(open_split(data, "tune"), Protocol(bootstrap=0, examples=0, granularity=False))
    quiet = {"say": print, "progress": lambda images: contextlib.nullcontext(lambda: None)}
    found = compare([EvalModel("own", model)], data, task, folder, fabric, **quiet)
    return {key.removeprefix("drawn/"): value for key, value in found.metrics.items()}


def test_it_is_the_evaluation(model, base, randomized, data, fabric, tmp_path):
    """Of the base first, then of the model as it is, in the midst of training; generators and modes stay."""
    adapted = randomized(hy.inject(model, hy.HyperETConfig()))
    task = open_validation(open_split(data, "tune"), Protocol(), 32)
    score = ValidationScore(task, adapted, fabric)
    adapted.train()
    draws = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    with shared_encoding([adapted]):
        before = score(None)
        now = score(before)
        with torch.no_grad():
            for _, parameter in adapter_parameters(adapted):
                parameter.mul_(-1)
        later = score(before)
    assert torch.equal(draws[0], torch.get_rng_state())
    assert draws[1:] == (np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    assert all(module.training for module in adapted.modules())
    assert all(site.enabled for site in adapter_sites(adapted).values())
    assert now != later

    of_base, of_later = (evaluated(one, data, tmp_path / name, fabric) for name, one in (("a", base), ("b", adapted)))
    defined = {key for key, value in before.items() if math.isfinite(value)}
    assert {"segm/AP", "part/segm/cgF1", "fused/mIoU", "group/presence/accuracy_absent"} <= defined
    assert all(before[key] == pytest.approx(of_base[key], abs=1e-12) for key in defined)
    assert all(later[key] == pytest.approx(of_later[key], abs=1e-12) for key in defined)
    for key in ("segm/AP", "object/presence/accuracy_absent"):
        assert later[f"forgetting/{key}"] == before[key] - later[key]


def test_a_signal_ends_a_score_between_two_images(base, data, fabric, monkeypatch):
    split, opened = open_split(data, "tune"), []
    task, load = open_validation(split, Protocol(), 2), split.images.load_image
    monkeypatch.setattr(split.images, "load_image", lambda position: opened.append(position) or load(position))
    with pytest.raises(Stopped):
        ValidationScore(task, base, fabric, stop=lambda: bool(opened))(None)
    assert opened == [0]


def test_the_names_are_known_before_there_is_a_model(base, data, fabric):
    task = open_validation(open_split(data, "tune"), Protocol(), 1)
    known, found = known_metrics(task), ValidationScore(task, base, fabric)(None)
    assert {key for key in known if not key.startswith("forgetting/")} == found.keys()
    undefined = {key for key, value in found.items() if math.isnan(value)}
    assert {key for key, value in known.items() if math.isnan(value)} == undefined
    assert (known["segm/AP"], known["presence/accuracy_absent"]) == (0.0, 1.0)


def test_only_what_training_may_see_is_scored(data):
    """No annotation of a granularity, and no name, that is kept from training."""
    images = open_validation(training_split(replace(data, annotated=("object",)), "tune"), Protocol(), 2)
    known = known_metrics(images)
    assert math.isfinite(known["object/segm/AP"])
    assert math.isnan(known["part/segm/AP"])
    assert "fused/mIoU" not in known
    split = training_split(replace(data, prompts=("car", "sky", "tree")), "tune")
    task = open_validation(split, Protocol(), 2)
    assert set(task.vocabulary) == {"car", "sky", "tree"}


def test_a_truncated_image_is_found_before_there_is_a_model(data):
    split = open_split(data, "tune")
    path = split.images.image(1).path
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    try:
        with pytest.raises(DataError, match=path.name):
            open_validation(split, Protocol(), 2)
    finally:
        path.write_bytes(content)
