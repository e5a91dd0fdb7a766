"""Mean intersection over union of label maps, from one confusion matrix over the data set.

Pixels whose label is `ignore` are not counted. Pixels that no class was given to are a prediction row of
their own: they count as missed (dropping them would inflate the mean), and their fraction is reported.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.metrics.key import MetricKey

UNASSIGNED = -1


class SemanticMIoU:
    """Collects label maps image by image and gives IoUs as a flat dictionary.

    names: of the C classes, class c being the value c of a map.
    ignore: the label value that is not counted; in a prediction it means unassigned, as does `UNASSIGNED` (-1), which
    unsigned maps cannot hold.
    confusion: int64 (C + 1, C), prediction x label, the last row the unassigned; add up over processes.

    Keys of `evaluate`: `mIoU` over the classes with union > 0, `mIoU/<C>` over all, absent = 0 (CSAIL's evaluator),
    `mIoU/gt` over those in the labels, `pixel_accuracy`, `unassigned` (fraction of the labelled pixels), `IoU/<name>`
    of the classes with union > 0, and the counts `images`, `labelled_pixels`, `classes/union`, `classes/gt`.
    """

    def __init__(self, names: Sequence[str], ignore: int = 255) -> None:
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"class names must be one or more and all different, found {len(names)}")
        if 0 <= ignore < len(names):
            raise ConfigError(f"ignore={ignore} is the value of class {names[ignore]!r}")
        self.names, self.ignore, self.images = tuple(names), ignore, 0
        self.confusion = np.zeros((len(self.names) + 1, len(self.names)), dtype=np.int64)

    def process(self, label: Any, prediction: Any, source: str = "image") -> None:
        """Add one image: integer maps (H, W), arrays or tensors. `source` names it in errors (DataError)."""
        label, prediction = _label_map(label, f"{source}: label"), _label_map(prediction, f"{source}: prediction")
        if label.shape != prediction.shape:
            raise DataError(f"{source}: prediction is {prediction.shape}, its label {label.shape} (height, width)")
        classes = len(self.names)
        prediction = np.where((prediction == self.ignore) | (prediction == UNASSIGNED), classes, prediction)
        labelled = label != self.ignore
        label, prediction = label[labelled], prediction[labelled]
        for values, highest, name in ((label, classes - 1, "label"), (prediction, classes, "prediction")):
            if len(wrong := values[(values < 0) | (values > highest)]):
                expected = f"expected 0 to {classes - 1} or {self.ignore}"
                raise DataError(f"{source}: {name} has the value {wrong[0]}, {expected}")
        pairs = np.bincount(prediction * classes + label, minlength=self.confusion.size)
        self.confusion += pairs.reshape(self.confusion.shape)
        self.images += 1

    def evaluate(self) -> dict[str, float]:
        """The metrics; raises DataError where no pixel is labelled."""
        return iou_metrics(self.confusion, self.names, self.images)


def iou_metrics(confusion: np.ndarray, names: Sequence[str], images: int) -> dict[str, float]:
    """`SemanticMIoU.evaluate` of a confusion matrix, int (C + 1, C)."""
    labelled = int(confusion.sum())
    if not labelled:
        raise DataError(f"no labelled pixel in {images} images: nothing to score")
    in_label, hit = confusion.sum(axis=0), np.diagonal(confusion)
    union = in_label + confusion[:-1].sum(axis=1) - hit
    iou = hit / np.maximum(union, 1)
    metrics = {"mIoU": iou[union > 0].mean(), f"mIoU/{len(names)}": iou.mean(), "mIoU/gt": iou[in_label > 0].mean()}
    metrics |= {"pixel_accuracy": hit.sum() / labelled, "unassigned": confusion[-1].sum() / labelled}
    metrics = {key: float(value) for key, value in metrics.items()} | {"images": images, "labelled_pixels": labelled}
    metrics |= {"classes/union": int((union > 0).sum()), "classes/gt": int((in_label > 0).sum())}
    return metrics | {MetricKey("IoU", category=names[c]): float(iou[c]) for c in np.flatnonzero(union > 0)}


def _label_map(values: Any, source: str) -> np.ndarray:
    array = np.asarray(values.cpu() if hasattr(values, "cpu") else values)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise DataError(f"{source} is {array.dtype} of shape {array.shape}, expected integers (height, width)")
    return array.astype(np.int64)
