"""The report's plots: small inline SVGs that take their colours from the page, light or dark.

Titles and legends are the page's; an SVG here holds axes, ticks and lines only.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

SERIES = 8
"""How many line colours the page has, `--series-0` and on."""
WIDTH = 4.6
"""Inches of a plot; two stand side by side on a page. At 100 pixels an inch its text is as large as small print."""
TEXT = 9.0
"""Points of all text in a plot."""

_PAGE_COLORS = (
    *("page", "ink", "muted", "grid", "base", "adapted", "better", "worse"),
    *(f"series-{k}" for k in range(SERIES)),
)
_STAND_INS = {name: f"#0a0b{k:02x}" for k, name in enumerate(_PAGE_COLORS, start=16)}


@dataclass(frozen=True)
class Line:
    """One curve; `color` is one of the page's, `dashed` and `marked` set it off in print."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    color: str
    marked: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """An SVG with what the page writes around it."""

    title: str
    svg: str
    lines: tuple[Line, ...] = ()
    note: str = ""


def page_color(name: str) -> str:
    """What stands for a colour of the page until `to_svg` puts it in."""
    return _STAND_INS[name]


def model_colors(count: int) -> tuple[str, ...]:
    """The page's colours of the base and of `count` adapted models."""
    return ("base", "adapted", *(f"series-{1 + k % (SERIES - 1)}" for k in range(count - 1)))[: count + 1]


def new_axes(height: float = 2.7, grid: Literal["x", "y"] = "y") -> tuple[Figure, Axes]:
    """Axes of the page's look, `WIDTH` by `height` inches; `grid`: the axis whose ticks have lines."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_edgecolor(page_color("muted"))
    axes.tick_params(which="both", length=0, labelsize=TEXT, labelcolor=page_color("muted"))
    axes.grid(axis=grid, color=page_color("grid"), linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def percent_ticks(axes: Axes, which: str) -> None:
    """Label the ticks of axis "x" or "y" as percent."""
    getattr(axes, f"{which}axis").set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def axis_labels(axes: Axes, x: str = "", y: str = "") -> None:
    """Say what the axes are."""
    for label, text in ((axes.xaxis.label, x), (axes.yaxis.label, y)):
        label.set(text=text, color=page_color("muted"), fontsize=TEXT)


def unit_plot(title: str, lines: Sequence[Line], x: str, y: str, note: str, top: float = 1.0) -> Plot:
    """Curves of shares over shares: x from 0 to 1, y from 0 to `top`."""
    figure, axes = new_axes()
    for line in lines:
        style = (0, (4, 2)) if line.dashed else "-"
        axes.plot(line.x, line.y, color=page_color(line.color), linewidth=1.6, linestyle=style)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, top)
    percent_ticks(axes, "x")
    percent_ticks(axes, "y")
    axes.tick_params(axis="x", pad=7)  # or the two zeros at the origin touch
    axis_labels(axes, x, y)
    return Plot(title, to_svg(figure), tuple(lines), note)


def to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` for inclusion: text as text, page colours, ids its own."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing from"
        )  # the browser's fonts draw the text, not matplotlib's
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
