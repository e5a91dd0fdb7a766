"""One model on one split: instance AP and presence, and label maps by three fusions, by a stated protocol."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol as TypingProtocol

import numpy as np
from PIL import Image
from torch import Tensor

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.coco_ap import CocoAP
from sam3_hyperet.evaluation.fusion import FUSIONS, ClassEvidence, Fusion, FusionThresholds
from sam3_hyperet.evaluation.predictor import Predictor, PromptPrediction
from sam3_hyperet.evaluation.presence import PresenceAccuracy
from sam3_hyperet.evaluation.report import Detection
from sam3_hyperet.evaluation.rle import encode_masks
from sam3_hyperet.evaluation.semantic_miou import SemanticMIoU


@dataclass(frozen=True)
class Protocol:
    """How predictions become numbers.

    Attributes:
        top: detections kept per picture and category.
        mask_threshold: probability from which a pixel belongs to a mask.
        presence_threshold: probability from which a concept counts as present.
        score_threshold: an instance's own score from which it enters the fusions to label maps.
        prompts_at_once: prompts per forward pass.
        limit: pictures of the split that are scored, evenly spread; 0 for all.
        examples: pictures kept for the report.
    """

    top: int = 100
    mask_threshold: float = 0.5
    presence_threshold: float = 0.5
    score_threshold: float = 0.5
    prompts_at_once: int = 16
    limit: int = 0
    examples: int = 8

    def __post_init__(self) -> None:
        for name in ("mask_threshold", "presence_threshold", "score_threshold"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise ConfigError(f"protocol.{name}={value!r}; expected a probability")
        for name, least in (("top", 1), ("prompts_at_once", 1), ("limit", 0), ("examples", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"protocol.{name}={value!r}; expected an integer from {least}")


class _Category(TypingProtocol):
    id: int
    name: str
    granularity: str


class _Instance(TypingProtocol):
    category_id: int
    crowd: bool


class _Record(TypingProtocol):
    image_id: int
    height: int
    width: int


class Pictures(TypingProtocol):
    """What the runner needs of annotated pictures; `sam3_hyperet.data`'s readers give it."""

    categories: tuple[_Category, ...]

    def __len__(self) -> int: ...
    def image(self, i: int) -> _Record: ...
    def picture(self, i: int) -> Image.Image: ...
    def instances(self, i: int) -> tuple[_Instance, ...]: ...
    def label_map(self, i: int) -> np.ndarray | None: ...


@dataclass
class Result:
    """Metrics by name, and what the model answered where the report will show it."""

    metrics: dict[str, float] = field(default_factory=dict)
    detections: dict[tuple[int, int], tuple[Detection, ...]] = field(default_factory=dict)
    label_maps: dict[int, np.ndarray] = field(default_factory=dict)


def positions(pictures: Pictures, limit: int) -> list[int]:
    """The pictures to score: all, or `limit` of them, evenly spread."""
    count = len(pictures)
    if not limit or limit >= count:
        return list(range(count))
    return np.linspace(0, count - 1, limit).round().astype(int).tolist()


def evaluate_instances(
    predictor: Predictor,
    pictures: Pictures,
    coco_file: Path,
    protocol: Protocol,
    shown: Collection[tuple[int, int]] = (),
) -> Result:
    """Prompt every category on every picture, absent ones included; box and mask AP, and presence.

    Args:
        coco_file: the annotations of the pictures, as COCO instances.
        shown: (position, category id) pairs whose detections are kept.

    Returns:
        `segm/AP`, `bbox/AP`…, `presence/…`; with several granularities each of them also below `<granularity>/`; and
        `speed/images_per_s`.
    """
    chosen = positions(pictures, protocol.limit)
    groups = _by_granularity(pictures)
    granularity = {category.id: category.granularity for category in pictures.categories}
    scorer = CocoAP(coco_file, groups=groups, image_ids=[pictures.image(i).image_id for i in chosen])
    presence: dict[str, PresenceAccuracy] = defaultdict(lambda: PresenceAccuracy(protocol.presence_threshold))
    result = Result()
    seconds = 0.0
    for i in chosen:
        record = pictures.image(i)
        there, crowds = _present(pictures.instances(i))
        records: list[dict[str, object]] = []
        started = time.perf_counter()
        for category, answer in zip(pictures.categories, predictor.predict(pictures.picture(i)), strict=True):
            best = answer.top(protocol.top)
            masks = (best.mask_probabilities(record.height, record.width) >= protocol.mask_threshold).cpu().numpy()
            records += _records(category.id, best, masks, record)
            if category.id in there or category.id not in crowds:
                for name in ("", *([granularity[category.id]] if groups else [])):
                    presence[name].process(answer.presence, category.id in there)
            if (i, category.id) in shown:
                result.detections[i, category.id] = tuple(
                    Detection(mask, score) for mask, score in zip(masks, best.scores.tolist(), strict=True)
                )
        scorer.process(record.image_id, records)
        seconds += time.perf_counter() - started
    result.metrics = scorer.evaluate()
    for name, counts in presence.items():
        result.metrics |= {f"{name}/{key}".lstrip("/"): value for key, value in counts.evaluate().items()}
    result.metrics["speed/images_per_s"] = len(chosen) / seconds
    return result


def evaluate_label_maps(
    predictor: Predictor, pictures: Pictures, protocol: Protocol, shown: Collection[int] = ()
) -> Result:
    """Prompt every class on every picture and fuse the answers to a label map at the labels' own size.

    Returns:
        `<fusion>/mIoU`, `<fusion>/unassigned`, … for the three fusions of `evaluation.fusion`; `speed/images_per_s`.
    """
    thresholds = FusionThresholds(
        presence=protocol.presence_threshold, score=protocol.score_threshold, mask=protocol.mask_threshold
    )
    scorers = {name: SemanticMIoU([c.name for c in pictures.categories], ignore=-1) for name in FUSIONS}
    result = Result()
    seconds = 0.0
    chosen = positions(pictures, protocol.limit)
    for i in chosen:
        truth = vocabulary_labels(pictures, i)
        started = time.perf_counter()
        fusions = {name: Fusion(name, truth.shape, thresholds) for name in FUSIONS}
        for evidence in _evidence(predictor, pictures.picture(i), truth.shape, thresholds):
            for fusion in fusions.values():
                fusion.add(evidence)
        seconds += time.perf_counter() - started
        for name, scorer in scorers.items():
            scorer.process(truth, fusions[name].labels, source=f"picture {pictures.image(i).image_id}")
        if i in shown:
            result.label_maps[i] = fusions["fused"].labels.cpu().numpy()
    for name, scorer in scorers.items():
        result.metrics |= {f"{name}/{key}": value for key, value in scorer.evaluate().items()}
    result.metrics["speed/images_per_s"] = len(chosen) / seconds
    return result


def _evidence(
    predictor: Predictor, picture: Image.Image, size: tuple[int, ...], thresholds: FusionThresholds
) -> Iterator[ClassEvidence]:
    for label, answer in enumerate(predictor.predict(picture)):
        if answer.presence < thresholds.presence:
            continue
        kept = answer.above(thresholds.score)
        yield ClassEvidence(
            label=label,
            presence=answer.presence,
            scores=kept.query_scores,
            masks=kept.mask_probabilities(*size),
            semantic=answer.semantic_probabilities(*size),
        )


def vocabulary_labels(pictures: Pictures, i: int) -> np.ndarray:
    """(H, W) position of each pixel's class in the vocabulary, -1 where it has none."""
    labels = pictures.label_map(i)
    if labels is None:
        raise ConfigError(f"picture {pictures.image(i).image_id} has no label map")
    table = np.full(max(category.id for category in pictures.categories) + 2, -1)
    for label, category in enumerate(pictures.categories):
        table[category.id] = label
    return np.asarray(table[labels])


def _by_granularity(pictures: Pictures) -> dict[str, list[int]]:
    """Category ids of each granularity; empty where there is only one."""
    groups: dict[str, list[int]] = defaultdict(list)
    for category in pictures.categories:
        groups[category.granularity].append(category.id)
    return dict(groups) if len(groups) > 1 else {}


def _present(instances: Collection[_Instance]) -> tuple[set[int], set[int]]:
    """Categories that a picture shows as instances, and as crowds."""
    return (
        {one.category_id for one in instances if not one.crowd},
        {one.category_id for one in instances if one.crowd},
    )


def _records(category_id: int, best: PromptPrediction, masks: np.ndarray, record: _Record) -> list[dict[str, object]]:
    boxes: Tensor = best.boxes.clamp(0, 1) * best.boxes.new_tensor([record.width, record.height] * 2)
    boxes[:, 2:] -= boxes[:, :2]
    return [
        {"category_id": category_id, "score": score, "bbox": box, "segmentation": rle}
        for score, box, rle in zip(best.scores.tolist(), boxes.tolist(), encode_masks(masks), strict=True)
    ]
