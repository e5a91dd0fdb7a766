"""Metrics written down as in metrics.json, with keys that have parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.report.tables import METRICS

BY_CATEGORY = ("segm/AP", "bbox/AP", "IoU")


def keyed(metrics: Mapping[str, float], models: Sequence[str] = ()) -> dict[str, float]:
    """The same metrics: `[<model>/]<data>/[<group>/]<metric>[/<category>]` taken apart, all others as they are."""
    return {_key(key, models): value for key, value in metrics.items()}


def _key(text: str, models: Sequence[str]) -> str:
    model = next((name for name in ("base", *models) if text.startswith(f"{name}/")), "")
    rest = text.removeprefix(f"{model}/") if model else text
    for metric in (*(one.key for one in METRICS), "images"):
        before, found, _ = f"/{rest}".partition(f"/{metric}/") if metric in BY_CATEGORY else ("", "", "")
        category = f"/{rest}".removeprefix(before + found) if found else ""
        if found or rest == metric or rest.endswith(f"/{metric}"):
            scope = (before if found else f"/{rest}".removesuffix(f"/{metric}")).strip("/")
            data, _, group = scope.partition("/")
            if data == "difference" or group.startswith("forgetting"):
                return text
            return MetricKey(metric, group=group, category=category, data=data, model=model)
    return MetricKey(rest, model=model) if model else text
