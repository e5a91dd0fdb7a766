"""COCO AP: the reference numbers, both reference libraries on random data, and what must be refused."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_reference import BACKENDS, reference_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle_ops

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.scoring.coco import GroundTruth, check_detections
from sam3_hyperet.evaluation.scoring.coco_ap import score_coco_files, score_detections
from sam3_hyperet.masks import encode_masks, invalid_rles

AR_KEYS = {"AR1": "AR@1", "AR10": "AR@10", "AR100": "AR@100"}
HEIGHT, WIDTH = 120, 160


def rectangle(x: int, y: int, w: int, h: int) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y : y + h, x : x + w] = True
    return encode_masks(mask[None])[0]


def random_problem(seed: int, images: int = 6, categories: int = 3) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Rectangles and jittered copies of them, with crowds, tied scores, images without either."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [{"id": 7 * i + 3, "height": HEIGHT, "width": WIDTH} for i in range(images)],
        "categories": [{"id": 5 * c + 2, "name": f"class {c}"} for c in range(categories)],
        "annotations": [],
    }
    detections = []
    for image in truth["images"]:
        for _ in range(rng.integers(0, 7)):
            w, h = rng.integers(4, 110, 2)
            x, y = rng.integers(0, WIDTH - w if w < WIDTH else 1), rng.integers(0, max(HEIGHT - h, 1))
            category = int(5 * rng.integers(categories) + 2)
            mask = rectangle(x, y, w, h)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]),
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": rle_ops.toBbox(mask).tolist(),
                    "area": float(rle_ops.area(mask)),
                    "iscrowd": int(rng.random() < 0.15),
                    "segmentation": mask,
                }
            )
            for _ in range(rng.integers(0, 4)):
                dx, dy, dw, dh = rng.integers(-6, 7, 4)
                box = max(x + dx, 0), max(y + dy, 0), max(w + dw, 1), max(h + dh, 1)
                detections.append(
                    {
                        "image_id": image["id"],
                        "category_id": category if rng.random() < 0.8 else 2,
                        "score": float(rng.choice([0.2, 0.5, 0.9, rng.random()])),
                        "segmentation": rectangle(*box),
                    }
                )
    rng.shuffle(detections)
    return truth, detections


def score(truth: Any, detections: list[dict[str, Any]], **options: Any) -> dict[str, float]:
    checked = GroundTruth.from_dict(truth)
    return score_detections(checked, check_detections(detections, checked, "detections"), **options)


def by(backend: str, truth: Any, detections: list[dict[str, Any]], **options: Any) -> dict[str, float]:
    """The metrics by one of the references, or by our own code under "own"."""
    if backend == "own":
        return score(truth, detections, **options)
    return reference_metrics(GroundTruth.from_dict(truth), detections, backend, **options)


@pytest.mark.parametrize("backend", ["own", *BACKENDS])
def test_reference_numbers(shared_data: Path, backend: str) -> None:
    reference = json.loads((shared_data / "reference_metrics/dev_tinycoco_val50_reference.json").read_text())
    truth = shared_data / "coco/annotations/instances_val2017.json"
    results = shared_data / "reference_metrics/dev_tinycoco_val50_dets.json"
    if backend == "own":
        metrics = score_coco_files(truth, results)
    else:
        metrics = reference_metrics(GroundTruth.read(truth), json.loads(results.read_text()), backend)
    for iou_type in ("segm", "bbox"):
        twelve = reference[iou_type]["pycocotools"]
        assert len(twelve) == 12
        for key, value in twelve.items():
            assert metrics[f"{iou_type}/{AR_KEYS.get(key, key)}"] == pytest.approx(value, abs=1e-9)
        per_category = reference[iou_type]["per_category_AP"]
        assert len(per_category) == 80
        for name, value in per_category.items():
            assert metrics[f"{iou_type}/AP/{name}"] == pytest.approx(value, abs=1e-9)
    assert metrics["segm/AP"] == pytest.approx(0.28289295880104043, abs=1e-9)
    assert (metrics["images"], metrics["annotations"], metrics["crowds"], metrics["detections"]) == (
        50,
        382,
        5,
        449,
    )


def test_a_box_beside_the_mask_does_not_change_mask_sizes(shared_data: Path, tmp_path: Path) -> None:
    truth = shared_data / "coco/annotations/instances_val2017.json"
    source = shared_data / "reference_metrics/dev_tinycoco_val50_dets.json"
    records = json.loads(source.read_text())
    for record in records:
        record["bbox"] = rle_ops.toBbox(record["segmentation"]).tolist()
    with_boxes = tmp_path / "with_boxes.json"
    with_boxes.write_text(json.dumps(records))
    options = {"iou_types": ("segm",)}
    assert score_coco_files(truth, with_boxes, **options) == score_coco_files(truth, source, **options)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_back_ends_agree(seed: int) -> None:
    truth, detections = random_problem(seed)
    groups = {"first": [2], "rest": [7, 12]}
    own, fast, reference = (by(b, truth, detections, groups=groups) for b in ("own", *BACKENDS))
    assert reference == pytest.approx(fast, abs=1e-9)
    assert reference == pytest.approx({key: own[key] for key in reference}, abs=1e-9)
    assert reference["first/segm/AP"] == reference["segm/AP/class 0"]


@pytest.mark.parametrize("backend", ["own", *BACKENDS])
def test_perfect_detections_score_one_and_id_zero_counts(backend: str) -> None:
    truth, _ = random_problem(3)
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
    assert truth["annotations"][0]["id"] == 0
    keys = ("image_id", "category_id", "segmentation")
    detections = [{**{k: a[k] for k in keys}, "score": 0.5} for a in truth["annotations"]]
    metrics = by(backend, truth, detections)
    assert metrics["segm/AP"] == metrics["bbox/AP"] == pytest.approx(1, abs=1e-9)


def test_ap_at_100_per_image_trims_over_all_categories() -> None:
    image = {"id": 1, "height": HEIGHT, "width": WIDTH}
    target = {"image_id": 1, "category_id": 2, "segmentation": rectangle(5, 5, 50, 50)}
    truth = {
        "images": [image],
        "categories": [{"id": 1, "name": "noise"}, {"id": 2, "name": "target"}],
        "annotations": [{**target, "id": 1, "bbox": [5, 5, 50, 50], "area": 2500, "iscrowd": 0}],
    }
    noise = [{"image_id": 1, "category_id": 1, "segmentation": rectangle(n, 0, 3, 3), "score": 0.9} for n in range(100)]
    metrics = score(truth, [*noise, {**target, "score": 0.1}])
    assert metrics["segm/AP"] == pytest.approx(1)
    assert metrics["segm/AP@100/img"] == 0
    assert score(truth, [*noise[1:], {**target, "score": 0.1}])["segm/AP@100/img"] == pytest.approx(1)


@pytest.mark.parametrize("backend", ["own", *BACKENDS])
def test_no_detections_is_zero_and_nothing_to_find_is_minus_one(backend: str) -> None:
    truth, detections = random_problem(5)
    assert by(backend, truth, [])["segm/AP"] == 0
    assert by(backend, {**truth, "annotations": []}, detections)["segm/AP"] == -1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou_types": ["keypoints"]}, "bbox, segm"),
        ({"groups": {"part": [99]}}, "group 'part'"),
        ({"groups": {"part": [[1]]}}, "group 'part'"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        score(*random_problem(1), **options)


def set_key(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda record: record.__setitem__(key, value)


def set_rle(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda record: record.__setitem__("segmentation", {**record["segmentation"], **changes})


BAD_DETECTIONS = [
    (set_key("image_id", 999), "image_id 999 is not in the ground truth"),
    (set_key("image_id", "3"), "image_id is '3', expected an integer"),
    (set_key("image_id", True), "image_id is True"),
    (set_key("category_id", 90), "category_id 90 is not in the ground truth"),
    (set_key("category_id", None), "category_id is None"),
    (set_key("score", math.nan), "score is nan, expected a finite number"),
    (set_key("score", "0.5"), "score is '0.5'"),
    (lambda record: record.pop("score"), "score is None"),
    (lambda record: record.pop("segmentation"), "neither segmentation nor bbox"),
    (set_key("segmentation", [[1, 2, 3, 4, 5, 6]]), "expected an RLE"),
    (set_rle(size=[WIDTH, HEIGHT]), "RLE of size"),
    (set_rle(counts="0"), "broken RLE"),
    (set_rle(counts=""), "broken RLE"),
    (set_rle(counts="é"), "RLE counts"),
    (set_rle(counts=5), "RLE counts"),
    (set_rle(counts=[1, 2, 3]), "its RLE covers 6 pixels"),
    (set_rle(counts=[-1, HEIGHT * WIDTH + 1]), "expected whole numbers from 0"),
    (set_key("bbox", [0, 0, math.inf, 1]), "bbox is"),
    (set_key("bbox", [0, 0, -1, 1]), "bbox is"),
    (set_key("bbox", "0 0 1 1"), "bbox is"),
    (set_key("bbox", [0, 0, 1e200, 1e200]), "too large for its area to be a number"),
    (set_key("bbox", [1e308, 0, 1e308, 1]), "too large for its area to be a number"),
    (set_key("score", 10**400), "score is"),
    (set_key("category_id", -(2**70)), "category_id is -"),
    (set_key("bbox", [0, 0, 10**400, 1]), "bbox is"),
]


@pytest.mark.parametrize(("break_it", "message"), BAD_DETECTIONS, ids=[message for _, message in BAD_DETECTIONS])
def test_a_bad_detection_is_named(tmp_path: Path, break_it: Callable[[Any], Any], message: str) -> None:
    truth, detections = random_problem(2)
    break_it(detections[1])
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps(detections))
    with pytest.raises(DataError) as error:
        score_coco_files(tmp_path / "gt.json", tmp_path / "dt.json")
    assert str(error.value).startswith(f"{tmp_path / 'dt.json'}: record 1: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


BAD_TRUTHS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda t: t.pop("categories"), "no list 'categories'"),
    (lambda t: t["images"].append(dict(t["images"][0])), "id 3 occurs twice"),
    (lambda t: t["images"][0].pop("height"), "height is None"),
    (lambda t: t["categories"][1].update(name="class 0"), "name is 'class 0'"),
    (lambda t: t["annotations"].append(5), "id is None, expected an integer"),
    (lambda t: t["annotations"][0].update(id=2**63), "expected an integer"),
    (lambda t: t["annotations"][0].update(id=1), "id 1 occurs twice"),
    (lambda t: t["annotations"][0].update(image_id=1), "image_id 1 is not in"),
    (lambda t: t["annotations"][0].update(category_id=1), "category_id 1 is not in"),
    (lambda t: t["annotations"][0].update(area=None), "area is None"),
    (lambda t: t["annotations"][0].update(iscrowd=2), "iscrowd is 2"),
    (lambda t: t["annotations"][0].update(bbox=[1, 2]), "bbox is [1, 2]"),
    (lambda t: t["annotations"][0].update(segmentation=[[1, 2, 3, 4]]), "three or more points"),
    (lambda t: t["annotations"][0].update(segmentation=[]), "expected an RLE"),
]


@pytest.mark.parametrize(("break_it", "message"), BAD_TRUTHS, ids=[message for _, message in BAD_TRUTHS])
def test_a_bad_annotation_is_named(break_it: Callable[[Any], Any], message: str) -> None:
    truth, detections = copy.deepcopy(random_problem(2))
    break_it(truth)
    with pytest.raises(DataError) as error:
        score(truth, detections)
    assert message in str(error.value)
    assert str(error.value).startswith("ground truth: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[{", "not valid JSON"), ("{}", "expected a list"), ("[1]", "record 0: expected an object")],
)
def test_broken_prediction_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(random_problem(2)[0]))
    (tmp_path / "dt.json").write_text(text)
    with pytest.raises(DataError, match=message):
        score_coco_files(tmp_path / "gt.json", tmp_path / "dt.json")


def test_masks_are_asked_for_where_only_some_records_have_them(tmp_path: Path) -> None:
    truth, detections = random_problem(2)
    expected = score(truth, detections, iou_types=["bbox"])
    assert expected["bbox/AP"] > 0.1
    for record in detections[4::2]:
        record["bbox"] = rle_ops.toBbox(record.pop("segmentation")).tolist()
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps(detections))
    with pytest.raises(DataError, match="record 4: no segmentation"):
        score_coco_files(tmp_path / "gt.json", tmp_path / "dt.json")
    assert score_coco_files(tmp_path / "gt.json", tmp_path / "dt.json", iou_types=["bbox"]) == expected


def test_uncompressed_runs_and_polygons_score_as_compressed_ones() -> None:
    truth, detections = random_problem(8)
    plain = copy.deepcopy(detections)
    for record in plain:
        x, y, w, h = map(int, rle_ops.toBbox(record["segmentation"]))
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.int8)
        mask[y : y + h, x : x + w] = 1
        flat = mask.flatten(order="F")
        edges = np.flatnonzero(np.diff(flat, prepend=0))
        record["segmentation"]["counts"] = np.diff(edges, prepend=0, append=flat.size).tolist()
    expected = score(truth, detections)
    assert expected["segm/AP"] > 0.1
    assert score(truth, plain) == expected
    for annotation in truth["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    assert score(truth, detections) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=6))
def test_rle_check_takes_what_coco_encodes_and_only_that(shapes: list[tuple[int, int, int]]) -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((h, w)) < density / 9 for h, w, density in shapes]
    counts = [encode_masks(m[None])[0]["counts"].encode() for m in masks]
    areas = [m.size for m in masks]
    assert not invalid_rles(counts, areas).any()
    assert invalid_rles(counts, [area + 1 for area in areas]).all()
    one_broken = [b"~", *counts[1:]]
    assert invalid_rles(one_broken, areas).tolist() == [True] + [False] * (len(masks) - 1)
    unfinished = [counts[0] + b"o", *counts[1:]]
    assert invalid_rles(unfinished, areas).tolist() == [True] + [False] * (len(masks) - 1)
