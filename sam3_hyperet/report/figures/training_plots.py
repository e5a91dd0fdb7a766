"""Curves of a training run: losses and their parts, what validation found, radius by site, learning rate."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from sam3_hyperet.choices import KEPT
from sam3_hyperet.report.figures.plots import PAGE, SERIES, Line, Plot, draw_lines, new_axes, thinned, to_svg

_Point = tuple[float, float]
_History = Sequence[Mapping[str, float]]
_MOST_POINTS = 400  # of a line: more cannot be told apart at this width
_SMOOTHING = 20  # a running mean is over this part of a line's points
_LOSS_NAMES = {f"loss_{x}": x.replace("_", " ") for x in ("mask", "dice", "semantic_dice", "semantic_presence")}
_LOSS_NAMES |= {"loss_bbox": "box", "loss_giou": "box IoU", "loss_ce": "classification"}
_LOSS_NAMES |= {"presence_loss": "presence", "loss_semantic_seg": "semantic"}


_METRICS = {"segm/AP": "mask AP", "fused/mIoU": "mIoU", "presence/accuracy_absent": "absent prompts recognised"}


def training_plots(history: _History, best_step: float | None = None) -> list[Plot]:
    """Losses and their parts, validation, radius by site, learning rate, from the lines of metrics.jsonl.

    best_step: the step whose weights were kept; by default that of the lowest tuning loss.
    """
    plots = []
    judged = "loss_matched" if any("tune/loss_matched" in line for line in history) else "loss"
    total = _smoothed(_line(history, f"train/{judged}", "training", "ink"))
    total += _line(history, f"tune/{judged}", "tuning", "adapted", marked=True)
    if total:
        best = _best(total, best_step)
        note = "" if best is None else f"Tuning loss {best[1]:.3g} at step {best[0]:,.0f}, whose weights are kept."
        title = "Loss of the matched queries" if judged == "loss_matched" else "Loss"
        plots.append(Plot(title, _curves(total, best=best), total, note))
        if best is not None:
            best_step = best[0]
    plots += _validation_plots(history, best_step)
    parts: dict[str, str] = {}
    radii: dict[str, dict[str, str]] = {}
    for key in dict.fromkeys(key for line in history for key in line):
        kind, _, name = key.partition("/")
        site, _, statistic = name.partition("/")
        if kind == "train" and "loss" in name and name not in ("loss", "loss_matched"):
            if "_aux" not in name and "_o2m" not in name:
                parts[key] = _LOSS_NAMES.get(name, name.replace("_", " "))
        elif kind == "radius" and "mean" in statistic:
            radii.setdefault(statistic.replace("_", " ").replace("/", " "), {})[key] = site
    for family in _families(history, parts):
        lines = tuple(_mean(line) for line in family)
        log = all(min(line.y) > 0 for line in lines)
        note = "Running means, each before its weight" + ("; logarithmic scale." if log else ".")
        plots.append(Plot("Parts of the loss", _curves(lines, log=log), lines, note))
    for statistic, names in radii.items():
        for lines in _families(history, names):
            plots.append(Plot(f"Radius while training, {statistic}", _curves(lines), lines))
    if rate := _line(history, "train/lr", "learning rate", "ink"):
        plots.append(Plot("Learning rate", _curves(rate, zero=True)))
    return plots


def _validation_plots(history: _History, best_step: float | None) -> Iterator[Plot]:
    """The main metrics of the tuning images, each with a line for all prompts and one for each group of them."""
    keys = list(dict.fromkeys(key for line in history for key in line if key.startswith("tune/")))
    for metric, name in _METRICS.items():
        groups = {
            key: key.removeprefix("tune/").removesuffix(metric).rstrip("/") for key in keys if key.endswith(metric)
        }
        in_order = sorted(groups.items(), key=lambda item: bool(item[1]))  # so that a group has one colour in all plots
        by_labels = {
            key: group or "all" for key, group in in_order if not group.startswith("forgetting") and group != KEPT
        }
        by_base = {key: KEPT for key, group in in_order if group == KEPT}
        families = [(lines, "") for lines in _families(history, by_labels)]
        families += [(lines, " by the base's own answers") for lines in _families(history, by_base)]
        for lines, truth in families:
            start = "Before the first step: the base."
            kept = "" if best_step is None else f" The weights of step {best_step:,.0f} are kept."
            lines = tuple(replace(line, marked=True) for line in lines)
            title = f"{name[0].upper()}{name[1:]}{truth} on the tuning images"
            yield Plot(title, _curves(lines, chosen=best_step), lines, start + kept)


def _families(history: _History, names: Mapping[str, str]) -> Iterator[tuple[Line, ...]]:
    """The lines of these keys, by their names, as many at a time as there are colours."""
    keys = list(names)
    for first in range(0, len(keys), SERIES):
        some = enumerate(keys[first : first + SERIES])
        if lines := tuple(line for k, key in some for line in _line(history, key, names[key], f"series-{k}")):
            yield lines


def _line(history: _History, key: str, name: str, color: str, marked: bool = False) -> tuple[Line, ...]:
    """The finite values of a key over the steps; no line where there are none."""
    points = [(line["step"], line[key]) for line in history if key in line and "step" in line]
    steps, values = np.array(points, float).reshape(-1, 2).T
    x, y = thinned(steps, values, _MOST_POINTS)
    return (Line(name, x, y, color, marked),) if x else ()


def _smoothed(lines: tuple[Line, ...]) -> tuple[Line, ...]:
    """Each curve, faint, and its running mean; a short one as it is."""
    faint = [replace(line, faint=True) for line in lines if _window(line) > 1]
    return (*faint, *(_mean(line, ", running mean") for line in lines))


def _mean(line: Line, remark: str = "") -> Line:
    """The mean of each point and those just before it, of the first ones of as many as there are."""
    if (window := _window(line)) < 2:
        return line
    sums = np.cumsum([0.0, *line.y])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - window, 0)
    return replace(line, name=line.name + remark, y=tuple(((sums[ends] - sums[starts]) / (ends - starts)).tolist()))


def _window(line: Line) -> int:
    return len(line.x) // _SMOOTHING


def _best(lines: Sequence[Line], step: float | None) -> _Point | None:
    """The tuning loss of this step, or its lowest."""
    points = [point for line in lines if line.marked for point in zip(line.x, line.y, strict=True)]
    return next((p for p in points if p[0] == step), None) or min(points, key=lambda p: p[1], default=None)


def _curves(
    lines: Sequence[Line],
    best: _Point | None = None,
    chosen: float | None = None,
    log: bool = False,
    zero: bool = False,
) -> Markup:
    """Lines over the steps; the step that was chosen, and the best value at it, are marked."""
    figure, axes = new_axes("step")
    draw_lines(axes, lines)
    color = PAGE["adapted"]
    if best is not None:
        chosen = best[0]
        axes.plot(*best, marker="o", markersize=8, markerfacecolor="none", clip_on=False, color=color)
    if chosen is not None:
        axes.axvline(chosen, color=color, linewidth=1, linestyle=(0, (3, 3)))
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(lambda *_: "")
    elif zero:
        axes.set_ylim(bottom=0)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return to_svg(figure)
