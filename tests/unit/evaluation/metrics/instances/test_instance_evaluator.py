"""Records of matches: their AP is pycocotools', their weighted AP that of a data set with pictures repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_reference import accumulate, by_image, reference_metrics
from drawn_pictures import annotated
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle_ops

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.bootstrap import intervals
from sam3_hyperet.evaluation.metrics.evaluator import Prompt
from sam3_hyperet.evaluation.metrics.instances.instance_evaluator import InstanceEvaluator
from sam3_hyperet.evaluation.metrics.instances.instance_metrics import precision_recall
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.scoring.coco import GroundTruth, check_detections
from sam3_hyperet.evaluation.scoring.coco_ap import records_of_results
from sam3_hyperet.inference.prediction import PromptDetections, PromptPrediction
from sam3_hyperet.masks import encode_masks
from sam3_hyperet.reading import read_json

HEIGHT, WIDTH = 40, 56
Problem = tuple[dict[str, Any], list[dict[str, Any]]]


def rectangle(x: int, y: int, w: int, h: int) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y : y + h, x : x + w] = True
    return encode_masks(mask[None])[0]


def random_problem(seed: int, images: int = 5, categories: int = 3, ties: bool = True, enough: bool = False) -> Problem:
    """Few and small rectangles, so that many overlap and have equal IoU; crowds, tied scores, all three sizes."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [{"id": int(i), "height": HEIGHT, "width": WIDTH} for i in rng.permutation(99)[:images]],
        "categories": [{"id": 5 * c + 2, "name": f"class {c}"} for c in reversed(range(categories))],
        "annotations": [],
    }
    detections = []

    def shape() -> dict[str, Any]:
        x, y = rng.integers(0, 4, 2) * 3
        w, h = (rng.choice(size) for size in ([6, 9, 12, 40], [6, 9, 30]))
        return rectangle(x, y, w, h)

    for image in truth["images"]:
        for _ in range(rng.integers(0, 8)):
            mask = shape()
            area = float(rng.choice([rle_ops.area(mask), 32**2, 96**2, 2e4]))
            crowd = int(rng.random() < 0.2)
            annotation = {"image_id": image["id"], "category_id": int(5 * rng.integers(categories) + 2)}
            annotation |= {"bbox": rle_ops.toBbox(mask).tolist(), "area": area, "iscrowd": crowd, "segmentation": mask}
            truth["annotations"].append({"id": len(truth["annotations"]) + 1, **annotation})
        for _ in range(150 if enough and rng.random() < 0.5 else rng.integers(0, 16)):
            score = float(rng.choice([0.2, 0.5, 0.9])) if ties and rng.random() < 0.6 else float(rng.random())
            category = int(5 * rng.integers(categories) + 2)
            detection = {"image_id": image["id"], "category_id": category, "score": score, "segmentation": shape()}
            if rng.random() < 0.5:
                detection["bbox"] = rle_ops.toBbox(shape()).tolist()
            detections.append(detection)
    rng.shuffle(detections)
    return truth, detections


def evaluate(truth: GroundTruth, detections: list[dict[str, Any]], groups: Any = None) -> dict[str, float]:
    image_ids = sorted(truth.sizes)
    evaluator = InstanceEvaluator(annotated(truth), truth.categories, groups or {}, Protocol())
    return evaluator.evaluate(records_of_results(truth, check_detections(detections, truth, "random"), image_ids))


def by_pycocotools(truth: GroundTruth, detections: list[dict[str, Any]], **options: Any) -> dict[str, float]:
    return reference_metrics(truth, detections, **options)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), enough=st.booleans())
def test_the_figures_are_those_of_pycocotools(seed: int, enough: bool) -> None:
    content, detections = random_problem(seed, enough=enough)
    truth = GroundTruth.from_dict(content)
    groups = {"first": [2], "rest": [12, 7]}
    expected = by_pycocotools(truth, detections, groups=groups)
    found = evaluate(truth, detections, groups)
    assert expected == pytest.approx({key: found[key] for key in expected}, abs=1e-9)


def test_the_reference_numbers(shared_data: Path) -> None:
    truth = GroundTruth.read(shared_data / "coco/annotations/instances_val2017.json")
    results = shared_data / "reference_metrics/dev_tinycoco_val50_dets.json"
    found = evaluate(truth, read_json(results))
    reference = json.loads((results.parent / "dev_tinycoco_val50_reference.json").read_text())
    for iou_type in ("segm", "bbox"):
        for key, value in reference[iou_type]["pycocotools"].items():
            assert found[f"{iou_type}/{key.replace('AR1', 'AR@1')}"] == pytest.approx(value, abs=1e-9)
        for name, value in reference[iou_type]["per_category_AP"].items():
            assert found[f"{iou_type}/AP/{name}"] == pytest.approx(value, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), weights=st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_weighted_figures_are_those_of_repeated_pictures(seed: int, weights: list[int]) -> None:
    content, detections = random_problem(seed, ties=False)
    truth = GroundTruth.from_dict(content)
    image_ids = list(truth.sizes)
    evaluator = InstanceEvaluator(annotated(truth), truth.categories, {"first": [2]}, Protocol())
    headline = evaluator.headline(records_of_results(truth, check_detections(detections, truth, "random"), image_ids))
    repeated: dict[str, Any] = {**content, "images": [], "annotations": []}
    found: list[dict[str, Any]] = []
    for image, weight in zip(content["images"], weights, strict=True):
        for copy in range(weight):
            new = 1000 * copy + image["id"]
            repeated["images"].append({**image, "id": new})
            for record in content["annotations"]:
                if record["image_id"] == image["id"]:
                    number = len(repeated["annotations"]) + 1
                    repeated["annotations"].append({**record, "id": number, "image_id": new})
            found += [{**record, "image_id": new} for record in detections if record["image_id"] == image["id"]]
    figures = headline(np.array(weights))
    if not repeated["annotations"]:
        assert all(np.isnan(value) for value in figures.values())
        return
    expected = evaluate(GroundTruth.from_dict(repeated), found, {"first": [2]})
    by_reference = by_pycocotools(GroundTruth.from_dict(repeated), found, groups={"first": [2]})
    assert figures.keys() == {f"{g}{t}/{m}" for g in ("", "first/") for t in ("segm", "bbox") for m in ("AP", "cgF1")}
    for key, value in figures.items():
        if key.endswith("/AP"):
            assert (-1.0 if np.isnan(value) else value) == pytest.approx(by_reference[key], abs=1e-9)
        elif not np.isnan(value):
            assert value == pytest.approx(expected[key], abs=1e-9)


def test_the_headline_of_each_picture_once_is_the_evaluation_in_any_order() -> None:
    content, detections = random_problem(4, images=8)
    truth = GroundTruth.from_dict(content)
    evaluator = InstanceEvaluator(annotated(truth), truth.categories, {}, Protocol())
    checked = check_detections(detections, truth, "random")
    records = records_of_results(truth, checked, list(truth.sizes))
    metrics = evaluator.evaluate(records)
    assert evaluator.evaluate(records[::-1]) == metrics
    weights = np.arange(8)
    figures = evaluator.headline(records)(weights)
    assert evaluator.headline(records[::-1])(weights[::-1]) == figures
    once = evaluator.headline(records)(np.ones(8, dtype=int))
    assert once == {key: metrics[key] for key in once}


def test_the_curves_are_those_of_pycocotools() -> None:
    content, detections = random_problem(9, images=8)
    truth = GroundTruth.from_dict(content)
    records = records_of_results(truth, check_detections(detections, truth, "random"), list(truth.sizes))
    expected = accumulate(truth, by_image(truth, detections), "segm")[0][:, :, :, 0, -1]
    assert precision_recall(records, "segm") == pytest.approx(expected, abs=1e-9)


def prediction(rng: np.random.Generator, queries: int = 12) -> PromptPrediction:
    corners = torch.from_numpy(np.sort(rng.uniform(-0.1, 1.1, (queries, 2, 2)), axis=1).reshape(queries, 4)).float()
    scores = torch.from_numpy(rng.uniform(size=queries)).float()
    masks = torch.nn.functional.avg_pool2d(torch.from_numpy(rng.normal(size=(queries, 9, 9))).float(), 5, 1, 2) * 9
    return PromptPrediction(scores, corners, masks, masks[0], float(rng.uniform(0.5, 1)))


def test_what_a_model_answers_counts_as_the_results_file_of_it() -> None:
    rng = np.random.default_rng(3)
    content, _ = random_problem(3, images=4)
    truth = GroundTruth.from_dict(content)
    image_ids, categories, top = list(truth.sizes), [7, 2, 12, 2], 9
    evaluator = InstanceEvaluator(annotated(truth), set(categories), {}, Protocol(max_dets=top))
    records, results = [], []
    for i, image_id in enumerate(image_ids):
        evaluator.start(i, {})
        for k, category_id in enumerate(categories):
            answer = prediction(rng)
            evaluator.add(Prompt(f"prompt {k}", category_id), PromptDetections(answer, HEIGHT, WIDTH, top))
            best = answer.top(top)
            boxes = best.boxes * torch.tensor([WIDTH, HEIGHT] * 2)  # SAM 3's own: some reach beyond the image
            boxes[:, 2:] -= boxes[:, :2]
            masks = encode_masks(best.masks(HEIGHT, WIDTH))
            for score, box, mask in zip(best.scores.tolist(), boxes.tolist(), masks, strict=True):
                detection = {"image_id": image_id, "category_id": category_id, "score": score}
                results.append({**detection, "bbox": box, "segmentation": mask})
        evaluator.add(Prompt("other"), PromptDetections(prediction(rng), HEIGHT, WIDTH))  # of no category
        records.append(evaluator.finish())
    found, expected = evaluator.evaluate(records), by_pycocotools(truth, results)
    assert found["detections"] == len(results) == 4 * 4 * top
    assert expected == pytest.approx({key: found[key] for key in expected}, abs=1e-9)
    assert found["bbox/AR@100"] > 0
    assert found["segm/AR@100"] > 0


def test_records_are_small_and_no_objects(tmp_path: Path) -> None:
    content, detections = random_problem(5, images=1, enough=True)
    truth = GroundTruth.from_dict(content)
    record = records_of_results(truth, check_detections(detections * 9, truth, "random"), list(truth.sizes))[0]
    np.savez(tmp_path / "record.npz", **record)
    with np.load(tmp_path / "record.npz", allow_pickle=False) as read:
        again = {name: read[name] for name in read.files}
    assert again.keys() == record.keys()
    evaluator = InstanceEvaluator(annotated(truth), truth.categories, {}, Protocol())
    assert evaluator.evaluate([again]) == evaluator.evaluate([record])
    per_detection = sum(len(v) * v.itemsize for k, v in record.items() if k in ("scores", "bbox_sizes", "segm_sizes"))
    assert per_detection == 10 * len(record["scores"]) == 10 * int(record["counts"].sum())
    assert record["detections"] == 9 * len(detections)


@pytest.mark.parametrize("groups", [{"other": [3]}, {"none": []}])
def test_categories_that_are_not_there_are_named(groups: dict[str, Any]) -> None:
    truth = GroundTruth.from_dict(random_problem(1)[0])
    with pytest.raises(ConfigError, match="are not category ids of"):
        InstanceEvaluator(annotated(truth), truth.categories, groups, Protocol())
    with pytest.raises(ConfigError, match="are not category ids of"):
        InstanceEvaluator(annotated(truth), [3], {}, Protocol())


def test_boxes_beyond_the_image_are_not_clamped() -> None:
    """SAM 3 evaluates its boxes as they are; a clamped one would meet the annotation."""
    mask = rectangle(0, 0, 20, HEIGHT)
    content = {
        "images": [{"id": 1, "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 2, "name": "car"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [0, 0, 20, HEIGHT], "area": 20 * HEIGHT}],
    }
    content["annotations"][0] |= {"iscrowd": 0, "segmentation": mask}
    evaluator = InstanceEvaluator(annotated(GroundTruth.from_dict(content)), [2], {}, Protocol())
    box = torch.tensor([[-20 / WIDTH, 0.0, 20 / WIDTH, 1.0]])
    evaluator.start(0, {})
    found = PromptPrediction(torch.tensor([0.9]), box, torch.ones(1, 8, 8), torch.ones(8, 8), 1.0)
    evaluator.add(Prompt("car", 2), PromptDetections(found, HEIGHT, WIDTH))
    assert evaluator.evaluate([evaluator.finish()])["bbox/AP50"] == pytest.approx(1)
    assert evaluator.evaluate([evaluator._image.record()])["bbox/AP75"] == 0  # IoU is 1/2


def strips(count: int) -> tuple[dict[str, Any], PromptDetections]:
    """An image of as many instances, a row of pixels each, and perfect detections of them."""
    height, width = count, 8
    masks = torch.full((count, height, width), -9.0)
    masks[range(count), range(count)] = 9.0
    edges = torch.arange(count + 1) / count
    boxes = torch.stack([torch.zeros(count), edges[:-1], torch.ones(count), edges[1:]], dim=1)
    found = PromptPrediction(torch.full((count,), 0.9), boxes, masks, masks[0], 1.0)
    rows = [
        {"id": i + 1, "image_id": 1, "category_id": 2, "bbox": [0, i, width, 1], "area": width, "iscrowd": 0}
        | {"segmentation": encode_masks(np.arange(height)[None, :, None].repeat(width, 2) == i)[0]}
        for i in range(count)
    ]
    image = {"id": 1, "height": height, "width": width}
    content = {"images": [image], "categories": [{"id": 2, "name": "car"}], "annotations": rows}
    return content, PromptDetections(found, height, width)


@pytest.mark.parametrize("top", [100, 60])
def test_every_claim_counts_for_cgf1_and_the_best_for_ap(top: int) -> None:
    """SAM 3's cgF1 has no limit of detections, and COCO's AP one of 100."""
    content, detections = strips(150)
    evaluator = InstanceEvaluator(annotated(GroundTruth.from_dict(content)), [2], {}, Protocol(max_dets=top))
    evaluator.start(0, {})
    evaluator.add(Prompt("car", 2), detections)
    found = evaluator.evaluate([evaluator.finish()])
    assert found["segm/positive_micro_F1"] == pytest.approx(1, abs=1e-3)
    assert found["segm/AR@100"] == pytest.approx(top / 150)


def test_pairs_that_are_not_exhaustive_are_left_out_of_cgf1() -> None:
    """One instance is annotated; the other claim, half beyond the image, may be right or wrong."""
    content, detections = strips(2)
    content["annotations"] = content["annotations"][:1]
    detections.boxes[1, 0] -= detections.width
    found = {}
    for partly in (frozenset(), frozenset({2})):
        images = annotated(GroundTruth.from_dict(content))
        images.not_exhaustive = lambda _, partly=partly: partly
        evaluator = InstanceEvaluator(images, [2], {}, Protocol())
        evaluator.start(0, {})
        evaluator.add(Prompt("car", 2), detections)
        found[bool(partly)] = evaluator.evaluate([evaluator.finish()])
    assert found[False]["segm/positive_micro_F1"] == pytest.approx(2 / 3, abs=1e-3)
    assert found[True]["segm/positive_micro_F1"] == found[True]["segm/cgF1"] == -1  # there is no other pair
    assert found[True]["bbox/AP"] == found[True]["segm/AP"] == pytest.approx(1)


def test_cgf1_of_a_category_that_every_picture_shows_is_no_value() -> None:
    """IL_MCC is 0/0 then, whatever is found; of 12 pictures of which one lacks the category, so are many draws."""
    content, detections = strips(2)
    ids = range(1, 13)
    content["images"] = [{**content["images"][0], "id": i} for i in ids]
    rows = [{**row, "image_id": i} for i in ids[1:] for row in content["annotations"]]
    content["annotations"] = [{**row, "id": number} for number, row in enumerate(rows, 1)]
    evaluator = InstanceEvaluator(annotated(GroundTruth.from_dict(content)), {2: "car"}, {}, Protocol())
    records = []
    for position in range(len(ids)):
        evaluator.start(position, {})
        if position:
            evaluator.add(Prompt("car", 2), detections)
        records.append(evaluator.finish())
    assert evaluator.evaluate(records)["segm/cgF1"] == pytest.approx(1, abs=1e-3)
    ends = intervals(evaluator.headline(records), 12, draws=100)
    assert np.isnan(ends["segm/cgF1"]).all()
    assert np.isfinite(ends["segm/AP"]).all()
    found, once = evaluator.evaluate(records[1:]), np.ones(11, dtype=int)
    assert (found["segm/cgF1"], found["segm/AP"]) == (-1, pytest.approx(1))
    assert found["segm/positive_micro_F1"] == pytest.approx(1, abs=1e-3)
    assert "segm/IL_MCC" not in found
    assert np.isnan(evaluator.headline(records[1:])(once)["segm/cgF1"])
