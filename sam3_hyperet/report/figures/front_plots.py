"""The front of an adapter's dial: what is gained over what is kept, a point for each value."""

import math
from collections.abc import Mapping

from sam3_hyperet.evaluation.dial import DialFront
from sam3_hyperet.report.figures.plots import PAGE, TEXT, Line, Plot, new_axes, to_svg
from sam3_hyperet.report.tables import number
from sam3_hyperet.training.choice import Condition

_TRAINED = 1.0


def front_plots(front: DialFront) -> list[Plot]:
    """A plot for each condition of the rule, over the metric that it keeps; without one, a plot over the dial."""
    plots = [_plot(front, condition) for condition in front.rule.conditions] or [_plot(front, None)]
    return [plot for plot in plots if plot.lines]


def _plot(front: DialFront, condition: Condition | None) -> Plot:
    """Where the metrics are numbers: the base hollow, the adapter as trained filled, the chosen dial ringed."""
    gain, kept = front.rule.metric, condition.metric if condition else "dial"
    points = {}
    for dial, found in front.metrics.items():
        point = (found.get(kept, math.nan) if condition else dial, found.get(gain, math.nan))
        if all(map(math.isfinite, point)) and -1.0 not in point:  # COCO's -1 is an AP of nothing
            points[dial] = point
    figure, axes = new_axes(kept, gain)
    curve = tuple(x for x, _ in points.values()), tuple(y for _, y in points.values())
    axes.plot(*curve, color=PAGE["adapted"], linewidth=1.6, marker="o", markersize=4.5)
    for dial, point in points.items():
        is_base = dial == 0.0
        if is_base or dial == _TRAINED:
            fill = PAGE["page"] if is_base else PAGE["adapted"]
            color = PAGE["base" if is_base else "adapted"]
            axes.plot(*point, marker="o", markersize=8, color=color, markerfacecolor=fill, markeredgewidth=2)
        if dial == front.chosen:
            axes.plot(*point, marker="o", markersize=14, markerfacecolor="none", color=PAGE["better"])
    for point, dials in _by_point(points).items():
        name = ", ".join({0.0: "0, base", _TRAINED: "1, as trained"}.get(dial, f"{dial:g}") for dial in dials)
        beside = 7, -12 if 0.0 in dials else 5
        axes.annotate(
            name,
            point,
            xytext=beside,
            textcoords="offset points",
            color=PAGE["ink"],
            fontsize=TEXT,
            annotation_clip=False,
        )
    note = ""
    if condition and math.isfinite(limit := _limit(condition, front)):
        axes.axvline(limit, color=PAGE["muted"], linewidth=1, linestyle=(0, (3, 3)))
        side = "Right" if condition.sign == ">=" else "Left"
        note = f"{side} of the dashed line, at {number(limit, 3)}, {condition} is kept."
    if front.chosen is not None:
        note = f"{note} The ring is the dial that was chosen.".strip()
    axes.margins(x=0.22, y=0.12)  # of the labels beside the marks
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.3g}")
    line = Line("adapted", *curve, "adapted", marked=True)
    return Plot(f"{gain} over {kept}, {front.images}", to_svg(figure), (line,) if points else (), note)


def _by_point(points: Mapping[float, tuple[float, float]]) -> dict[tuple[float, float], list[float]]:
    """The dials at each point, which share a label."""
    found: dict[tuple[float, float], list[float]] = {}
    for dial, point in points.items():
        found.setdefault(point, []).append(dial)
    return found


def _limit(condition: Condition, front: DialFront) -> float:
    known = not condition.of_base or condition.metric in front.base
    return condition.limit(front.base) if known else math.nan
