"""Categories that gained and lost, and those matched by the prompts of others, in the order of the concept tree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from markupsafe import Markup
from matplotlib.patches import Rectangle

from sam3_hyperet.report.figures.plots import PAGE, TEXT, Plot, new_axes, to_svg
from sam3_hyperet.report.tables import UNMOVED, Row, signed

MOST_BARS = 15  # of a plot: of more categories, those that gained and those that lost most
MOST_CONCEPTS = 24  # rows of a confusion plot that can still be read; of more, those confused most are shown
_NAME = 22  # characters of a category's name
_NAMED = 8  # categories that did not move, in words
_HIDDEN = 0.005  # smaller shares are left blank


@dataclass(frozen=True)
class TreeConfusion:
    """Regions matched by the prompts of other concepts.

    names, parents: of the n concepts, in the order of the tree: concepts of one parent stand together.
    shares: by model, (n, n) in [0, 1]: of the ground-truth regions of row r, those that the prompt of column k matches;
    NaN in rows without a region.
    """

    names: tuple[str, ...]
    parents: tuple[str, ...]
    shares: Mapping[str, np.ndarray]


def difference_plots(
    title: str,
    table: Sequence[Row],
    instances: Mapping[str, int] | None = None,
    k: int = 0,
    color: str = "adapted",
) -> list[Plot]:
    """Bars of model k's differences from the base by category; two plots where there are more than `MOST_BARS`.

    instances: ground-truth instances by category, written behind the name. color: of the page.
    """
    counts = instances or {}
    moved = [(row.scope[0], row.cells[k].difference) for row in table]
    found = [(name, change, counts.get(name)) for name, change in moved if change is not None]
    found.sort(key=lambda one: -one[1])
    if not found:
        return []
    reach = max(abs(difference) for _, difference, _ in found) or 0.1
    number = " In brackets the number of instances." if counts else ""
    if len(found) <= MOST_BARS:
        return [Plot(title, _bars(found, reach, color), note=f"Adapted − base, without intervals.{number}")]
    plots = []
    for side, shown, verb in ((1, slice(MOST_BARS), "gained"), (-1, slice(None, -MOST_BARS - 1, -1), "lost")):
        if bars := [one for one in found if side * one[1] >= UNMOVED]:
            of_all = f"{len(bars)} of {len(found)} categories {verb} {UNMOVED} or more{_still(found)}"
            note = f"Adapted − base, without intervals: {of_all}.{number}"
            plots.append(Plot(f"{title}, {verb} most", _bars(bars[shown], reach, color), note=note))
    return plots


def _still(found: Sequence[tuple[str, float, int | None]]) -> str:
    """Which categories did not move, if they are few, or how many."""
    names = [name for name, difference, _ in found if abs(difference) < UNMOVED]
    return f", {', '.join(names) if len(names) <= _NAMED else len(names)} less" if names else ""


def confusion_plots(confusion: TreeConfusion) -> list[Plot]:
    """A heat map for each model, of the same concepts in the same order."""
    finite = {model: np.nan_to_num(shares) for model, shares in confusion.shares.items()}
    finite = {model: shares for model, shares in finite.items() if shares.any()}
    if not finite:
        return []
    wrong = np.max([shares * (1 - np.eye(len(shares))) for shares in finite.values()], axis=0)
    kept = np.sort(np.argsort(-(wrong.max(axis=0) + wrong.max(axis=1)), kind="stable")[:MOST_CONCEPTS])
    names, parents = ([values[i] for i in kept] for values in (confusion.names, confusion.parents))
    note = "Of the ground-truth regions of a row, the percentage that the prompt of a column matches: blue its own, "
    note += "orange another’s, the stronger the more. Frames hold the children of one parent."
    if len(kept) < len(confusion.names):
        note += f" The {len(kept)} of {len(confusion.names)} concepts that are confused most."
    kept_both = np.ix_(kept, kept)
    return [Plot(model, _heat_map(shares[kept_both], names, parents), note=note) for model, shares in finite.items()]


def _bars(bars: Sequence[tuple[str, float, int | None]], reach: float, color: str) -> Markup:
    figure, axes = new_axes(height=0.45 + 0.21 * len(bars), grid="x")
    for place, (_, difference, _) in enumerate(bars):
        axes.barh(place, difference, height=0.66, color=PAGE[color])
        side, align = (4, "left") if difference >= 0 else (-4, "right")
        text = axes.annotate(signed(difference, 2), (difference, place), (side, 0), textcoords="offset points")
        text.set(ha=align, va="center", color=PAGE["ink"], fontsize=TEXT)
    axes.axvline(0, color=PAGE["muted"], linewidth=1)
    labels = [_short(name) + (f" ({count:,})" if count is not None else "") for name, _, count in bars]
    axes.set_yticks(range(len(bars)), labels, parse_math=False)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    room = 1.24 * reach  # behind the longest bar there is its figure
    left, right = (any(side * difference > 0 for _, difference, _ in bars) for side in (-1, 1))
    axes.set_xlim(-room if left else -0.05 * reach, room if right else 0.05 * reach)
    axes.xaxis.set_major_formatter(lambda value, _: signed(value, 2) if abs(value) > 1e-9 else "0")
    axes.locator_params(axis="x", nbins=5)
    return to_svg(figure)


def _heat_map(shares: np.ndarray, names: Sequence[str], parents: Sequence[str]) -> Markup:
    count = len(names)
    labels = [_short(name) for name in names]
    height = 0.6 + 0.08 * max(map(len, labels)) + 0.22 * max(count, 3)
    figure, axes = new_axes("matched by the prompt", "regions of", height=height)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    for row, column in np.argwhere(shares >= _HIDDEN).tolist():
        share = min(float(shares[row, column]), 1.0)
        color = PAGE["adapted" if row == column else "worse"]
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, alpha=share, linewidth=0))
        if count <= 12:
            ink = PAGE["page" if share > 0.6 else "ink"]
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=TEXT, color=ink)
    first = 0
    for _, family in groupby(parents):  # a frame around the concepts of each: inside it siblings, outside cousins
        size, corner = len(list(family)), (first - 0.5, first - 0.5)
        frame = Rectangle(corner, size, size, fill=False, edgecolor=PAGE["muted"], linewidth=1, clip_on=False)
        axes.add_patch(frame)
        first += size
    axes.set_xticks(range(count), labels, rotation=90, parse_math=False)
    axes.set_yticks(range(count), labels, parse_math=False)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
    return to_svg(figure)


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
