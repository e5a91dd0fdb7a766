"""Losses by adaptation on what was not adapted to: the base's metric − the adapted model's, so that > 0 is lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

METRICS = ("segm/AP", "bbox/AP", "mIoU", "presence/IL_MCC", "presence/accuracy_absent")


def forgetting(base: Mapping[str, float], adapted: Mapping[str, float], groups: Iterable[str]) -> dict[str, float]:
    """Losses on groups of classes that were not adapted to.

    Args:
        base: metrics of a data set by the base model, named without model or data set: `part/segm/AP`.
        adapted: the same by the adapted model.
        groups: what the names begin with: granularities that were not annotated in training, `ov_novel`; "" for all
            classes, on a data set that was not trained on.

    Returns:
        `forgetting/<group>/<metric>` of those of `METRICS` that both have; no key where one is missing, or undefined
        (COCO's −1). Of `presence/accuracy_absent` it is the growth of the fraction of absent prompts with false alarms.
    """
    lost = {}
    for group in groups:
        for metric in METRICS:
            key = f"{group}/{metric}".lstrip("/")
            before, after = _value(base, key), _value(adapted, key)
            if before is not None and after is not None:
                lost[f"forgetting/{key}"] = before - after
    return lost


def _value(metrics: Mapping[str, float], key: str) -> float | None:
    found = metrics.get(key)
    return None if found == -1 and key.endswith("AP") else found
