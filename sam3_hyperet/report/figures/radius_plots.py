"""Histograms of the normalised radius at each site, into and out of its adjustment."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from sam3_hyperet.report.figures.plots import PAGE, new_axes, percent, to_svg


@dataclass(frozen=True)
class RadiusShift:
    """Radii of one site's features, in front of and behind its adjustment."""

    site: str
    edges: tuple[float, ...]  # of the bins of the normalised radius tanh(√c‖v‖), one more than the counts
    before: tuple[int, ...]
    after: tuple[int, ...]
    before_mean: float  # of the normalised radius
    after_mean: float
    before_radius: float  # mean of the hyperbolic radius 2‖v‖
    after_radius: float
    saturation: float  # fraction of positions at the cap, behind


def radius_plots(shifts: Sequence[RadiusShift]) -> list[Markup]:
    """A histogram of the normalised radius for each site, before filled and after outlined; one scale for all.

    Raises ValueError where edges and counts do not fit.
    """
    occupied: list[float] = []
    for shift in shifts:
        edges, before, after = shift.edges, shift.before, shift.after
        if not len(edges) - 1 == len(before) == len(after) > 0:
            counts = f"{len(before)} and {len(after)} counts"
            raise ValueError(f"{shift.site}: {len(edges)} edges for {counts}, expected one more")
        for k in np.flatnonzero(np.add(before, after)):
            occupied += edges[k : k + 2]
    low, high = (min(occupied), max(occupied)) if occupied else (0.0, 1.0)
    margin = 0.03 * (high - low)
    limits = (max(0.0, low - margin), min(1.0, high + margin))
    return [_histogram(shift, limits) for shift in shifts]


def _histogram(shift: RadiusShift, limits: tuple[float, float]) -> Markup:
    """Both histograms as shares of their positions, the means as dashed lines where finite."""
    figure, axes = new_axes("near the root ← normalised radius → far out")
    shares = [np.asarray(counts, float) / max(float(np.sum(counts)), 1.0) for counts in (shift.before, shift.after)]
    axes.stairs(shares[0], shift.edges, fill=True, color=PAGE["base"], alpha=0.45)
    axes.stairs(shares[1], shift.edges, color=PAGE["adapted"], linewidth=1.8)
    top = max(float(share.max()) for share in shares) * 1.12 or 1.0
    for mean, color in ((shift.before_mean, "base"), (shift.after_mean, "adapted")):
        if math.isfinite(mean):
            axes.vlines(mean, 0, top, color=PAGE[color], linewidth=1.4, linestyle=(0, (4, 2)))
    axes.set(xlim=limits, ylim=(0, top))
    axes.yaxis.set_major_formatter(percent)
    return to_svg(figure)
