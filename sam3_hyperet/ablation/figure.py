"""Figures of an analysis, for a page or for print: arms with their bases, and differences with the margin."""

import io
import math
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sam3_hyperet.ablation.analysis import Arm, Difference
from sam3_hyperet.ablation.plan import GAIN, LOST
from sam3_hyperet.ablation.table import short
from sam3_hyperet.report.figures.plots import TEXT
from sam3_hyperet.report.tables import signed

WIDTH = 7.0  # inches: 700 pixels at 100 an inch
_ROW = 0.3  # inches of an arm or a comparison
_BELOW = 0.28  # of a row: the marks of bases stand below the mean
_INK, _MUTED, _GRID, _BAND = "#16191d", "#59616b", "#dfe3e8", "#e8f1f8"  # the report's on white
_DECIDED, _SAME, _OPEN = "#0072b2", "#16191d", "#8a929c"
_BASES = (("o", "#d55e00"), ("s", "#009e73"), ("^", "#b5568c"), ("D", "#b97f00"), ("v", "#6a51a3"), ("P", "#3f9bd1"))
_FONTS = ["DejaVu Sans", "Arial", "Helvetica", "sans-serif"]


def arms_figure(arms: Sequence[Arm], gain: str, lost: str | None, most_lost: float) -> Figure:
    """Gain of each arm: mean, 95 % interval and the mean of each base; at the side what is lost, if anything can be.

    gain, lost: names of the metrics; most_lost: what the dial may cost on the tuning images, drawn as a line.
    """
    names = [name for name in (gain, lost) if name]
    figure = _figure(len(arms))
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False, width_ratios=(2.2, 1)[: len(names)])[0]
    bases = list(dict.fromkeys(base for arm in arms for base in arm.gains))
    for axes, column in zip(panels, (GAIN, LOST), strict=False):
        _dress(axes, [arm.name for arm in arms], ticks=6 if column == GAIN else 3)
        for place, arm in enumerate(arms):
            mean, low, high = arm.means[column]
            if column == GAIN:
                for k, base in enumerate(bases):
                    if gains := arm.gains.get(base):
                        marker, color = _BASES[k % len(_BASES)]
                        axes.plot(sum(gains) / len(gains), place + _BELOW, marker, color=color, markersize=3.6)
            _estimate(axes, place, mean, (low, high), _DECIDED)
    panels[0].set_xlabel(f"gain in {gain}", color=_MUTED, fontsize=TEXT)
    if lost:
        panels[1].set_xlabel(f"lost of {lost}\n(dashed: limit)", color=_MUTED, fontsize=TEXT)
        panels[1].axvline(most_lost, color=_MUTED, linewidth=1, linestyle=(0, (4, 2)))
    _legend(figure, panels[0], bases)
    return figure


def differences_figure(named: Sequence[tuple[str, Difference]], margin: float) -> Figure:
    """Forest plot: each difference under its name, with its 90 and 95 % intervals on the band ±margin."""
    differences = [one for _, one in named]
    figure = _figure(len(differences))
    axes = figure.subplots()
    _dress(axes, [name for name, _ in named], ticks=4)  # long names and verdicts leave little room
    axes.axvspan(-margin, margin, color=_BAND, linewidth=0, zorder=0)
    bases = list(dict.fromkeys(base for one in differences for base in one.bases.means))
    for place, one in enumerate(differences):
        color = _DECIDED if one.over_pairs.different else _SAME if one.over_pairs.equivalent else _OPEN
        for k, base in enumerate(bases):
            if base in one.bases.means:
                marker, shade = _BASES[k % len(_BASES)]
                axes.plot(one.bases.means[base], place + _BELOW, marker, color=shade, markersize=3.6)
        if one.pairs.n:
            _estimate(axes, place, one.pairs.mean, one.pairs.interval, color, one.pairs.equivalence.interval)
        verdict = one.over_pairs
        word = "different" if verdict.different else "equivalent" if verdict.equivalent else "undecided"
        if verdict.different and verdict.equivalent:
            word += f", but within ±{short(margin)}"
        text = f"n = {one.pairs.n}, {word}" if one.pairs.n > 1 else f"n = {one.pairs.n}"
        axes.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center", color=color, fontsize=TEXT)
    reach = max(margin, *(abs(x) for x in axes.get_xlim()))
    axes.set_xlim(-reach, reach)
    axes.set_xlabel(f"difference of gain; shaded: ±{short(margin)}", color=_MUTED, fontsize=TEXT)
    _legend(figure, axes, bases)
    return figure


def svg_of(figure: Figure) -> str:
    """The figure as an SVG file: text as text, the same for the same figure."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ablation", "font.sans-serif": _FONTS}):
        figure.savefig(buffer, format="svg", metadata={"Creator": None, "Date": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _figure(rows: int) -> Figure:
    return Figure(figsize=(WIDTH, 0.85 + _ROW * max(rows, 2)), layout="constrained", facecolor="white")


def _dress(axes: Axes, names: Sequence[str], ticks: int = 6) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_edgecolor(_MUTED)
    axes.tick_params(which="both", length=0, labelsize=TEXT, labelcolor=_INK)
    axes.tick_params(axis="x", labelcolor=_MUTED)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.axvline(0, color=_MUTED, linewidth=1)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=ticks, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: _tick(value))


def _estimate(
    axes: Axes,
    place: int,
    mean: float,
    interval: tuple[float, float],
    color: str,
    inner: tuple[float, float] | None = None,
) -> None:
    """A mean with its interval, and a narrower one as a thicker line."""
    for (low, high), width in ((interval, 1.4), (inner or (math.nan, math.nan), 3.2)):
        if not math.isnan(low):
            axes.hlines(place, low, high, color=color, linewidth=width)
    axes.plot(mean, place, "o", color=color, markersize=5.5, markeredgecolor="white", markeredgewidth=0.8)


def _tick(value: float) -> str:
    if abs(value) < 1e-9:
        return "0"
    return signed(value, 2 if math.isclose(100 * value, round(100 * value), abs_tol=1e-6) else 3)


def _legend(figure: Figure, axes: Axes, bases: Sequence[str]) -> None:
    """The marks of the bases in one line above the axes."""
    marks = axes.plot([], [], " ", label="mean of each base:")
    for k, base in enumerate(bases):
        marker, color = _BASES[k % len(_BASES)]
        marks += axes.plot([], [], marker, color=color, markersize=4, label=base)
    style = {"handletextpad": 0.2, "columnspacing": 1.2, "handlelength": 1.2, "labelcolor": _MUTED, "fontsize": TEXT}
    figure.legend(handles=marks, loc="outside upper left", ncols=7, frameon=False, **style)
