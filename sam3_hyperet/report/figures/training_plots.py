"""Curves of a training run: losses and their parts, radius by site, learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sam3_hyperet.report.figures.plots import SERIES, Line, Plot, axis_labels, new_axes, page_color, to_svg

_MOST_POINTS = 400  # of a line: more cannot be told apart at this width
_LOSS_NAMES = {
    "loss": "total",
    "loss_mask": "mask",
    "loss_dice": "dice",
    "loss_bbox": "box",
    "loss_giou": "box IoU",
    "loss_ce": "classification",
    "presence_loss": "presence",
    "loss_semantic_seg": "semantic",
    "loss_semantic_dice": "semantic dice",
    "loss_semantic_presence": "semantic presence",
}


def training_plots(history: Sequence[Mapping[str, float]], best_step: float | None = None) -> list[Plot]:
    """What the lines of metrics.jsonl hold of: losses and their parts, radius by site, learning rate.

    best_step: the step whose weights were kept; by default that of the lowest tuning loss.
    """
    plots = []
    judged = "loss_matched" if any("tune/loss_matched" in line for line in history) else "loss"
    both = (
        _line(history, f"train/{judged}", "training", "muted"),
        _line(history, f"tune/{judged}", "tuning", "adapted", marked=True),
    )
    total = tuple(line for line in both if line)
    if total:
        best = _best(total, best_step)
        note = "" if best is None else f"Best tuning loss {best[1]:.3g} at step {best[0]:,.0f}: the weights kept."
        title = "Loss of the matched queries" if judged == "loss_matched" else "Loss"
        plots.append(Plot(title, _curves(total, best=best), total, note))
    whole = ("train/loss", "train/loss_matched")
    parts = [key for key in _keys(history, "train/") if "loss" in key and key not in whole]
    parts = [key for key in parts if "_aux" not in key and "_o2m" not in key]
    for first in range(0, len(parts), SERIES):
        lines = _family(history, parts[first : first + SERIES])
        log = all(min(line.y) > 0 for line in lines)
        if lines:
            note = "Each before its weight; logarithmic scale." if log else "Each before its weight."
            plots.append(Plot("Parts of the loss", _curves(lines, log=log), lines, note))
    for statistic, keys in _radius_means(history).items():
        for first in range(0, len(keys), SERIES):
            if lines := _family(history, keys[first : first + SERIES]):
                plots.append(Plot(f"Radius while training, {statistic}", _curves(lines), lines))
    if rate := _line(history, "train/lr", "learning rate", "ink"):
        plots.append(Plot("Learning rate", _curves([rate], zero=True)))
    return plots


def _keys(history: Sequence[Mapping[str, float]], prefix: str) -> list[str]:
    return list(dict.fromkeys(key for line in history for key in line if key.startswith(prefix)))


def _radius_means(history: Sequence[Mapping[str, float]]) -> dict[str, list[str]]:
    """The keys `radius/<site>/<statistic>` of every statistic that is a mean."""
    found: dict[str, list[str]] = {}
    for key in _keys(history, "radius/"):
        _, _, rest = key.partition("/")
        _, _, statistic = rest.partition("/")
        if "mean" in statistic:
            found.setdefault(statistic.replace("_", " ").replace("/", " "), []).append(key)
    return found


def _name(key: str) -> str:
    if key.startswith("radius/"):
        return key.split("/")[1]
    name = key.split("/", 1)[1]
    return _LOSS_NAMES.get(name, name.replace("_", " "))


def _family(history: Sequence[Mapping[str, float]], keys: Sequence[str]) -> tuple[Line, ...]:
    lines = (_line(history, key, _name(key), f"series-{k}") for k, key in enumerate(keys))
    return tuple(line for line in lines if line)


def _line(history: Sequence[Mapping[str, float]], key: str, name: str, color: str, marked: bool = False) -> Line | None:
    """The finite values of a key over the steps, thinned; None where there are none."""
    points = [(float(r["step"]), float(r[key])) for r in history if key in r and "step" in r]
    points = [point for point in points if all(map(math.isfinite, point))]
    if not points:
        return None
    keep = np.unique(np.linspace(0, len(points) - 1, min(len(points), _MOST_POINTS)).round().astype(int))
    x, y = zip(*(points[i] for i in keep), strict=True)
    return Line(name, x, y, color, marked)


def _best(lines: Sequence[Line], step: float | None) -> tuple[float, float] | None:
    tuning = next((line for line in lines if line.marked), None)
    if tuning is None:
        return None
    points = list(zip(tuning.x, tuning.y, strict=True))
    return next((p for p in points if p[0] == step), None) or min(points, key=lambda p: p[1])


def _curves(
    lines: Sequence[Line], best: tuple[float, float] | None = None, log: bool = False, zero: bool = False
) -> str:
    figure, axes = new_axes()
    for line in lines:
        single = len(line.x) == 1
        marker = "o" if line.marked or single else ""
        axes.plot(line.x, line.y, color=page_color(line.color), linewidth=1.6, marker=marker, markersize=3.2)
    if best is not None:
        axes.axvline(best[0], color=page_color("adapted"), linewidth=1, linestyle=(0, (3, 3)))
        axes.plot(
            *best,
            marker="o",
            markersize=8,
            markerfacecolor="none",
            clip_on=False,
            color=page_color("adapted"),
        )
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    elif zero:
        axes.set_ylim(bottom=0)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis_labels(axes, "step")
    return to_svg(figure)
