"""The name of a metric as a value with parts."""

from __future__ import annotations

from collections.abc import Mapping

_OF_ABSENT = ("cgF1", "IL_MCC", "accuracy_absent")


class MetricKey(str):
    """Name of a metric: text for metrics.json, its parts for tables, so that no text has to be taken apart."""

    metric: str  # as in `segm/AP`
    group: str  # granularity, split of the categories, or fusion
    category: str  # of a metric by category
    data: str
    model: str  # "base", or one of several adapted models

    def __new__(cls, metric: str, *, group: str = "", category: str = "", data: str = "", model: str = "") -> MetricKey:
        parts = {"model": model, "data": data, "group": group, "metric": metric, "category": category}
        key = super().__new__(cls, "/".join(part for part in parts.values() if part))
        vars(key).update(parts)
        return key

    @classmethod
    def of(cls, key: str, data: str = "", model: str = "") -> MetricKey:
        """The key of the same metric on a data set, by a model."""
        own = key if isinstance(key, MetricKey) else cls(key)
        return cls(own.metric, group=own.group, category=own.category, data=data, model=model)


def of_present(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that mean something where no absent concept was asked for: not cgF1, IL_MCC and its accuracy."""
    names = {key: (key.metric if isinstance(key, MetricKey) else key).rpartition("/")[2] for key in metrics}
    return {key: value for key, value in metrics.items() if not names[key].startswith(_OF_ABSENT)}
