"""OV-PARTS' numbers beside ones of our own: seen, unseen and harmonic mIoU, with oracle objects and without."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from part_trees import HEIGHT, SHOWN, WIDTH, ade20k_part, data_options, ov_parts_names, pascal_part
from PIL import Image
from torch import nn

from sam3_hyperet.data.annotations import Category
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.evaluation.metrics.evaluator import Prompt
from sam3_hyperet.evaluation.metrics.semantic.oracle_objects import OracleObjectEvaluator
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.task import EvalTask
from sam3_hyperet.inference.prediction import PromptDetections, PromptPrediction

TREES = {"ade20k_part": (ade20k_part, 65535), "pascal_part": (pascal_part, 255)}


def drawn(rng, shown):
    """Presence, scores of instances, their masks and the semantic map of a prompt: probabilities, right half the time.

    shown: (H, W) where the image shows what is asked for.
    """
    guess = 0.5 * shown + rng.uniform(0, 0.5 + 0.3 * rng.random(), (4, HEIGHT, WIDTH))
    presence = rng.uniform(0.4, 1) if shown.any() else rng.uniform(0.2, 0.7)
    return float(presence), rng.uniform(0, 1, 3), guess[:3].clip(0, 0.99), guess[3].clip(0, 0.99)


def logit(values):
    return torch.logit(torch.as_tensor(values, dtype=torch.float32))


def value_at(answer, fusion, oracle):
    """A class's value at every pixel, by the definitions in the documentation; -inf where it does not compete."""
    presence, scores, masks, semantic = answer
    found = np.full((HEIGHT, WIDTH), -np.inf)
    if not oracle and presence < 0.5:
        return found
    least = 0.0 if oracle else 0.5
    for score, mask in zip(scores, masks, strict=True):
        if score >= 0.5 and fusion != "semantic":
            found = np.where(mask >= least, np.maximum(found, presence * score * mask), found)
    if fusion != "instance":
        found = np.where(semantic >= least, np.maximum(found, presence * semantic), found)
    return found


def reference(names, maps, answers, fusion, oracle):
    """IoU by class, from the images' labels and the answers for each name."""
    hits, unions = np.zeros(len(names)), np.zeros(len(names))
    objects = np.array([name.split("'s ")[0] for name in names])
    for truth, of_image in zip(maps, answers, strict=True):
        values = np.stack([value_at(of_image[name], fusion, oracle) for name in names])
        labelled = truth < len(names)
        if oracle:
            owner = objects[np.where(labelled, truth, 0)]
            values[objects[:, None, None] != owner[None]] = -np.inf
        chosen = np.where(np.isinf(values.max(axis=0)), -1, values.argmax(axis=0))
        for c in range(len(names)):
            is_truth, is_found = (truth == c) & labelled, (chosen == c) & labelled
            hits[c] += (is_truth & is_found).sum()
            unions[c] += (is_truth | is_found).sum()
    return np.divide(hits, unions, out=np.full(len(names), np.nan), where=unions > 0)


@pytest.mark.parametrize("data", TREES)
def test_seen_unseen_and_harmonic_miou_are_those_of_the_protocol(data, tmp_path):
    make, ignore = TREES[data]
    options = data_options(data, make(tmp_path / data))
    split = open_split(options, "val")
    task = EvalTask(split, Protocol(granularity=False, fusion="fused"), range(len(split.images)))
    evaluators = {name: task.evaluators(None)[name] for name in ("label_maps", "oracle_object")}
    names, renamed = ov_parts_names(data), options.renamed or {}
    of_text = {c.name: name for c, name in zip(split.labels.categories, names, strict=True)}
    maps = [np.asarray(Image.open(split.labels.files(i)[1])).astype(int) for i in range(len(split.images))]
    rng, answers, records = np.random.default_rng(0), [], {name: [] for name in evaluators}
    for i in range(len(split.images)):
        for one in evaluators.values():
            one.start(i, {})
        answers.append({name: drawn(rng, maps[i] == label) for label, name in enumerate(names)})
        for prompt in task.prompts:
            presence, scores, masks, semantic = answers[i][of_text[prompt.text]]
            scores = torch.tensor(scores, dtype=torch.float32)
            prediction = PromptPrediction(scores, torch.zeros(3, 4), logit(masks), logit(semantic), presence)
            for one in evaluators.values():
                one.add(prompt, PromptDetections(prediction, HEIGHT, WIDTH))
        for name, one in evaluators.items():
            records[name].append(one.finish())
    metrics = {name: one.evaluate(records[name]) for name, one in evaluators.items()}
    unseen = np.array([renamed.get(name.split("'s ")[0], name.split("'s ")[0]) in options.unseen for name in names])
    assert ignore not in range(len(names))
    for fusion in ("instance", "semantic", "fused"):
        for oracle, evaluator, below in ((False, "label_maps", ""), (True, "oracle_object", "oracle_object/")):
            found = metrics[evaluator]
            iou = reference(names, maps, answers, fusion, oracle)
            seen, hidden = np.nanmean(iou[~unseen]), np.nanmean(iou[unseen])
            assert found[f"{below}{fusion}/mIoU"] == pytest.approx(np.nanmean(iou))
            assert found[f"{below}seen/{fusion}/mIoU"] == pytest.approx(seen)
            assert found[f"{below}unseen/{fusion}/mIoU"] == pytest.approx(hidden)
            harmonic = 2 * seen * hidden / (seen + hidden)
            assert found[f"{below}harmonic/{fusion}/mIoU"] == pytest.approx(harmonic)
            assert harmonic > 0
            if oracle:
                kept = {name for name, value in zip(names, iou, strict=True) if value > 0}
                assert kept <= set(SHOWN[data])
    assert metrics["oracle_object"]["oracle_object/harmonic/mIoU"] == pytest.approx(harmonic)  # of protocol.fusion
    assert metrics["oracle_object"]["oracle_object/fused/mIoU"] > metrics["label_maps"]["fused/mIoU"]


def test_oracle_objects_are_scored_only_where_parts_name_theirs(tmp_path):
    root = pascal_part(tmp_path / "pascal_part")
    split = open_split(
        data_options("pascal_part", root, "data.parts=", "data.renamed=null", "data.wholes=", "data.unseen=[]"), "val"
    )
    assert "oracle_object" not in EvalTask(split, Protocol(granularity=False), [0]).evaluators(nn.Identity())


@pytest.mark.parametrize("background", [None, 5])
def test_what_is_no_part_is_left_out(background):
    """A plain object and a background in the label maps, which no part's prompt could ever take."""
    parts = [Category(n, f"{part} of a car", whole="car", part=part) for n, part in ((7, "wheel"), (9, "door"))]
    labels = np.array([[3, 3, 7, 7], [5, 5, 9, 9], [5, 9, 9, 9]])
    images = SimpleNamespace(
        name="cars",
        categories=(Category(3, "sky"), parts[0], Category(5, "ground"), parts[1]),
        background=background,
        label_map=lambda i: labels,
    )
    groups = {"seen": ("wheel of a car",), "unseen": ("door of a car",)}
    evaluator = OracleObjectEvaluator(images, Protocol(fusion="fused"), groups)
    evaluator.start(0, {})
    for index, name in enumerate(one.name for one in images.categories):
        semantic = np.where(labels == images.categories[index].id, 0.8, 0.1)
        semantic[0, 3] = 0.5 if name.startswith("door") else 0.4  # one pixel of the wheel goes to the door
        prediction = PromptPrediction(torch.zeros(0), torch.zeros(0, 4), torch.zeros(0, 3, 4), logit(semantic), 0.9)
        evaluator.add(Prompt(name, 0, index), PromptDetections(prediction, 3, 4))
    found = evaluator.evaluate([evaluator.finish()])
    assert found["oracle_object/fused/mIoU"] == pytest.approx((1 / 2 + 5 / 6) / 2)
    assert found["oracle_object/seen/fused/mIoU"] == pytest.approx(1 / 2)
    assert found["oracle_object/unseen/fused/mIoU"] == pytest.approx(5 / 6)
    assert found["oracle_object/fused/labelled_pixels"] == 7
    assert found["oracle_object/fused/mIoU/2"] == found["oracle_object/fused/mIoU"]
    assert not any("sky" in str(key) or "ground" in str(key) for key in found)
    labels[:] = 3
    evaluator.start(0, {})
    assert evaluator.evaluate([evaluator.finish()]) == {}
