"""The report's plots: small inline SVGs that take their colours from the page, light or dark.

Titles and legends are the page's; an SVG here holds axes, ticks and lines only.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

SERIES = 8
"""How many line colours the page has, `--series-0` and on."""

_PAGE_COLORS = ("ink", "muted", "grid", "base", "adapted", *(f"series-{k}" for k in range(SERIES)))
_STAND_INS = {name: f"#0a0b{k:02x}" for k, name in enumerate(_PAGE_COLORS, start=16)}
_SIZE = (4.6, 2.7)  # inches; at 100 pixels an inch the text is as large as the page's small print
_TEXT = 9.0
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


@dataclass(frozen=True)
class Line:
    """One curve; `color` is one of the page's, `dashed` and `marked` set it off in print."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    color: str
    marked: bool = False


@dataclass(frozen=True)
class Plot:
    """An SVG with what the page writes around it."""

    title: str
    svg: str
    lines: tuple[Line, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class RadiusShift:
    """What training did to the radii of one site's features.

    edges: of the bins of the normalised radius tanh(√c‖v‖), one more than the counts `before` and `after`.
    …_mean: of the normalised radius; …_radius: of the hyperbolic radius 2‖v‖, its mean too.
    saturation: share of positions at the cap, after training.
    """

    site: str
    edges: tuple[float, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    before_mean: float
    after_mean: float
    before_radius: float
    after_radius: float
    saturation: float


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


def radius_plots(shifts: Sequence[RadiusShift]) -> list[str]:
    """A histogram of the normalised radius for each site, before filled and after outlined; one scale for all.

    Raises ValueError where edges and counts do not fit.
    """
    occupied: list[float] = []
    for shift in shifts:
        edges, before, after = shift.edges, shift.before, shift.after
        if not len(edges) - 1 == len(before) == len(after) > 0:
            counts = f"{len(before)} and {len(after)} counts"
            raise ValueError(f"{shift.site}: {len(edges)} edges for {counts}, expected one more")
        for k in range(len(before)):
            if before[k] or after[k]:
                occupied += edges[k : k + 2]
    margin = 0.03 * (max(occupied) - min(occupied)) if occupied else 0.0
    limits = (max(0.0, min(occupied) - margin), min(1.0, max(occupied) + margin)) if occupied else (0.0, 1.0)
    return [_histogram(shift, limits) for shift in shifts]


def _histogram(shift: RadiusShift, limits: tuple[float, float]) -> str:
    """Both histograms as shares of their positions, the means as dashed lines where finite."""
    figure, axes = _axes()
    shares = [np.asarray(counts, float) / max(float(np.sum(counts)), 1.0) for counts in (shift.before, shift.after)]
    axes.stairs(shares[0], shift.edges, fill=True, color=_STAND_INS["base"], alpha=0.45)
    axes.stairs(shares[1], shift.edges, color=_STAND_INS["adapted"], linewidth=1.8)
    top = max(float(share.max()) for share in shares) * 1.12 or 1.0
    for mean, color in ((shift.before_mean, "base"), (shift.after_mean, "adapted")):
        if math.isfinite(mean):
            axes.vlines(mean, 0, top, color=_STAND_INS[color], linewidth=1.4, linestyle=(0, (4, 2)))
    axes.set_xlim(*limits)
    axes.set_ylim(0, top)
    axes.set_xlabel("fine ← normalised radius → coarse", color=_STAND_INS["muted"], fontsize=_TEXT)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    return _svg(figure)


def _keys(history: Sequence[Mapping[str, float]], prefix: str) -> list[str]:
    return list(dict.fromkeys(key for record in history for key in record if key.startswith(prefix)))


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
    figure, axes = _axes()
    for line in lines:
        single = len(line.x) == 1
        marker = "o" if line.marked or single else ""
        axes.plot(line.x, line.y, color=_STAND_INS[line.color], linewidth=1.6, marker=marker, markersize=3.2)
    if best is not None:
        axes.axvline(best[0], color=_STAND_INS["adapted"], linewidth=1, linestyle=(0, (3, 3)))
        axes.plot(
            *best,
            marker="o",
            markersize=8,
            markerfacecolor="none",
            clip_on=False,
            color=_STAND_INS["adapted"],
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
    axes.set_xlabel("step", color=_STAND_INS["muted"], fontsize=_TEXT)
    return _svg(figure)


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_edgecolor(_STAND_INS["muted"])
    axes.tick_params(which="both", length=0, labelsize=_TEXT, labelcolor=_STAND_INS["muted"])
    axes.grid(axis="y", color=_STAND_INS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> str:
    """The figure as an `<svg>` for inclusion: text as text, page colours, ids its own."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    svg = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'<svg width="[^"]*" height="[^"]*"', '<svg aria-hidden="true"', svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;]*;", r"font-size: \1px;", svg)
    digest = hashlib.sha256(svg.encode()).hexdigest()[:8]
    for number, name in enumerate(dict.fromkeys(re.findall(r'id="([^"]*)"', svg))):
        svg = svg.replace(f'"{name}"', f'"plot-{digest}-{number}"').replace(f"#{name}", f"#plot-{digest}-{number}")
    for name, stand_in in _STAND_INS.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return svg
