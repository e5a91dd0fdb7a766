"""A cascade is calibrated on tuning images, and says what it changed on those that are scored."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from drawn_pictures import CLASSES, Drawn
from lightning_fabric import Fabric

import sam3_hyperet as hy
from sam3_hyperet.data.hierarchy import Hierarchy
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation import cascade
from sam3_hyperet.evaluation.against_exact import difference_line
from sam3_hyperet.evaluation.cascade import calibration, calibration_images, measured_recall
from sam3_hyperet.evaluation.compare import compare
from sam3_hyperet.evaluation.models import FIRST_LOOKS, beside_base
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.task import open_task

TUNING, SCORED = 3, 2
BY = "tuning images, by every model's exact predictions"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    splits, known = {"tune": TUNING, "val": SCORED}, ("car", "house", "tree", "sky", "grass", "dog", "wheel", "plant")
    return DataOptions(name="drawn", format="scenes", root=str(root), splits=splits, vocabulary=known)


@pytest.mark.parametrize(
    ("recall", "positives", "k"),
    [(0.995, 198, 0), (0.995, 199, 1), (0.995, 399, 2), (0.9, 9, 1), (0.5, 3, 2), (0.0, 3, 3)],
)
def test_the_threshold_is_the_kth_smallest_look_of_the_prompts_that_matter(recall, positives, k):
    looks = np.concatenate([np.linspace(0.2, 0.9, positives)[::-1], np.full(1000, 0.01)])
    scores = np.concatenate([np.full(positives, 0.05), np.full(1000, 0.049)])
    found = calibration(looks, scores, 7, Protocol(recall=recall, min_score=0.05))
    assert found.spare_below == (np.linspace(0.2, 0.9, positives)[k - 1] if k else 0)
    assert (found.positives, found.images) == (positives, 7)
    assert found.spared == pytest.approx((1000 + k - 1) / (1000 + positives) if k else 0)
    line = found.line("base", Protocol(recall=recall, min_score=0.05))
    assert ("nothing is spared; expected more tuning images (data.tune_images" in line) == (k == 0)


def test_looks_that_spare_less_than_they_cost_are_not_made():
    looks, scores = np.linspace(0, 1, 1000), np.concatenate([np.zeros(200), np.ones(800)])
    found = calibration(looks, scores, 3, Protocol(recall=0.99, min_score=0.05))
    assert found.spare_below == 0
    assert found.spared == pytest.approx(0.207)
    assert "would spare 20.7% of all prompts, which first looks cost: nothing" in found.line("base", Protocol())


def test_prompts_of_the_same_kind_are_kept_as_often_as_stated():
    draws, generator = [], np.random.default_rng(0)
    for _ in range(2000):
        looks = generator.normal(size=250) ** 2
        threshold = calibration(looks[:-1], np.ones(249), 1, Protocol(recall=0.6, min_score=0.05)).spare_below
        draws.append(looks[-1] >= threshold)
    assert 0.57 < np.mean(draws) < 0.64


def test_recall_is_of_what_the_exact_records_say():
    exact = [{"scores": np.array([0.9, 0.04, 0.05, np.nan])}, {"scores": np.array([0.3, 0.5, 0.01, 0.2])}]
    records = [{"spared": np.array([0, 1, 1, 0], bool)}, {"spared": np.array([0, 0, 1, 0], bool)}]
    assert measured_recall(records, exact, 0.05) == 4 / 5
    assert np.isnan(measured_recall(records, exact, 0.95))


def test_a_cascade_is_not_calibrated_on_what_it_scores(data):
    cascade = Protocol(recall=0.9, min_score=0.05)
    assert calibration_images(data, open_split(data, "tune"), Protocol()) is None
    assert len(calibration_images(data, open_split(data, "val"), cascade)) == TUNING
    with pytest.raises(ConfigError, match="calibrated on the tune split; expected split=val"):
        calibration_images(data, open_split(data, "tune"), cascade)
    coco = open_split(data, "val").coco_file.parent.parent
    pairs = dict.fromkeys(("tune", "val"), ("val/images", "annotations/instances_val.json"))
    twice = replace(data, format="coco", root=str(coco), splits=pairs)
    with pytest.raises(ConfigError, match="protocol=cascade: 2 of its tuning images are scored in split=val"):
        calibration_images(twice, open_split(twice, "val"), cascade)
    alone = replace(data, splits={"val": SCORED})
    with pytest.raises(ConfigError, match=r"neither a tune nor a train split, but val; expected data.splits.tune"):
        calibration_images(alone, open_split(alone, "val"), cascade)


@pytest.fixture
def models(model, randomized):
    return beside_base(randomized(hy.inject(model, hy.HyperETConfig(scheme="B"))))


@pytest.fixture
def run(data, models, tmp_path):
    """A function that evaluates the models into a folder; returns their metrics and what was said."""

    def evaluated(folder, **options):
        protocol = Protocol(**{"examples": 0, "bootstrap": 0, "granularity": False, **options})
        split, said, fabric = open_split(data, "val"), list[str](), Fabric(accelerator="cpu", devices=1)
        tuning, waiting = calibration_images(data, split, protocol), lambda total: nullcontext(lambda: None)
        task = open_task(split, protocol)
        found = compare(models, data, task, tmp_path / folder, fabric, tuning=tuning, say=said.append, progress=waiting)
        assert [line for line in said if "recall" in line and "start over" not in line] == list(found.notes)
        return found.metrics, said

    return evaluated


class Noting:
    """A predictor of known looks and scores, which notes the prompts that it gets."""

    vocabulary, model = [name for name, _ in CLASSES.values()], None

    def __init__(self):
        self.asked = []

    def encode(self, image):
        return {}

    def first_look(self, encoded, prompts):
        self.asked.append(list(prompts))
        return torch.tensor([[k / 10, 0.5] for k in prompts]).T

    def predict(self, encoded, prompts):
        return (SimpleNamespace(scores=torch.tensor([k / 20, 0.0])) for k in prompts)


@pytest.mark.parametrize(("granularity", "asked"), [(False, [0, 3]), (True, [0, 2, 3])])
def test_tuning_images_are_not_asked_for_what_is_not_known_there(tmp_path, monkeypatch, granularity, asked):
    monkeypatch.setattr(cascade, "weights_kept", lambda models: nullcontext())
    monkeypatch.setattr(cascade, "shared_encoding", lambda models: nullcontext())
    monkeypatch.setattr(cascade, "hierarchy_of", lambda categories: Hierarchy({"vehicle": ("dog",)}))
    every, images, predictor = [0, 1, 2, 3], Drawn([[], [], []]), Noting()
    unknown = [set(), {7, 8}, {*CLASSES}]
    images.unlabelled = lambda i: frozenset(unknown[i])
    protocol = Protocol(recall=0.5, min_score=0.05, granularity=granularity, precision="32-true")
    calibrator = cascade.Calibrator({"base": predictor}, images, protocol)
    store = RecordStore(tmp_path)
    calibrator.record(store, [0, 1, 2], lambda total: nullcontext(lambda: None))
    last = [2, 3] if granularity else []
    assert predictor.asked == [every, asked, *([last] if last else [])]
    assert np.flatnonzero(np.isfinite(store.read(1)["base/looks"])).tolist() == asked
    found = calibrator.calibrations(store)["base"]
    assert found.positives == sum(k > 0 for k in [*every, *asked, *last])
    full = {"base/looks": np.arange(4, dtype=np.float32) / 10, "base/scores": np.arange(4) / 20}
    store.write(1, full)  # as earlier versions recorded it
    assert calibrator.calibrations(store)["base"] == found


def test_a_cascade_reports_what_it_changed(run, data, tmp_path):
    options = {"recall": 0.3, "min_score": 0.01}
    exact, _ = run("exact")
    metrics, said = run("cascade", compare_exact=SCORED, **options)
    for model in ("base/", ""):
        assert 0 < metrics[f"{model}drawn/speed/spared_ratio"] < 1
        assert metrics[f"{model}drawn/detections"] < exact[f"{model}drawn/detections"]
        for key, full in (("AP", "segm/AP"), ("mIoU", "fused/mIoU")):
            change = metrics[f"{model}drawn/{full}"] - exact[f"{model}drawn/{full}"]
            assert metrics[f"{model}drawn/speed/cascade_minus_exact/{key}"] == pytest.approx(change, abs=1e-6)
        assert 0 < metrics[f"{model}drawn/speed/cascade_recall"] <= 1
        assert metrics[f"{model}drawn/speed/cascade_speedup"] > 0
    assert not [key for key in exact if "cascade" in key or "spared" in key]
    assert [line.split(":")[0] for line in said if "protocol.recall=0.3" in line] == ["base", "adapted"]
    beside = [line for line in said if "beside the exact protocol on 2 of the scored images: AP " in line]
    assert [line.split(",")[0] for line in beside] == ["base", "adapted"]
    assert all("mIoU " in line and "recall " in line and " x as fast as exact" in line for line in beside)
    assert f"; {metrics['drawn/speed/spared_ratio']:.1%} of the prompts of all scored images were spared" in beside[1]
    assert [line for line in said if "first looks: calibrated on" in line] == [
        f"first looks: calibrated on {TUNING} {BY}"
    ]

    spared = spared_of(tmp_path / "cascade")
    next((tmp_path / "cascade" / "records" / FIRST_LOOKS).glob("*.npz")).unlink()  # a kill while it was calibrated
    again, said = run("cascade", compare_exact=SCORED, **options)
    assert not [line for line in said if "start over" in line]
    assert f"first looks: calibrated on 1 of {TUNING} {BY}" in said
    assert again == pytest.approx(metrics)
    alone, said = run("one-by-one", prompts_at_once=1, **options)
    share = f"{alone['drawn/speed/spared_ratio']:.1%}"
    assert (
        f"adapted: {share} of the prompts were spared; with protocol.compare_exact=0, recall was not measured" in said
    )
    for found in (spared_of(tmp_path / "cascade"), spared_of(tmp_path / "one-by-one")):
        assert all(np.array_equal(one, other) for one, other in zip(spared, found, strict=True))
    file = tmp_path / "cascade" / "records" / FIRST_LOOKS / "000000.npz"
    with np.load(file) as arrays:
        changed = {name: np.ones_like(array) if "looks" in name else array for name, array in arrays.items()}
    np.savez_compressed(file, **changed)  # another threshold is another evaluation
    _, said = run("cascade", compare_exact=SCORED, **options)
    assert [line for line in said if "start over: spare_below was" in line]


def test_a_line_where_nothing_can_be_compared():
    beside = "a, beside the exact protocol on 2 of the scored images"
    assert difference_line("a", {}, 2) == f"{beside}: neither AP nor mIoU is defined"
    assert " 1.50 x as fast as exact" in difference_line("a", {"speed/cascade_speedup": 1.5}, 2)


def spared_of(folder):
    stores = [RecordStore(folder / "records" / name) for name in ("base", "adapted")]
    return [store.read(i)["cascade/spared"] for store in stores for i in range(SCORED)]
