"""Pictures drawn by hand, and a predictor that knows what is in them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn

from sam3_hyperet.data.annotations import AnnotatedImages, Category, ImageInfo, Instance
from sam3_hyperet.evaluation.scoring.coco import GroundTruth
from sam3_hyperet.inference.prediction import PromptPrediction

HEIGHT, WIDTH = 24, 32
CLASSES = {3: ("wheel", "part"), 7: ("car", "object"), 8: ("dog", "object"), 20: ("vehicle", "group")}


@dataclass(frozen=True)
class Region:
    category_id: int
    mask: np.ndarray
    crowd: bool = False

    @property
    def rle(self):
        return coco_mask.encode(np.asfortranarray(self.mask, dtype=np.uint8))


class Annotated(AnnotatedImages):
    """Images whose instances are given by position."""

    def __init__(self, name, categories, images, instances) -> None:
        super().__init__(name, categories)
        self._images, self._instances = images, instances

    def __len__(self) -> int:
        return len(self._images)

    def image(self, i: int) -> ImageInfo:
        return self._images[i]

    def instances(self, i: int) -> tuple[Instance, ...]:
        return self._instances[i]


def annotated(truth: GroundTruth) -> Annotated:
    """The annotations of a checked COCO file as a reader gives them, with the file's own boxes and areas."""
    return Annotated(
        truth.source,
        [Category(i, name) for i, name in truth.categories.items()],
        [ImageInfo(i, Path(f"{i}.png"), *size) for i, size in truth.sizes.items()],
        [
            tuple(
                Instance(t.category_id, t.shapes["segm"], t.crowd, -1, tuple(t.shapes["bbox"]), t.area)
                for t in truth.truths(i, ("bbox", "segm"))
            )
            for i in truth.sizes
        ],
    )


class Drawn(AnnotatedImages):
    """Images whose one pixel value is their position, so that a predictor knows which it is shown."""

    crowds = rectangles = boxed = 0
    is_upright = False

    def __init__(self, regions: list[list[Region]], levels: bool = True) -> None:
        self.name, self.dropped, self.adjusted = "drawn", Counter[str](), Counter[str]()
        self.regions, self.levels, self.opened = regions, levels, list[int]()

    @property
    def categories(self) -> tuple[Category, ...]:
        return tuple(
            Category(i, name, granularity=level if self.levels else "object") for i, (name, level) in CLASSES.items()
        )

    def __len__(self) -> int:
        return len(self.regions)

    def image(self, i: int) -> ImageInfo:
        return ImageInfo(100 + 10 * i, Path(f"{i}.png"), HEIGHT, WIDTH)

    def load_image(self, i: int) -> Image.Image:
        self.opened.append(i)
        return Image.new("L", (WIDTH, HEIGHT), i)

    def instances(self, i: int) -> tuple[Instance, ...]:
        return tuple(Instance(one.category_id, one.rle, one.crowd) for one in self.regions[i])

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
                rle = region.rle
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


@dataclass
class Part:
    """A split of the drawn pictures with their instances, their label maps, or both."""

    images: Drawn
    coco_file: Path | None = None
    labels: Drawn | None = None
    merged: AnnotatedImages | None = None
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def has_instances(self) -> bool:
        return self.coco_file is not None


class Knowing:
    """Answers with the truth: one query per instance, and the same queries unwanted where there is none."""

    prompts_at_once, precision, device = 2, "32-true", torch.device("cpu")

    def __init__(self, pictures: Drawn, presence: float = 1.0, right: bool = True) -> None:
        self.pictures, self.presence, self.right = pictures, presence, right
        self.model = nn.Identity()
        self.asked: list[int] = []

    def encode(self, image: Image.Image) -> int:
        return image.getpixel((0, 0))

    def predict(self, i: int, prompts=None, exemplars=None):
        self.asked.append(i)
        for k in range(len(self.vocabulary)) if prompts is None else prompts:
            yield self.answer(i, self.vocabulary[k].split("'")[0])

    def answer(self, i: int, name: str) -> PromptPrediction:
        ids = {category.name: category.id for category in self.pictures.categories}
        mine = [one for one in self.pictures.regions[i] if one.category_id == ids[name] and not one.crowd]
        masks = [one.mask if self.right else ~one.mask for one in mine]
        boxes = [corners(mask) for mask in masks]
        logits = torch.tensor(np.array([np.where(mask, 20.0, -20.0) for mask in masks]), dtype=torch.float32)
        union = np.any(masks, axis=0) if masks else np.zeros((HEIGHT, WIDTH), bool)
        return PromptPrediction(
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
