"""Files with LVIS's keys: what an image says nothing of does not count, as in `evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.metrics.evaluator import Prompt
from sam3_hyperet.evaluation.metrics.instances.instance_evaluator import InstanceEvaluator
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.scoring.coco_ap import score_coco_files
from sam3_hyperet.inference.prediction import PromptDetections, PromptPrediction

SIDE = 16
CATEGORIES = {1: "car", 2: "dog", 3: "cat", 4: "cow"}
THERE, ELSEWHERE = (1, 2, 6, 8), (8, 9, 14, 15)  # x0, y0, x1, y1
FOUND = {  # by image and category, corners and scores
    (1, 1): [(THERE, 0.9)],
    (1, 2): [(ELSEWHERE, 0.8)],  # known to be absent: false
    (1, 3): [(THERE, 0.95), (ELSEWHERE, 0.9)],  # the image says nothing of cats
    (2, 2): [(ELSEWHERE, 0.85), (THERE, 0.7)],  # there may be more dogs than one
    (2, 4): [(THERE, 0.6)],
}


def truth(**of_second: Any) -> dict[str, Any]:
    images = [{"id": i, "height": SIDE, "width": SIDE, "file_name": f"{i}.png"} for i in (1, 2)]
    images[0] |= {"neg_category_ids": [2], "not_exhaustive_category_ids": []}
    images[1] |= {"neg_category_ids": [1], "not_exhaustive_category_ids": [2], **of_second}
    x0, y0, x1, y1 = THERE
    outline = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    shape = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "segmentation": outline}
    annotations = [{"id": i, "image_id": i, "category_id": i, "iscrowd": 0, **shape} for i in (1, 2)]
    categories = [{"id": i, "name": name} for i, name in CATEGORIES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def shown(found: list[tuple[tuple[int, ...], float]]) -> PromptDetections:
    logits = torch.full((len(found), SIDE, SIDE), -9.0)
    for mask, ((x0, y0, x1, y1), _) in zip(logits, found, strict=True):
        mask[y0:y1, x0:x1] = 9.0
    boxes = torch.tensor([corners for corners, _ in found]) / SIDE
    scores = torch.tensor([score for _, score in found])
    return PromptDetections(PromptPrediction(scores, boxes, logits, logits[0], 1.0), SIDE, SIDE)


def results() -> list[dict[str, Any]]:
    found = []
    for (image_id, category_id), of_pair in FOUND.items():
        detections = shown(of_pair)
        for score, corners, rle in zip(detections.scores, detections.boxes, detections.rles(9), strict=True):
            box = [*corners[:2].tolist(), *(corners[2:] - corners[:2]).tolist()]
            record = {"image_id": image_id, "category_id": category_id, "score": float(score), "bbox": box}
            found.append({**record, "segmentation": rle})
    return found


def write(folder: Path, content: Any, found: Any) -> tuple[Path, Path]:
    paths = folder / "truth.json", folder / "results.json"
    for path, value in zip(paths, (content, found), strict=True):
        path.write_text(json.dumps(value), encoding="utf-8")
    return paths


def test_a_results_file_scores_as_evaluate_does(tmp_path: Path) -> None:
    truth_path, results_path = write(tmp_path, truth(), results())
    said: list[str] = []
    found = score_coco_files(truth_path, results_path, say=said.append)
    assert (found["segm/AP/car"], found["segm/AP/dog"]) == (pytest.approx(1), pytest.approx(0.5))
    assert (found["detections"], found["left_out"]) == (4, 3)
    [line] = said
    assert line.startswith(f"{results_path}: 3 of 7 detections are left out: ")
    assert "in 1 pairs of an image and a category" in line

    for image_id in (1, 2):
        (tmp_path / f"{image_id}.png").touch()
    images = read_coco(truth_path, tmp_path)
    evaluator, records = InstanceEvaluator(images, CATEGORIES, {}, Protocol()), []
    for position in range(len(images)):
        evaluator.start(position, {})
        for (image_id, category_id), of_pair in FOUND.items():
            if image_id == images.image(position).image_id and category_id not in images.unlabelled(position):
                evaluator.add(Prompt(CATEGORIES[category_id], category_id), shown(of_pair))
        records.append(evaluator.finish())
    evaluated = evaluator.evaluate(records)
    assert evaluated["segm/cgF1"] > 0
    assert {key: found[key] for key in evaluated} == pytest.approx(evaluated)


def test_without_the_keys_every_detection_counts(tmp_path: Path) -> None:
    content = truth()
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    said: list[str] = []
    found = score_coco_files(*write(tmp_path, content, results()), say=said.append)
    assert (found["segm/AP/dog"], found["detections"], found["left_out"]) == (pytest.approx(1 / 3, abs=0.01), 7, 0)
    assert not said


@pytest.mark.parametrize("value", [None, 5, [9], [[1]], ["1"], [True]])
@pytest.mark.parametrize("key", ["neg_category_ids", "not_exhaustive_category_ids"])
def test_lists_of_other_things_are_named(tmp_path: Path, key: str, value: Any) -> None:
    truth_path, results_path = write(tmp_path, truth(**{key: value}), results())
    with pytest.raises(DataError) as error:
        score_coco_files(truth_path, results_path)
    assert str(error.value).startswith(f"{truth_path}: images[1] (id 2): {key} is ")


def test_boxes_alone_are_scored_by_the_same_rule(tmp_path: Path) -> None:
    boxes = [{key: one[key] for key in ("image_id", "category_id", "score", "bbox")} for one in results()]
    found = score_coco_files(*write(tmp_path, truth(), np.random.default_rng(0).permutation(boxes).tolist()))
    assert found["bbox/AP"] == pytest.approx(0.75)
    assert "segm/AP" not in found
