"""From AP and AR of each category to COCO's flat figures, of all categories and of groups of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.metrics.key import MetricKey


def category_columns(categories: Iterable[int]) -> dict[int, int]:
    """Category id -> column of the arrays of metrics: its position among the sorted ids."""
    return {category_id: k for k, category_id in enumerate(sorted(categories))}


def check_groups(groups: Mapping[str, Collection[int]], categories: Collection[int], source: str) -> None:
    """Raise a ConfigError unless each group is of one known category id or more."""
    for name, ids in groups.items():
        if not ids or any(i not in list(categories) for i in ids):
            raise ConfigError(f"group {name!r}: {list(ids)} are not category ids of {source}")


def coco_metrics(
    arrays: Mapping[str, np.ndarray],
    iou_type: str,
    categories: Mapping[int, str],
    groups: Mapping[str, Collection[int]],
) -> dict[str, float]:
    """`<type>/AP`, AP50, AP75, `<type>/AP/<category>`, and so on; `<group>/<type>/…` for each group.

    arrays: (T, C) by metric, -1 where a category has nothing to find; the categories in the order of their ids.
    """
    columns = category_columns(categories)
    arrays = {**arrays, "AP50": arrays["AP"][:1], "AP75": arrays["AP"][5:6]}
    metrics: dict[str, float] = {}
    for group, ids in {"": list(columns), **groups}.items():
        chosen = [columns[category_id] for category_id in ids]
        metrics |= {MetricKey(f"{iou_type}/{key}", group=group): mean(v[:, chosen]) for key, v in arrays.items()}
    return metrics | {
        MetricKey(f"{iou_type}/AP", category=categories[i]): mean(arrays["AP"][:, k]) for i, k in columns.items()
    }


def mean(values: np.ndarray) -> float:
    """The mean where there is something to find, else -1 (pycocotools' convention)."""
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else -1.0
