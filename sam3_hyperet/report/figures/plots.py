"""Plots as small inline SVGs in the page's colours, light or dark: axes, ticks and lines without title or legend."""

import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import ArrayLike

from sam3_hyperet.arrays.positions import spread

SERIES = 8  # line colours of the page, `--series-0` and on
WIDTH = 4.6  # inches of a plot, two side by side: at 100 pixels an inch its text is as large as small print
TEXT = 9.0  # points of all text in a plot
_CHARACTER, _LINE = 0.076, 0.19  # inches of a character and of a line of that size

_COLORS = ["page", "ink", "muted", "grid", "base", "adapted", "better", "worse"]
_COLORS += [f"series-{k}" for k in range(SERIES)]
PAGE = {name: f"#0a0b{k:02x}" for k, name in enumerate(_COLORS, start=16)}  # the stand-ins that `to_svg` replaces
_NAMES = {stand_in: name for name, stand_in in PAGE.items()}
_STAND_INS = re.compile("|".join(_NAMES))


@dataclass(frozen=True)
class Line:
    """One curve; `color` is one of the page's, `dashed` and `marked` set it off in print, `faint` behind the others.

    hollow: rings, in the legend.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    color: str
    marked: bool = False
    dashed: bool = False
    faint: bool = False
    hollow: bool = False


@dataclass(frozen=True)
class Plot:
    """An SVG with what the page writes around it."""

    title: str
    svg: Markup
    lines: tuple[Line, ...] = ()
    note: str = ""


def model_colors(count: int) -> tuple[str, ...]:
    """The page's colours of the base and of `count` adapted models."""
    return ("base", "adapted", *(f"series-{1 + k % (SERIES - 1)}" for k in range(count - 1)))[: count + 1]


def new_axes(x: str = "", y: str = "", *, height: float = 2.7, grid: Literal["x", "y"] = "y") -> tuple[Figure, Axes]:
    """Axes of these names in the page's look, `WIDTH` by `height` inches; `grid`: the axis whose ticks have lines."""
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_edgecolor(PAGE["muted"])
    axes.tick_params(which="both", length=0, labelsize=TEXT, labelcolor=PAGE["muted"])
    axes.grid(axis=grid, color=PAGE["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    for label, text in ((axes.xaxis.label, x), (axes.yaxis.label, y)):
        label.set(text=text, color=PAGE["muted"], fontsize=TEXT, parse_math=False)
    return figure, axes


def percent(value: float, _: float) -> str:
    """The label of a tick of an axis of fractions."""
    return f"{100 * value:g} %"


def thinned(x: ArrayLike, y: ArrayLike, most: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The finite points of a curve; of more than `most` as many, evenly picked."""
    points = np.stack([np.asarray(x, float), np.asarray(y, float)])
    points = points[:, np.isfinite(points).all(axis=0)]
    kept_x, kept_y = points[:, spread(points.shape[1], most)].tolist()
    return tuple(kept_x), tuple(kept_y)


def draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw curves; a lone point would be invisible without its marker."""
    for line in lines:
        style, marker = (0, (4, 2)) if line.dashed else "-", "o" if line.marked or len(line.x) == 1 else ""
        axes.plot(
            line.x,
            line.y,
            color=PAGE[line.color],
            alpha=0.4 if line.faint else None,
            linewidth=0.8 if line.faint else 1.6,
            linestyle=style,
            marker=marker,
            markersize=3.2,
        )


def unit_plot(title: str, lines: Sequence[Line], x: str, y: str, note: str, top: float = 1.0) -> Plot:
    """Curves of shares over shares: x from 0 to 1, y from 0 to `top`."""
    figure, axes = new_axes(x, y)
    draw_lines(axes, lines)
    axes.set(xlim=(0, 1), ylim=(0, top))
    axes.xaxis.set_major_formatter(percent)
    axes.yaxis.set_major_formatter(percent)
    axes.tick_params(axis="x", pad=7)  # or the two zeros at the origin touch
    return Plot(title, to_svg(figure), tuple(lines), note)


def _fit(figure: Figure) -> None:
    """Margins for the axes' names and the labels of their ticks, by the number of characters.

    The browser draws the text in a font of its own, so that measuring it, as layout engines do by drawing the figure
    twice, buys nothing.
    """
    (axes,) = figure.axes
    width, height = figure.get_size_inches()

    def longest(labels: Sequence[Text]) -> int:
        return max((len(label.get_text()) for label in labels), default=0)

    x_labels, y_labels = axes.get_xticklabels(), axes.get_yticklabels()
    turned = any(label.get_rotation() == 90 for label in x_labels)
    left = 0.12 + _CHARACTER * longest(y_labels) + (_LINE if axes.get_ylabel() else 0)
    below = _CHARACTER * longest(x_labels) if turned else _LINE
    bottom = 0.1 + below + (_LINE if axes.get_xlabel() else 0)
    right = 0.1 if turned else max(0.1, _CHARACTER * longest(x_labels[-1:]) / 2)
    margins = {"left": min(left / width, 0.6), "right": 1 - right / width}
    figure.subplots_adjust(**margins, bottom=min(bottom / height, 0.6), top=1 - 0.08 / height)


def to_svg(figure: Figure) -> Markup:
    """The figure as an `<svg>` for inclusion: text as text, page colours, ids its own."""
    _fit(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser's fonts draw the text
        figure.savefig(buffer, format="svg", metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    svg = "<svg" + buffer.getvalue().partition("<svg")[2]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    svg = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'<svg width="[^"]*" height="[^"]*"', '<svg aria-hidden="true"', svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;]*;", r"font-size: \1px;", svg)
    digest = hashlib.sha256(svg.encode()).hexdigest()[:8]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(re.findall(r'id="([^"]*)"', svg)))}

    def own(found: re.Match[str]) -> str:
        name = found[2]
        return f"{found[1]}plot-{digest}-{numbers[name]}" if name in numbers else found[0]

    svg = re.sub(r'(id="|#)([\w.:-]+)', own, svg)
    return Markup(_STAND_INS.sub(lambda found: f"var(--{_NAMES[found[0]]})", svg))
