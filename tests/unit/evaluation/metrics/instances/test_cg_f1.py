"""cgF1 is that of SAM 3's own evaluator, on SA-Co files of one annotator or more and on COCO files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam3_hyperet import sam3_host  # noqa: F401  (before any other import of sam3)
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.metrics.instances.cg_f1 import cg_f1, cg_f1_metrics, pair_sums
from sam3_hyperet.evaluation.metrics.instances.instance_metrics import CGF1_KEYS
from sam3_hyperet.evaluation.scoring.cg_f1 import cg_f1_of_files
from sam3_hyperet.evaluation.scoring.coco_ap import score_coco_files
from sam3_hyperet.masks import encode_masks

HEIGHT, WIDTH = 30, 40
Files = tuple[list[Path], Path]


@pytest.fixture(scope="module")
def evaluate_by_sam3() -> Callable[[list[Path], Path, str], dict[str, float]]:
    """SAM 3's evaluator on the files; keys without its prefix."""
    from sam3.eval.cgf1_eval import CGF1Evaluator

    def run(ground_truths: list[Path], predictions: Path, iou_type: str) -> dict[str, float]:
        found = CGF1Evaluator([str(path) for path in ground_truths], iou_type).evaluate(str(predictions))
        return {key.removeprefix(f"cgF1_eval_{iou_type}_"): value for key, value in found.items()}

    return run


def shape(rng: np.random.Generator) -> dict[str, Any]:
    """A rectangle in one of two corners; few sizes, so that some have IoU 1 and some none."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    x, y = rng.choice([0, 18]), rng.choice([0, 12])
    w, h = rng.choice([10, 12, 14, 20]), rng.choice([8, 9, 14])
    mask[y : y + h, x : x + w] = True
    return {"segmentation": encode_masks(mask[None])[0], "bbox": [int(v) for v in (x, y, w, h)]}


def random_files(folder: Path, seed: int, annotators: int = 1, pairs: int = 40, categories: int = 2) -> Files:
    rng = np.random.default_rng(seed)
    images = [{"id": 3 * n + 1, "height": HEIGHT, "width": WIDTH, "text_input": f"thing {n}"} for n in range(pairs)]
    there = rng.random(pairs) < 0.6
    ids = [{"id": k + 1, "name": f"object {k}"} for k in range(categories)]
    paths = []
    for annotator in range(annotators):
        annotations: list[dict[str, Any]] = []
        for image in (image for image, shown in zip(images, there, strict=True) if shown ^ (rng.random() < 0.1)):
            for _ in range(rng.integers(1, 5)):
                one = {"id": len(annotations) + 1, "image_id": image["id"], "area": 80.0, **shape(rng)}
                one |= {"category_id": int(rng.integers(categories)) + 1, "iscrowd": int(rng.random() < 0.1)}
                annotations.append(one)
        flagged = [{**image, "is_instance_exhaustive": bool(rng.random() < 0.9)} for image in images]
        content = {"images": flagged, "annotations": annotations, "categories": ids}
        paths.append(folder / f"truth {annotator}.json")
        paths[-1].write_text(json.dumps(content))
    results = []
    for image, shown in zip(images, there, strict=True):
        for _ in range(rng.integers(0, 6 if shown else 2)):
            score = float(rng.choice([0.3, 0.5, 0.9, rng.random()]))
            category = int(rng.integers(categories)) + 1
            results.append({"image_id": image["id"], "category_id": category, "score": score, **shape(rng)})
    rng.shuffle(results)
    (folder / "results.json").write_text(json.dumps(results))
    return paths, folder / "results.json"


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("annotators", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_sam3s_own_evaluator_agrees(
    tmp_path: Path, evaluate_by_sam3: Callable[..., dict[str, float]], seed: int, annotators: int, iou_type: str
) -> None:
    files = random_files(tmp_path, seed, annotators)
    expected = evaluate_by_sam3(*files, iou_type)
    found = cg_f1_of_files(*files, iou_type)
    assert len(expected) == 26
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-9)
    assert 0 < expected["IL_MCC"] < 1
    assert expected["cgF1@0.75"] < expected["cgF1@0.5"]
    assert found["pairs"] + found["left_out"] == 40


@pytest.mark.parametrize("nothing", ["truth", "results", "both"])
def test_where_nothing_counts_it_agrees_too(
    tmp_path: Path, evaluate_by_sam3: Callable[..., dict[str, float]], nothing: str
) -> None:
    (truth,), results = random_files(tmp_path, 0, pairs=5)
    if nothing != "results":
        truth.write_text(json.dumps({**json.loads(truth.read_text()), "annotations": []}))
    if nothing != "truth":
        results.write_text("[]")
    with np.errstate(invalid="ignore"):  # SAM 3 divides 0 by 0
        expected = evaluate_by_sam3([truth], results, "segm")
    found = cg_f1_of_files([truth], results)
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-9)


def pairs_of_coco(truth: dict[str, Any], results: list[dict[str, Any]], folder: Path) -> Files:
    """Every image with every category as SA-Co's pair."""
    categories = [category["id"] for category in truth["categories"]]
    number = {
        (image["id"], category): n * len(categories) + k + 1
        for n, image in enumerate(truth["images"])
        for k, category in enumerate(categories)
    }
    sizes = {image["id"]: image for image in truth["images"]}
    images = [{**sizes[i], "id": n, "is_instance_exhaustive": True} for (i, _), n in number.items()]
    sides = []
    for records in (truth["annotations"], results):
        side = [{**r, "image_id": number[r["image_id"], r["category_id"]], "category_id": 1} for r in records]
        sides.append(side)
    content = {"images": images, "annotations": sides[0], "categories": [{"id": 1, "name": "object"}]}
    for name, values in (("pairs.json", content), ("claims.json", sides[1])):
        (folder / name).write_text(json.dumps(values))
    return [folder / "pairs.json"], folder / "claims.json"


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_coco_files_are_pairs_of_each_image_and_category(
    tmp_path: Path, shared_data: Path, evaluate_by_sam3: Callable[..., dict[str, float]], iou_type: str
) -> None:
    truth_path = shared_data / "coco/annotations/instances_val2017.json"
    results_path = shared_data / "reference_metrics/dev_tinycoco_val50_dets.json"
    files = pairs_of_coco(json.loads(truth_path.read_text()), json.loads(results_path.read_text()), tmp_path)
    expected = evaluate_by_sam3(*files, iou_type)
    metrics = score_coco_files(truth_path, results_path)
    for key in CGF1_KEYS:
        assert metrics[f"{iou_type}/{key}"] == pytest.approx(expected[key], abs=1e-9)
    assert cg_f1_of_files(*files, iou_type)["cgF1"] == pytest.approx(expected["cgF1"], abs=1e-9)
    assert expected["cgF1"] > 0.1


def test_sums_over_pictures_are_enough() -> None:
    rng = np.random.default_rng(0)
    instances, claimed = rng.integers(0, 4, (2, 6, 9))
    hits = np.minimum(np.minimum(instances, claimed)[..., None], rng.integers(0, 4, (6, 9, 10)))
    by_picture = pair_sums(instances, claimed, hits)
    together = pair_sums(instances.ravel(), claimed.ravel(), hits.reshape(-1, 10))
    assert cg_f1_metrics(by_picture.sum(axis=0)) == pytest.approx(cg_f1_metrics(together))
    assert cg_f1(together) == pytest.approx(cg_f1_metrics(together)["cgF1"])


def test_perfect_claims_score_one() -> None:
    instances = np.array([2, 0, 1, 0])
    found = cg_f1_metrics(pair_sums(instances, instances, np.repeat(instances[:, None], 10, axis=1)))
    assert [found[key] for key in CGF1_KEYS] == pytest.approx([1] * len(CGF1_KEYS), abs=1e-3)


BAD_FILES: list[tuple[Callable[[Any, Any], Any], str]] = [
    (lambda t, r: t["images"][1].pop("is_instance_exhaustive"), "images[1]: is_instance_exhaustive is None"),
    (lambda t, r: t["images"][1].update(is_instance_exhaustive="yes"), "is_instance_exhaustive is 'yes'"),
    (lambda t, r: [image.update(is_instance_exhaustive=False) for image in t["images"]], "none of its 40 images"),
    (lambda t, r: r[2].update(image_id=2), "record 2: image_id 2 is not in the ground truth"),
    (lambda t, r: r[2].update(score=float("nan")), "record 2: score is nan"),
    (lambda t, r: r[2].pop("segmentation"), "record 2: no segmentation, but masks are to be scored"),
]


@pytest.mark.parametrize(("break_it", "message"), BAD_FILES, ids=[message for _, message in BAD_FILES])
def test_bad_files_are_named(tmp_path: Path, break_it: Callable[[Any, Any], Any], message: str) -> None:
    (truth,), results = random_files(tmp_path, 1)
    contents = [json.loads(path.read_text()) for path in (truth, results)]
    break_it(*contents)
    for path, content in zip((truth, results), contents, strict=True):
        path.write_text(json.dumps(content))
    with pytest.raises(DataError) as error:
        cg_f1_of_files([truth], results)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_annotators_must_have_seen_the_same_pairs(tmp_path: Path) -> None:
    (truth, second), results = random_files(tmp_path, 1, annotators=2)
    content = copy.deepcopy(json.loads(second.read_text()))
    content["images"] = content["images"][:-1]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 3 * 39 + 1]
    second.write_text(json.dumps(content))
    with pytest.raises(DataError, match="no image 118"):
        cg_f1_of_files([truth, second], results)
    for paths, iou_type in (([], "segm"), ([truth], "boxes")):
        with pytest.raises(ConfigError, match="bbox, segm"):
            cg_f1_of_files(paths, results, iou_type)
