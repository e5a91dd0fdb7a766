"""A cascade: which prompts the first look spares, by a threshold calibrated on images that are not scored.

A prompt matters on an image if the full model's best detection scores `protocol.min_score` or more: it can move a
metric. Of n prompts that matter on the tuning images, the threshold is the k-th smallest first look, where k =
⌊(n + 1)(1 − recall)⌋; so one more of the same kind is spared with a probability of at most k/(n + 1) ≤ 1 − recall
(split conformal prediction). With fewer than recall/(1 − recall) prompts that matter, k is 0 and nothing is spared.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import numpy as np

from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.data.disjoint import check_unscored
from sam3_hyperet.data.hierarchy import hierarchy_of
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import Split, open_split
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Prompt, Record
from sam3_hyperet.evaluation.metrics.hierarchy import concepts
from sam3_hyperet.evaluation.protocol import Protocol, evenly_spread
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.inference.first_look import POOLING, SparedPrediction
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.inference.tiled_prediction import Detections, EncodedImage
from sam3_hyperet.modeling.sites.trunk_qv import weights_kept
from sam3_hyperet.precision import float32_products
from sam3_hyperet.wording import count_of

CASCADE = "cascade"  # the evaluator of what is spared
_COST = 1 / POOLING**2  # about what a first look costs of the full model's scores


@dataclass(frozen=True)
class Calibration:
    """The threshold of a model's first looks, and the prompts that matter from which it comes.

    spare_below: prompts that score less are spared; 0 for none and no first look. spared: the fraction of all prompts
    of the `images` tuning images that score less than the threshold.
    """

    spare_below: float
    positives: int
    images: int
    spared: float

    def line(self, model: str, protocol: Protocol) -> str:
        """The calibration in one line, for people; `model` is the name."""
        matter = f"{count_of(self.positives, 'prompt')} with a detection from {protocol.min_score:g}"
        found = f"{model}: protocol.recall={protocol.recall:g} by {matter} on {count_of(self.images, 'tuning image')}"
        if self.spare_below:
            return f"{found}: first looks below {self.spare_below:.3g} spare {self.spared:.1%} of all prompts there"
        if self.spared:
            return f"{found} would spare {self.spared:.1%} of all prompts, which first looks cost: nothing is spared"
        least = math.ceil(protocol.recall / (1 - protocol.recall) - 1e-9)
        remedy = "more tuning images (data.tune_images, protocol.calibration_images) or a lower recall"
        return f"{found}, which needs {least}: nothing is spared; expected {remedy}"


def calibration(looks: np.ndarray, scores: np.ndarray, images: int, protocol: Protocol) -> Calibration:
    """The calibration by (n,) first looks and best scores of the full model, of prompts on tuning images."""
    positives = np.sort(looks[scores >= protocol.min_score])
    k = math.floor((len(positives) + 1) * (1 - protocol.recall) + 1e-9)  # 200 · (1 − .995) is below 1 in floats
    k = min(k, len(positives))
    spare_below = float(positives[k - 1]) if k else 0.0
    spared = float((looks < spare_below).mean()) if len(looks) else 0.0
    return Calibration(spare_below if spared > _COST else 0.0, len(positives), images, spared)


def calibration_images(data: DataOptions, scored: Split, protocol: Protocol) -> AnnotatedImages | None:
    """The images that a protocol's cascade is calibrated on, none of which is scored; None for a protocol without.

    Raises as `open_split`, and ConfigError for a split that is scored, or shares an image with it.
    """
    if protocol.recall == 1:
        return None
    if scored.name == "tune":
        raise ConfigError("protocol=cascade is calibrated on the tune split; expected split=val, or protocol=exact")
    if not {"train", "tune"} & set(data.splits):
        raise ConfigError(
            f"protocol=cascade is calibrated on tuning images, and data set {data.name} has neither a tune nor a train "
            f"split, but {', '.join(data.splits)}; expected data.splits.tune or data.splits.train, or protocol=exact"
        )
    images = open_split(data, "tune").images
    check_unscored("protocol=cascade", images, scored.images, scored.name)
    return images


class Calibrator:
    """First looks and full predictions of several models on tuning images, recorded so that a kill loses nothing.

    As scored images, they are not asked for a category of which nothing is known there, unless its name is in the
    concept tree: its values in the record are NaN.
    """

    def __init__(self, predictors: Mapping[str, Predictor], images: AnnotatedImages, protocol: Protocol) -> None:
        # copies: the texts are to be encoded where a probe of the run can see it
        self._predictors = {name: copy.copy(predictor) for name, predictor in predictors.items()}
        for predictor in self._predictors.values():
            predictor.min_score = 0.0
        self._images, self._protocol = images, protocol
        self.positions = evenly_spread(range(len(images)), protocol.calibration_images)
        vocabulary = next(iter(predictors.values())).vocabulary
        tree = hierarchy_of(images.categories) if protocol.granularity else None
        always = set(concepts(tree)) if tree else set()
        named = {one.name: one.id for one in images.categories if one.id != images.background}
        self._category_ids = [None if text in always else named.get(text) for text in vocabulary]

    def record(
        self,
        store: RecordStore,
        positions: Sequence[int],
        progress: Callable[[int], AbstractContextManager[Callable[[], None]]],
    ) -> None:
        """Record the images at these positions, as far as they have no record."""
        own, _ = store.missing(positions)
        models = [one.model for one in self._predictors.values()]
        with ExitStack() as stack:
            stack.enter_context(weights_kept(models))
            stack.enter_context(shared_encoding(models))
            stack.enter_context(float32_products(self._protocol.precision))
            on_image = stack.enter_context(progress(len(own)))
            for position in own:
                image, asked = self._images.load_image(position), self._asked(position)
                record = dict[str, np.ndarray]()
                for name, predictor in self._predictors.items():
                    looks, scores = (np.full(len(self._category_ids), np.nan, kind) for kind in (np.float32, float))
                    if asked:
                        encoded = predictor.encode(image)
                        looks[asked] = predictor.first_look(encoded, asked)[0].cpu().numpy()
                        scores[asked] = [float(one.scores.max()) for one in predictor.predict(encoded, asked)]
                    record |= {f"{name}/looks": looks, f"{name}/scores": scores}
                store.write(position, record)
                on_image()

    def _asked(self, position: int) -> list[int]:
        """Positions of the prompts that `EvalTask.asked` of the image would be, as far as its annotations say."""
        unknown = self._images.unlabelled(position) if self._images.has_instances else frozenset()
        return [k for k, category_id in enumerate(self._category_ids) if category_id not in unknown]

    def calibrations(self, store: RecordStore) -> dict[str, Calibration]:
        """The calibration of each model, from the records of all processes."""
        records, asked = store.read_all(self.positions), [self._asked(position) for position in self.positions]
        found = {}
        for name in self._predictors:
            looks, scores = (  # records of earlier versions have values of all prompts
                np.concatenate([one[f"{name}/{key}"][of_image] for one, of_image in zip(records, asked, strict=True)])
                for key in ("looks", "scores")
            )
            found[name] = calibration(looks, scores, len(records), self._protocol)
        return found


class CascadeEvaluator(Evaluator):
    """What was spared on each image, and the best score of every other prompt."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._place = {text: k for k, text in enumerate(vocabulary)}

    def start(self, position: int, encoded: EncodedImage) -> None:
        self._scores, self._spared = np.full(len(self._place), np.nan), np.zeros(len(self._place), dtype=bool)
        self._asked = 0

    def add(self, prompt: Prompt, detections: Detections) -> None:
        k = self._place[prompt.text]
        self._asked += 1
        self._spared[k] = isinstance(detections.prediction, SparedPrediction)
        if len(detections.scores):
            self._scores[k] = detections.scores[0]

    def finish(self) -> dict[str, np.ndarray]:
        """`scores` (V,), NaN of prompts without a detection; `spared` (V,); `asked`, how many prompts."""
        return {"scores": self._scores, "spared": self._spared, "asked": np.array(self._asked)}

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        """`speed/spared_ratio`: the fraction of the prompts that were spared."""
        spared, asked = (sum(int(one[key].sum()) for one in records) for key in ("spared", "asked"))
        return {"speed/spared_ratio": spared / asked}


def measured_recall(records: Sequence[Record], exact: Sequence[Record], positive_score: float) -> float:
    """The fraction of the prompts that matter, by the exact records of the same images, that were not spared."""
    matters = np.stack([one["scores"] for one in exact]) >= positive_score
    kept = matters & ~np.stack([one["spared"] for one in records])
    return float(kept.sum() / matters.sum()) if matters.any() else math.nan
