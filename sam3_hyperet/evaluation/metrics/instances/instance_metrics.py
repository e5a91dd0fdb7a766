"""Flat figures from the records of images: COCO's AP and AR, SAM 3's cgF1, and the few of them that are resampled."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.metrics.instances.average_precision import Matches, Ranking, Records
from sam3_hyperet.evaluation.metrics.instances.cg_f1 import cg_f1, cg_f1_metrics, has_both_sides, pair_sums
from sam3_hyperet.evaluation.metrics.instances.instance_matches import AREA_RANGES, IOU_TYPES
from sam3_hyperet.evaluation.metrics.key import MetricKey

CGF1_KEYS = ("cgF1", "cgF1@0.5", "cgF1@0.75", "positive_micro_F1", "positive_micro_F1@0.5", "IL_MCC")

Categories = Mapping[int, str]
Groups = Mapping[str, Collection[int]]


def instance_metrics(records: Records, categories: Categories, groups: Groups) -> dict[str, float]:
    """`segm/AP` and COCO's other metrics, and those of `gated_metrics` below the same prefixes.

    records: of `ImageDetections`, in any order; equal scores count in that of the image ids, as in pycocotools.
    """
    records = [records[n] for n in by_image_id(records)]
    once = np.ones(len(records), dtype=np.int64)
    metrics: dict[str, float] = {"images": len(records)}
    metrics |= {name: sum(int(r[name]) for r in records) for name in ("annotations", "crowds", "detections")}
    ranking = Ranking.of(records)
    for iou_type in iou_types(records):
        arrays = {}
        for size in AREA_RANGES:
            matches = Matches(records, ranking, iou_type, size)
            arrays[f"AP{size}"] = matches.average_precision(once)
            arrays[f"AR{size or '@100'}"] = matches.recall(once)
            if not size:
                arrays |= {f"AR@{count}": matches.recall(once, count) for count in (1, 10)}
        arrays["AP@100/img"] = Matches(records, ranking, iou_type, in_best=True).average_precision(once)
        metrics |= coco_metrics(arrays, iou_type, categories, groups)
        for group, columns in group_columns(categories, groups).items():
            sums = _pair_sums(records, iou_type, columns).sum(axis=0)
            found = gated_metrics(sums)
            metrics |= {MetricKey(f"{iou_type}/{key}", group=group): value for key, value in found.items()}
    return metrics


def gated_metrics(sums: np.ndarray) -> dict[str, float]:
    """`CGF1_KEYS` of `pair_sums` added over images, -1 where undefined.

    The F1 of positives is undefined where no pair has ground truths; cgF1 and IL_MCC are also where all have. IL_MCC is
    then left out, for -1 is a value of it.
    """
    values, (both, missed) = cg_f1_metrics(sums), sums[-4:-2]
    if not both + missed:
        values |= {key: -1.0 for key in CGF1_KEYS if key.startswith("positive")}
    if not has_both_sides(sums):
        values |= {key: -1.0 for key in CGF1_KEYS if key.startswith("cgF1")}
        del values["IL_MCC"]
    return {key: values[key] for key in CGF1_KEYS if key in values}


def instance_headline(
    records: Records, categories: Categories, groups: Groups
) -> Callable[[np.ndarray], dict[str, float]]:
    """`segm/AP`, `segm/cgF1`, the same of boxes and of each group, as a function of how often each image counts.

    Exactly the AP of a data set with that many copies of each image, equal scores aside; NaN where nothing is to find,
    and for cgF1 also where nothing is absent.
    """
    order = by_image_id(records)
    records = [records[n] for n in order]
    ranking = Ranking.of(records)
    columns = group_columns(categories, groups)
    matches = {iou_type: Matches(records, ranking, iou_type) for iou_type in iou_types(records)}
    sums = {(g, name): _pair_sums(records, name, chosen) for name in matches for g, chosen in columns.items()}

    def figures(weights: np.ndarray) -> dict[str, float]:
        values, weights = {}, weights[order]
        for iou_type, of_type in matches.items():
            by_category = of_type.average_precision(weights)
            for group, chosen in columns.items():
                prefix = f"{group}/{iou_type}".lstrip("/")
                there = (by_category[:, chosen] > -1).any()
                values[f"{prefix}/AP"] = mean(by_category[:, chosen]) if there else float("nan")
                weighted = weights @ sums[group, iou_type]
                values[f"{prefix}/cgF1"] = cg_f1(weighted) if has_both_sides(weighted) else float("nan")
        return values

    return figures


def precision_recall(records: Records, iou_type: str) -> np.ndarray:
    """(T, 101, C) precision by IoU threshold, `RECALL_POINTS` and category; -1 where a category has nothing to find."""
    records = [records[n] for n in by_image_id(records)]
    return Matches(records, Ranking.of(records), iou_type).precision(np.ones(len(records), dtype=np.int64))


def by_image_id(records: Records) -> np.ndarray:
    """(P,) positions of the records, by their image ids."""
    return np.argsort([int(record["image_id"]) for record in records])


def iou_types(records: Records) -> list[str]:
    """Those that the records were made for."""
    return [iou_type for iou_type in IOU_TYPES if f"{iou_type}_sizes" in records[0]]


def group_columns(categories: Categories, groups: Groups) -> dict[str, list[int]]:
    """The columns of each group, those of all categories under ""."""
    columns = category_columns(categories)
    return {"": list(columns.values())} | {name: [columns[i] for i in ids] for name, ids in groups.items()}


def _pair_sums(records: Records, iou_type: str, columns: Sequence[int]) -> np.ndarray:
    """`cg_f1.pair_sums` of each image over some categories, as far as they are pairs in it: (P, 5 T + 4)."""

    def of_image(record: Mapping[str, np.ndarray]) -> np.ndarray:
        known = chosen[~record["unknown"][chosen]] if "unknown" in record else chosen
        return pair_sums(record["instances"][known], record["claimed"][known], record[f"{iou_type}_hits"][known])

    chosen = np.asarray(columns)
    # image by image: of 20,000 images and 1,200 categories the pairs take gigabytes
    return np.stack([of_image(record) for record in records])


def category_columns(categories: Iterable[int]) -> dict[int, int]:
    """Category id -> column of the arrays of metrics: its position among the sorted ids."""
    return {category_id: k for k, category_id in enumerate(sorted(categories))}


def check_groups(groups: Groups, categories: Collection[int], source: str) -> None:
    """Raise a ConfigError unless each group is of one known category id or more."""
    for name, ids in groups.items():
        if not ids or any(i not in list(categories) for i in ids):
            raise ConfigError(f"group {name!r}: {list(ids)} are not category ids of {source}")


def coco_metrics(
    arrays: Mapping[str, np.ndarray], iou_type: str, categories: Categories, groups: Groups
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
    by_category = {MetricKey(f"{iou_type}/AP", category=categories[i]): arrays["AP"][:, k] for i, k in columns.items()}
    return metrics | {key: mean(values) for key, values in by_category.items()}


def object_part_ap(metrics: Mapping[str, float], parts: Mapping[str, str]) -> dict[str, float]:
    """`<type>/AP_opart`, as PACO reports it: the mean over part names of their means over objects.

    metrics: with the AP by category. parts: of each category that is a part, the part's own name ("wheel").
    """
    found: dict[str, float] = {}
    for iou_type in IOU_TYPES:
        by_name = defaultdict[str, list[float]](list)
        for category, part in parts.items():
            if (value := metrics.get(f"{iou_type}/AP/{category}", -1.0)) > -1:
                by_name[part].append(value)
        if by_name:
            found[MetricKey(f"{iou_type}/AP_opart")] = float(np.mean([np.mean(values) for values in by_name.values()]))
    return found


def mean(values: np.ndarray) -> float:
    """The mean where there is something to find, else -1 (pycocotools' convention)."""
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else -1.0
