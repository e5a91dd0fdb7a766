"""Categories that gained and lost, and those matched by the prompts of others, in the order of the concept tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from sam3_hyperet.report.figures.plots import TEXT, Plot, axis_labels, new_axes, page_color, to_svg
from sam3_hyperet.report.tables import UNMOVED, Row, signed

MOST_BARS = 15
"""Bars of a plot: of more categories, those that gained and those that lost most."""
MOST_CONCEPTS = 24
"""Rows of a confusion plot whose names can still be read; of more, those confused most are shown."""

_NAME = 22  # characters of a category's name
_HIDDEN = 0.005  # smaller shares are left blank


@dataclass(frozen=True)
class TreeConfusion:
    """Regions matched by the prompts of other concepts, for concepts in the order of the tree.

    names, parents: of the n concepts; concepts of one parent stand together.
    shares: by model, (n, n) in [0, 1]: of the ground-truth regions of row r, those that the prompt of column k matches;
    NaN in rows without a region.
    """

    names: tuple[str, ...]
    parents: tuple[str, ...]
    shares: Mapping[str, np.ndarray]


def difference_plots(
    title: str, table: Sequence[Row], instances: Mapping[str, int] | None = None, k: int = 0
) -> list[Plot]:
    """Bars of model k's differences from the base by category; two plots where there are more than `MOST_BARS`.

    instances: ground-truth instances by category, written behind the name.
    """
    counts = instances or {}
    found = [
        (row.scope[0], row.cells[k].difference or 0.0, counts.get(row.scope[0]))
        for row in table
        if row.cells[k].difference is not None
    ]
    found.sort(key=lambda one: -one[1])
    if not found:
        return []
    reach = max(abs(difference) for _, difference, _ in found) or 0.1
    number = " In brackets the number of instances." if counts else ""
    if len(found) <= MOST_BARS:
        return [Plot(title, _bars(found, reach), note=f"Adapted − base.{number}")]
    gained = [one for one in found if one[1] >= UNMOVED]
    lost = [one for one in found if one[1] <= -UNMOVED]
    moved = ((f"{title}, gained most", gained, gained[:MOST_BARS]), (f"{title}, lost most", lost, lost[-MOST_BARS:]))
    return [
        Plot(name, _bars(bars, reach), note=f"Adapted − base: {len(all_)} of {len(found)} categories.{number}")
        for name, all_, bars in moved
        if bars
    ]


def confusion_plots(confusion: TreeConfusion) -> list[Plot]:
    """A heat map for each model, of the same concepts in the same order."""
    finite = {model: np.nan_to_num(np.asarray(shares, float)) for model, shares in confusion.shares.items()}
    finite = {model: shares for model, shares in finite.items() if shares.size and shares.any()}
    if not finite:
        return []
    wrong = np.max([shares * (1 - np.eye(len(shares))) for shares in finite.values()], axis=0)
    worst = np.argsort(-(wrong.max(axis=0) + wrong.max(axis=1)), kind="stable")[:MOST_CONCEPTS]
    kept = np.sort(worst)
    names, parents = ([values[i] for i in kept] for values in (confusion.names, confusion.parents))
    note = "Of the ground-truth regions of a row, the percentage that the prompt of a column matches: blue its own, "
    note += "orange another’s, the stronger the more. Frames hold the children of one parent."
    if len(kept) < len(confusion.names):
        note += f" The {len(kept)} of {len(confusion.names)} concepts that are confused most."
    return [
        Plot(model, _heat_map(shares[np.ix_(kept, kept)], names, parents), note=note)
        for model, shares in finite.items()
    ]


def _bars(bars: Sequence[tuple[str, float, int | None]], reach: float) -> str:
    figure, axes = new_axes(0.45 + 0.21 * len(bars), grid="x")
    places = np.arange(len(bars))
    for place, (_, difference, _) in zip(places, bars, strict=True):
        axes.barh(place, difference, height=0.66, color=page_color("better" if difference > 0 else "worse"))
        side = 1 if difference >= 0 else -1
        axes.annotate(
            signed(difference, 2),
            (difference, place),
            xytext=(4 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            color=page_color("ink"),
            fontsize=TEXT,
        )
    axes.axvline(0, color=page_color("muted"), linewidth=1)
    labels = [_short(name) + (f" ({count:,})" if count is not None else "") for name, _, count in bars]
    axes.set_yticks(places, labels, parse_math=False)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    room = 1.24 * reach  # behind the longest bar there is its figure
    left, right = (any(side * difference > 0 for _, difference, _ in bars) for side in (-1, 1))
    axes.set_xlim(-room if left else -0.05 * reach, room if right else 0.05 * reach)
    axes.xaxis.set_major_formatter(lambda value, _: signed(value, 2) if abs(value) > 1e-9 else "0")
    axes.locator_params(axis="x", nbins=5)
    return to_svg(figure)


def _heat_map(shares: np.ndarray, names: Sequence[str], parents: Sequence[str]) -> str:
    count = len(names)
    labels = [_short(name) for name in names]
    figure, axes = new_axes(0.6 + 0.08 * max(map(len, labels)) + 0.22 * max(count, 3))
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    for row, column in np.argwhere(shares >= _HIDDEN).tolist():
        share = min(float(shares[row, column]), 1.0)
        color = page_color("adapted" if row == column else "worse")
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, alpha=share, linewidth=0))
        if count <= 12:
            ink = page_color("page" if share > 0.6 else "ink")
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=TEXT, color=ink)
    _outline_families(axes, parents)
    axes.set_xticks(np.arange(count), labels, rotation=90, parse_math=False)
    axes.set_yticks(np.arange(count), labels, parse_math=False)
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(count - 0.5, -0.5)
    axis_labels(axes, "matched by the prompt", "regions of")
    return to_svg(figure)


def _outline_families(axes: Axes, parents: Sequence[str]) -> None:
    """A frame around the concepts of each parent: inside it siblings, outside cousins."""
    first = 0
    for i in range(1, len(parents) + 1):
        if i == len(parents) or parents[i] != parents[first]:
            corner = (first - 0.5, first - 0.5)
            frame = Rectangle(corner, i - first, i - first, fill=False, edgecolor=page_color("muted"), linewidth=1)
            frame.set_clip_on(False)
            axes.add_patch(frame)
            first = i


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
