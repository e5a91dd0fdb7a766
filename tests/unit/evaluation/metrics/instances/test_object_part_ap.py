"""PACO's AP of object parts, beside pycocotools on the same detections."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from part_trees import HEIGHT, WIDTH, data_options, paco
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sam3_hyperet.data.sources import open_split
from sam3_hyperet.evaluation.metrics.evaluator import Prompt
from sam3_hyperet.evaluation.metrics.instances.instance_evaluator import InstanceEvaluator
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.inference.prediction import PromptDetections, PromptPrediction
from sam3_hyperet.masks import decode


def guesses(rng, shown):
    """Moved copies of the masks that an image shows of a category, and one mask beside them, with scores."""
    moved = [np.roll(mask, rng.integers(-1, 2, 2), axis=(0, 1)) for mask in shown]
    beside = np.zeros((HEIGHT, WIDTH), bool)
    y, x = rng.integers(0, 12, 2)
    beside[y : y + 8, x : x + 9] = True
    return [(mask, float(rng.uniform(0.1, 0.99))) for mask in [*moved, beside]]


def reference(truth, detections, iou_type):
    """AP by category id, by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes(detections)
        scorer = COCOeval(truth, found, iou_type)
        scorer.evaluate()
        scorer.accumulate()
    precision = scorer.eval["precision"][:, :, :, 0, -1]
    by_category = {c: precision[:, :, k] for k, c in enumerate(scorer.params.catIds)}
    return {c: values[values > -1].mean() for c, values in by_category.items() if (values > -1).any()}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_ap_of_object_parts_is_the_mean_over_part_names(tmp_path, seed):
    root = paco(tmp_path / "paco")
    images = open_split(data_options("paco", root), "val").images
    ids = [category.id for category in images.categories]
    groups = {level: [c.id for c in images.categories if c.granularity == level] for level in ("part", "object")}
    evaluator = InstanceEvaluator(images, ids, groups, Protocol())
    rng, records, results = np.random.default_rng(seed), [], {"segm": [], "bbox": []}
    for i in range(len(images)):
        evaluator.start(i, {})
        for category in images.categories:
            shown = [decode(one.rle) for one in images.instances(i) if one.category_id == category.id]
            found = guesses(rng, shown)
            rles = [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask, _ in found]
            boxes = coco_mask.toBbox(rles).tolist()
            corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]) / torch.tensor([WIDTH, HEIGHT] * 2)
            logits = torch.tensor(np.array([np.where(mask, 20.0, -20.0) for mask, _ in found]), dtype=torch.float32)
            scores = torch.tensor([score for _, score in found])
            prediction = PromptPrediction(scores, corners.float(), logits, logits[0], 1.0)
            evaluator.add(Prompt(category.name, category.id), PromptDetections(prediction, HEIGHT, WIDTH))
            if category.id in images.unlabelled(i):
                continue
            for rle, box, score in zip(rles, boxes, scores.tolist(), strict=True):
                result = {"image_id": images.image(i).image_id, "category_id": category.id, "score": score}
                results["segm"].append(result | {"segmentation": rle})
                results["bbox"].append(result | {"bbox": box})
        records.append(evaluator.finish())
    metrics = evaluator.evaluate(records)
    file = root / "annotations" / "paco_lvis_v1_test.json"
    names = {one["id"]: one["name"] for one in json.loads(file.read_text())["categories"]}
    for iou_type, detections in results.items():
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(file))
        by_category = reference(truth, detections, iou_type)
        wheels = np.mean([by_category[i] for i, name in names.items() if name.endswith(":wheel")])
        others = [ap for i, ap in by_category.items() if ":" in names[i] and not names[i].endswith(":wheel")]
        assert len(others) == 2
        assert metrics[f"{iou_type}/AP_opart"] == pytest.approx(np.mean([wheels, *others]), abs=1e-6)
        parts, objects = ([ap for i, ap in by_category.items() if (":" in names[i]) == of] for of in (True, False))
        assert metrics[f"part/{iou_type}/AP"] == pytest.approx(np.mean(parts), abs=1e-6)
        assert metrics[f"object/{iou_type}/AP"] == pytest.approx(np.mean(objects), abs=1e-6)
        assert 0 < metrics[f"{iou_type}/AP_opart"] != pytest.approx(metrics[f"part/{iou_type}/AP"], abs=1e-3)
