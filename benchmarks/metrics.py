"""Time of the metrics of a whole COCO validation set, beside pycocotools, on synthetic detections of its size."""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO as FasterCOCO
from faster_coco_eval import COCOeval_faster
from pycocotools import mask as rle_ops
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks import timing
from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.bootstrap import draw_weights
from sam3_hyperet.evaluation.metrics.instances.instance_metrics import instance_headline, instance_metrics, iou_types
from sam3_hyperet.evaluation.protocol import MAX_DETECTIONS
from sam3_hyperet.evaluation.scoring.coco import GroundTruth, check_detections
from sam3_hyperet.evaluation.scoring.coco_ap import records_of_results, score_coco_files
from sam3_hyperet.reading import read_json

CATEGORIES = 80
HEIGHT, WIDTH = 480, 640
TRUTHS_PER_IMAGE = 7.36  # as in val2017
OURS, REFERENCE = "sam3_hyperet", "pycocotools"
_TWELVE = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@100", "ARs", "ARm", "ARl")
_TOLERANCE = 1e-9
Results = dict[str, float]


def run(images: int = 5000, detections: int = 40, repeats: int = 1, draws: int = 3) -> Results:
    """Time box and mask AP of a results file, and of the records that an evaluation leaves; print a table.

    `files`: from the two JSON files to the numbers, with pycocotools and faster-coco-eval (their twelve numbers) and
    with `score_coco_files`, which checks every record and gives AP per category, AP@100/img and cgF1 besides. They take
    turns, and a speed-up is the median of those within a turn. `records`: the same results from records of 100
    detections of each of 80 categories in every image, 40 million for 5,000; `draw`: its headline, once in a
    bootstrap. Each runs in a process of its own; seconds are the processor's, which other jobs hardly touch.

    Args:
        detections: of an image in the results file.

    Returns:
        `metrics/<what>/seconds`, `…/peak_gib` of resident memory, `…/speedup` over pycocotools,
        `metrics/largest_difference` of any number from pycocotools', `metrics/records/detections`.

    Raises:
        DataError: a number differs by more than 1e-9.
    """
    metrics: Results = {}
    with tempfile.TemporaryDirectory() as name:
        truth, found = Path(name) / "truth.json", Path(name) / "results.json"
        timing.in_process(partial(_write_files, truth, found, images, detections), "fork")
        calls: dict[str, Callable[[], Results]] = {
            OURS: lambda: score_coco_files(truth, found),
            "faster-coco-eval": lambda: _by_reference(truth, found, FasterCOCO, COCOeval_faster),
            REFERENCE: lambda: _by_reference(truth, found, COCO, COCOeval),
        }
        turns = [
            {what: timing.in_process(partial(_timed, call), "fork") for what, call in calls.items()}
            for _ in range(repeats)
        ]
        metrics |= timing.in_process(partial(_from_records, truth, found, draws), "fork")[0]
    times = {what: [turn[what][0][1] for turn in turns] for what in calls}
    for what in calls:
        metrics[f"metrics/{what}/seconds"] = statistics.median(times[what])
        metrics[f"metrics/{what}/peak_gib"] = max(turn[what][1] for turn in turns)
        metrics[f"metrics/{what}/speedup"] = timing.ratio(times[REFERENCE], times[what])
    numbers = {what: turns[0][what][0][0] for what in calls}
    apart = max(abs(numbers[what][key] - value) for what in calls for key, value in numbers[REFERENCE].items())
    metrics["metrics/largest_difference"] = apart
    if apart > _TOLERANCE:
        raise DataError(f"a metric differs from pycocotools' by {apart}, expected at most {_TOLERANCE}")
    _print(metrics, f"{images} images, {detections} detections each; box and mask AP")
    return metrics


def _timed(call: Callable[[], Results]) -> tuple[Results, float]:
    started = time.process_time()
    return call(), time.process_time() - started


def _from_records(truth: Path, results: Path, draws: int) -> Results:
    ground_truth = GroundTruth.read(truth)
    image_ids = sorted(ground_truth.sizes)
    detections = check_detections(read_json(results), ground_truth, str(results))
    rng = np.random.default_rng(0)
    records = [_filled(record, rng) for record in records_of_results(ground_truth, detections, image_ids)]
    del detections
    started = time.process_time()
    instance_metrics(records, ground_truth.categories, {})
    evaluated = time.process_time()
    headline = instance_headline(records, ground_truth.categories, {})
    prepared = time.process_time()
    for weights in draw_weights(len(records), draws):
        headline(weights)
    return {
        "metrics/records/seconds": evaluated - started,
        "metrics/records/detections": sum(len(record["scores"]) for record in records),
        "metrics/draw/preparation_seconds": prepared - evaluated,
        "metrics/draw/seconds": (time.process_time() - prepared) / draws,
        "metrics/records/peak_gib": timing.peak_gib(),
    }


def _filled(record: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The record with false detections of low scores added, up to 100 of each category."""
    counts = record["counts"].astype(int)
    rank = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    place = MAX_DETECTIONS * np.repeat(np.arange(CATEGORIES), counts) + rank
    total = MAX_DETECTIONS * CATEGORIES
    filled = {**record, "counts": np.full(CATEGORIES, MAX_DETECTIONS, dtype=np.uint8)}
    filled["scores"] = 1e-3 * np.sort(rng.random((CATEGORIES, MAX_DETECTIONS)))[:, ::-1].ravel()
    filled["scores"][place] = record["scores"]
    in_best = np.zeros(total, dtype=bool)
    in_best[place] = np.unpackbits(record["in_best"], count=len(place))
    filled["in_best"] = np.packbits(in_best)
    for iou_type in iou_types([record]):
        sizes = (0x80 | (0x10 << rng.integers(3, size=total))).astype(np.uint8)
        sizes[place] = record[f"{iou_type}_sizes"]
        filled[f"{iou_type}_sizes"] = sizes
        filled[f"{iou_type}_events"] = place[record[f"{iou_type}_events"]].astype(np.int32)
    return filled


def _by_reference(truth: Path, results: Path, index: Callable[..., Any], evaluator: Callable[..., Any]) -> Results:
    numbers: Results = {}
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = index(str(truth))
        found = ground_truth.loadRes(str(results))
        for iou_type in ("segm", "bbox"):
            evaluation = evaluator(ground_truth, found, iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            numbers |= {f"{iou_type}/{key}": float(v) for key, v in zip(_TWELVE, evaluation.stats[:12], strict=True)}
    return numbers


def _write_files(truth_file: Path, results_file: Path, images: int, detections: int) -> None:
    """Blobs of log-uniform size; half of the detections are jittered copies of them, the others are of any category."""
    rng = np.random.default_rng(0)
    truth: dict[str, list[Any]] = {
        "images": [{"id": 3 * i + 1, "height": HEIGHT, "width": WIDTH} for i in range(images)],
        "categories": [{"id": k + 1, "name": f"category {k}"} for k in range(CATEGORIES)],
        "annotations": [],
    }
    frequency = 1 / np.arange(1, CATEGORIES + 1)
    results: list[dict[str, Any]] = []
    for image in truth["images"]:
        blobs = []
        for _ in range(rng.poisson(TRUTHS_PER_IMAGE)):
            blobs.append((_blob(rng), int(rng.choice(CATEGORIES, p=frequency / frequency.sum())) + 1))
        for polygon, category_id in blobs:
            area = float(rle_ops.area(rle_ops.frPyObjects([polygon], HEIGHT, WIDTH))[0])
            annotation = {"image_id": image["id"], "category_id": category_id, "segmentation": [polygon], "area": area}
            annotation |= {"bbox": _box(polygon), "iscrowd": 0, "id": len(truth["annotations"]) + 1}
            truth["annotations"].append(annotation)
        polygons, categories = [], []
        for _ in range(detections):
            copied = len(blobs) and rng.random() < 0.5
            polygon, category_id = blobs[rng.integers(len(blobs))] if copied else (_blob(rng), 0)
            polygons.append((np.array(polygon) + rng.normal(0, 4, len(polygon))).tolist())
            categories.append(category_id or int(rng.integers(CATEGORIES)) + 1)
        for rle, category_id in zip(rle_ops.frPyObjects(polygons, HEIGHT, WIDTH), categories, strict=True):
            score = round(float(rng.random()), 3)
            segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
            detection = {"image_id": image["id"], "category_id": category_id, "score": score}
            results.append({**detection, "segmentation": segmentation})
    truth_file.write_text(json.dumps(truth))
    results_file.write_text(json.dumps(results))


def _blob(rng: np.random.Generator) -> list[float]:
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    radius = np.exp(rng.uniform(np.log(0.02), np.log(0.25))) * HEIGHT * rng.uniform(0.7, 1, 16)
    x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
    points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
    flat: list[float] = points.clip(0, [WIDTH, HEIGHT]).round(2).ravel().tolist()
    return flat


def _box(polygon: list[float]) -> list[float]:
    x, y = polygon[::2], polygon[1::2]
    return [min(x), min(y), max(x) - min(x), max(y) - min(y)]


def _print(metrics: Results, title: str) -> None:
    named = {"records": f"{metrics['metrics/records/detections'] / 1e6:.1f} M detections, from records"}
    named["draw"] = "one bootstrap draw of these"
    rows = []
    for what in (OURS, "faster-coco-eval", REFERENCE, "records", "draw"):
        row = [named.get(what, f"{what}, from files")]
        for key, form in (("seconds", "{:.2f}"), ("speedup", "{:.1f} ×"), ("peak_gib", "{:.2f}")):
            value = metrics.get(f"metrics/{what}/{key}")
            row.append(form.format(value) if value else "")
        rows.append(row)
    caption = "seconds of the processor; the draw's memory is in the records' row"
    timing.print_table(title, ("", "seconds", "speed-up", "peak GiB"), rows, caption)
