"""The runner with predictors that know the truth, or nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.predictor import PromptPrediction
from sam3_hyperet.evaluation.runner import Protocol, evaluate_instances, evaluate_label_maps, positions

HEIGHT, WIDTH = 24, 32
CLASSES = {3: ("wheel", "part"), 7: ("car", "object"), 8: ("dog", "object"), 20: ("vehicle", "group")}


@dataclass(frozen=True)
class Concept:
    id: int
    name: str
    granularity: str


@dataclass(frozen=True)
class Region:
    category_id: int
    mask: np.ndarray
    crowd: bool = False


@dataclass(frozen=True)
class Record:
    image_id: int
    height: int = HEIGHT
    width: int = WIDTH


@dataclass
class Drawn:
    """Pictures whose one pixel value is their position, so that a predictor knows which it is shown."""

    regions: list[list[Region]]
    levels: bool = True
    opened: list[int] = field(default_factory=list)

    @property
    def categories(self) -> tuple[Concept, ...]:
        return tuple(Concept(i, name, level if self.levels else "object") for i, (name, level) in CLASSES.items())

    def __len__(self) -> int:
        return len(self.regions)

    def image(self, i: int) -> Record:
        return Record(100 + 10 * i)

    def picture(self, i: int) -> Image.Image:
        self.opened.append(i)
        return Image.new("L", (WIDTH, HEIGHT), i)

    def instances(self, i: int) -> tuple[Region, ...]:
        return tuple(self.regions[i])

    def label_map(self, i: int) -> np.ndarray | None:
        labels = np.full((HEIGHT, WIDTH), -1)
        for region in self.regions[i]:
            if not region.crowd:
                labels[region.mask] = region.category_id
        return labels

    def write(self, path: Path) -> Path:
        annotations = []
        for i, regions in enumerate(self.regions):
            for region in regions:
                rle = coco_mask.encode(np.asfortranarray(region.mask, dtype=np.uint8))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 100 + 10 * i,
                        "category_id": region.category_id,
                        "bbox": [float(v) for v in coco_mask.toBbox(rle)],
                        "area": float(coco_mask.area(rle)),
                        "iscrowd": int(region.crowd),
                        "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
                    }
                )
        images = [{"id": 100 + 10 * i, "height": HEIGHT, "width": WIDTH} for i in range(len(self))]
        categories = [{"id": i, "name": name} for i, (name, _) in CLASSES.items()]
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        return path


class Knowing:
    """Answers with the truth: one query per instance, and the same queries unwanted where there is none."""

    def __init__(self, pictures: Drawn, presence: float = 1.0, right: bool = True) -> None:
        self.pictures, self.presence, self.right = pictures, presence, right

    def predict(self, picture: Image.Image):
        i = picture.getpixel((0, 0))
        for category in self.pictures.categories:
            mine = [one for one in self.pictures.instances(i) if one.category_id == category.id and not one.crowd]
            masks = [one.mask if self.right else ~one.mask for one in mine]
            boxes = [corners(mask) for mask in masks]
            logits = torch.tensor(np.array([np.where(mask, 20.0, -20.0) for mask in masks]), dtype=torch.float32)
            union = np.any(masks, axis=0) if masks else np.zeros((HEIGHT, WIDTH), bool)
            yield PromptPrediction(
                query_scores=torch.linspace(0.95, 0.9, len(masks)),
                boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                mask_logits=logits.reshape(-1, HEIGHT, WIDTH),
                semantic_logits=torch.tensor(np.where(union, 20.0, -20.0), dtype=torch.float32),
                presence=self.presence if mine else 1 - self.presence,
            )


def corners(mask: np.ndarray) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0] / WIDTH, rows[0] / HEIGHT, (columns[-1] + 1) / WIDTH, (rows[-1] + 1) / HEIGHT]


def block(x: int, y: int, width: int = 5, height: int = 4) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + height, x : x + width] = True
    return mask


@pytest.fixture
def pictures() -> Drawn:
    return Drawn(
        [
            [Region(7, block(2, 2)), Region(7, block(10, 2)), Region(3, block(2, 12)), Region(20, block(20, 12))],
            [Region(8, block(4, 4, 9, 9)), Region(7, block(20, 3), crowd=True)],
            [Region(20, block(0, 0, 32, 10)), Region(3, block(5, 15))],
        ]
    )


@pytest.fixture
def coco_file(pictures: Drawn, tmp_path: Path) -> Path:
    return pictures.write(tmp_path / "truth.json")


def test_the_truth_scores_one(pictures, coco_file):
    result = evaluate_instances(Knowing(pictures), pictures, coco_file, Protocol(), shown=[(0, 7), (2, 8)])
    for key in ("segm/AP", "bbox/AP", "segm/AP75", "part/segm/AP", "object/bbox/AP", "group/segm/AP"):
        assert result.metrics[key] == pytest.approx(1)
    for key in ("presence/accuracy_present", "presence/accuracy_absent", "presence/IL_MCC"):
        assert result.metrics[key] == pytest.approx(1)
    assert result.metrics["speed/images_per_s"] > 0
    assert [one.score for one in result.detections[0, 7]] == pytest.approx([0.95, 0.9])
    assert np.array_equal(result.detections[0, 7][1].mask, block(10, 2))
    assert result.detections[2, 8] == ()
    assert result.detections.keys() == {(0, 7), (2, 8)}


def test_what_is_wrong_scores_nothing(pictures, coco_file):
    metrics = evaluate_instances(Knowing(pictures, 0.1, right=False), pictures, coco_file, Protocol()).metrics
    assert metrics["segm/AP"] == metrics["object/segm/AP"] == 0
    assert metrics["presence/accuracy_present"] == metrics["presence/accuracy_absent"] == 0
    assert metrics["presence/IL_MCC"] == pytest.approx(-1)


def test_the_score_carries_the_presence(pictures, coco_file):
    shown = evaluate_instances(Knowing(pictures, 0.6), pictures, coco_file, Protocol(), shown=[(0, 3)]).detections
    assert shown[0, 3][0].score == pytest.approx(0.95 * 0.6)


def test_a_category_of_crowds_alone_is_no_presence_pair(pictures, coco_file):
    """Picture 1 has a crowd of cars and no car: neither present nor absent."""
    metrics = evaluate_instances(Knowing(pictures), pictures, coco_file, Protocol()).metrics
    counts = [metrics[f"presence/{name}"] for name in ("true_positives", "true_negatives")]
    assert counts == [6, 3 * 4 - 6 - 1]
    assert metrics["object/presence/true_positives"] + metrics["object/presence/true_negatives"] == 3 * 2 - 1
    assert metrics["part/presence/true_negatives"] == 1
    assert metrics["crowds"] == 1
    assert "object/presence/false_positives" in metrics


def test_one_granularity_is_no_group(pictures, coco_file):
    pictures.levels = False
    metrics = evaluate_instances(Knowing(pictures), pictures, coco_file, Protocol()).metrics
    assert not [key for key in metrics if key.startswith(("object/", "part/", "group/"))]


def test_limit_takes_pictures_evenly_spread(pictures, coco_file):
    metrics = evaluate_instances(Knowing(pictures), pictures, coco_file, Protocol(limit=2)).metrics
    assert pictures.opened == [0, 2]
    assert metrics["images"] == 2
    assert metrics["segm/AP"] == pytest.approx(1)  # picture 1's dog is not missed
    assert positions(pictures, 0) == positions(pictures, 9) == [0, 1, 2]
    assert positions(range(101), 3) == [0, 50, 100]
    assert positions(range(5), 1) == [0]
    for limit in range(1, 40):
        chosen = positions(range(40), limit)
        assert len(set(chosen)) == limit
        assert chosen == sorted(chosen)


def test_top_keeps_the_best_detections(pictures, coco_file):
    metrics = evaluate_instances(Knowing(pictures), pictures, coco_file, Protocol(top=1)).metrics
    assert metrics["detections"] == 6  # of seven: one of the two cars is left out
    assert metrics["object/segm/AP"] < 1


def test_label_maps_of_the_truth_score_one(pictures):
    result = evaluate_label_maps(Knowing(pictures), pictures, Protocol(), shown=[2])
    for fusion in ("instance", "semantic", "fused"):
        assert result.metrics[f"{fusion}/mIoU"] == pytest.approx(1)
        assert result.metrics[f"{fusion}/unassigned"] == 0
        assert result.metrics[f"{fusion}/images"] == 3
    assert result.metrics["fused/labelled_pixels"] == 2 * 20 + 20 + 20 + 81 + 320 + 20
    truth = pictures.label_map(2)
    shown = result.label_maps[2]
    order = list(CLASSES)
    assert np.array_equal(shown, np.vectorize(lambda v: order.index(v) if v >= 0 else -1)(truth))
    assert result.label_maps.keys() == {2}


def test_without_an_answer_every_pixel_is_unassigned_and_missed(pictures):
    metrics = evaluate_label_maps(Knowing(pictures, presence=0.4), pictures, Protocol()).metrics
    for fusion in ("instance", "semantic", "fused"):
        assert metrics[f"{fusion}/mIoU"] == 0
        assert metrics[f"{fusion}/unassigned"] == 1


def test_the_score_threshold_is_for_instances_alone(pictures):
    metrics = evaluate_label_maps(Knowing(pictures), pictures, Protocol(score_threshold=0.99)).metrics
    assert (metrics["instance/mIoU"], metrics["instance/unassigned"]) == (0, 1)
    assert metrics["semantic/mIoU"] == metrics["fused/mIoU"] == pytest.approx(1)


def test_label_maps_respect_the_limit_and_need_maps(pictures):
    metrics = evaluate_label_maps(Knowing(pictures), pictures, Protocol(limit=1)).metrics
    assert pictures.opened == [0]
    assert metrics["semantic/images"] == 1
    pictures.label_map = lambda i: None
    with pytest.raises(ConfigError, match="picture 100 has no label map"):
        evaluate_label_maps(Knowing(pictures), pictures, Protocol())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "protocol.top=0; expected an integer from 1"),
        ({"prompts_at_once": "many"}, "protocol.prompts_at_once='many'; expected an integer"),
        ({"limit": -1}, "protocol.limit=-1; expected an integer from 0"),
        ({"limit": True}, "protocol.limit=True"),
        ({"examples": -2}, "protocol.examples=-2"),
        ({"mask_threshold": 1.5}, "protocol.mask_threshold=1.5; expected a probability"),
        ({"presence_threshold": None}, "protocol.presence_threshold=None; expected a probability"),
        ({"score_threshold": float("nan")}, "protocol.score_threshold=nan"),
    ],
)
def test_impossible_protocols_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Protocol(**options)
