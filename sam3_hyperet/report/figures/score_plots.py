"""Curves of what scores are worth: precision over recall, and risk over coverage."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sam3_hyperet.report.figures.plots import Line, Plot, model_colors, thinned, unit_plot

_MOST_POINTS = 300  # of a curve: more cannot be told apart at this width


@dataclass(frozen=True)
class PrecisionRecall:
    """One curve of one model at one IoU threshold, a mean over the categories of a group ("" for all of them)."""

    model: str
    iou: float
    precision: np.ndarray  # at recalls evenly spaced from 0 to 1 (COCO has 101); without a number there is no curve
    group: str = ""


@dataclass(frozen=True)
class RiskCoverage:
    """Mean error 1 − IoU, `risk` (n,), of the share `coverage` (n,) of the detections that `measure` trusts most."""

    model: str
    measure: str
    coverage: np.ndarray
    risk: np.ndarray


def precision_recall_plots(curves: Sequence[PrecisionRecall]) -> list[Plot]:
    """A plot for each group: colours tell models apart, dashes the higher of two IoU thresholds."""
    colors = _colors([curve.model for curve in curves])
    lowest = min((curve.iou for curve in curves), default=0.0)
    plots = []
    for group in dict.fromkeys(curve.group for curve in curves):
        lines = []
        for curve in (curve for curve in curves if curve.group == group):
            recall = np.linspace(0.0, 1.0, len(curve.precision))
            name = f"{curve.model}, IoU ≥ {curve.iou:.2f}".replace("0.", ".")
            lines += _line(name, recall, curve.precision, colors[curve.model], dashed=curve.iou > lowest)
        if lines:
            note = "Mean over the categories: the farther up and right a curve runs, the better."
            plots.append(unit_plot(f"{group or 'all'} categories", lines, "recall", "precision", note))
    return plots


def risk_coverage_plots(curves: Sequence[RiskCoverage]) -> list[Plot]:
    """One plot for each measure of uncertainty, on one scale."""
    colors = _colors([curve.model for curve in curves])
    found: dict[str, list[Line]] = {}
    for curve in curves:
        for line in _line(curve.model, curve.coverage, curve.risk, colors[curve.model]):
            found.setdefault(curve.measure, []).append(line)
    top = 1.05 * max((max(line.y) for lines in found.values() for line in lines), default=1.0)
    note = "Mean error of the detections kept. A measure that knows what is wrong starts low and rises; chance is flat."
    return [
        unit_plot(f"Kept by {measure}", lines, "share of the detections kept", "mean 1 − IoU", note, top)
        for measure, lines in found.items()
    ]


def _colors(models: Sequence[str]) -> dict[str, str]:
    """Colours by model; the base's is its own, wherever it stands and also where it is missing."""
    adapted = [name for name in dict.fromkeys(models) if name != "base"]
    return dict(zip(("base", *adapted), model_colors(len(adapted)), strict=True))


def _line(name: str, x: np.ndarray, y: np.ndarray, color: str, dashed: bool = False) -> list[Line]:
    """A curve of the finite points; none for fewer than two."""
    points = thinned(x, y, _MOST_POINTS)
    return [Line(name, *points, color, dashed=dashed)] if len(points[0]) > 1 else []
