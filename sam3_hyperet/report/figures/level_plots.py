"""Whether features of coarser concepts lie farther out: one plot a step between levels, places below each other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.evaluation.metrics.level_statistics import EDGES
from sam3_hyperet.report.figures.plots import PAGE, Line, Plot, model_colors, new_axes, percent, to_svg
from sam3_hyperet.report.tables import labelled_prefixes, starting, value

_STEPS = {"part_object": "Object farther out than its part", "object_group": "Group farther out than its object"}
_CONTROL = "the same masks at a random place"
_PREFIX = "granularity/"
_MARKS = {"part": "v", "object": "o", "group": "s"}


@dataclass(frozen=True)
class Order:
    """The fraction of pairs in which the coarser one lies farther out, its 95 % interval, and that of the control.

    Attributes:
        beyond: ends of the 95 % interval of the fraction less that of the control, which varies with the images too.
    """

    fraction: float
    low: float
    high: float
    control: float | None
    beyond: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        """Whether the interval is above chance and the control, below both, or neither."""
        control = 0.5 if self.control is None else self.control
        beyond = self.beyond or (self.low - control, self.high - control)  # of metrics of an earlier version
        low, high = min(self.low - 0.5, beyond[0]), max(self.high - 0.5, beyond[1])
        return "coarser" if low > 0 else "finer" if high < 0 else "open"


@dataclass(frozen=True)
class PlaceRow:
    """One model at one place: mean radii and correlations by their key, and the order by step; None where undefined."""

    place: str
    model: str
    values: Mapping[str, float | None]
    orders: Mapping[str, Order]


COLUMNS = {"part": "part", "object": "object", "group": "group", "rho": "ρ", "rho_area": "ρ, area fixed"}


def place_rows(metrics: Mapping[str, float], models: Sequence[str] = ()) -> list[PlaceRow]:
    """Every place with a mean radius or an order, for the base and each adapted model."""
    keys = [key for key in metrics if isinstance(key, MetricKey) and key.metric.startswith(_PREFIX)]
    parts = [(key.data, key.metric.split("/")[1]) for key in keys]
    places = dict.fromkeys((data, place) for data, place in parts if place not in EDGES)  # these have counts alone
    rows = []
    for data, place in places:
        for name, prefix in labelled_prefixes(metrics, models).items():
            at = f"{prefix}{data}/{_PREFIX}{place}"
            orders = {edge: order for edge in EDGES if (order := _order(metrics, f"{at}/{edge}")) is not None}
            values = {column: value(metrics, f"{at}/{column}") for column in COLUMNS}
            if orders or any(found is not None for found in values.values()):
                rows.append(PlaceRow(place, name, values, orders))
    return rows


def radius_by_level(rows: Sequence[PlaceRow]) -> list[Plot]:
    """One plot of the mean radii of parts, objects and groups, by place and model, in units of the objects'."""
    found = [row for row in rows if row.values["object"] and (row.values["part"] or row.values["group"])]
    if not found:
        return []
    names = list(dict.fromkeys(row.model for row in rows))
    colors = _colors(names)
    places, step = list(dict.fromkeys(row.place for row in found)), 0.6 / len(names)
    figure, axes = new_axes("mean radius ÷ that of objects", height=0.9 + 0.45 * len(places), grid="x")
    axes.axvline(1.0, color=PAGE["muted"], linewidth=1.2)
    for row in found:
        y = places.index(row.place) + step * (names.index(row.model) - (len(names) - 1) / 2)
        radii = {mark: row.values[level] for level, mark in _MARKS.items()}
        x = {mark: radius / (row.values["object"] or 1.0) for mark, radius in radii.items() if radius is not None}
        axes.hlines(y, min(x.values()), max(x.values()), color=PAGE[colors[row.model]], linewidth=1.2)
        for mark, ratio in x.items():
            axes.plot([ratio], [y], marker=mark, markersize=5.5, color=PAGE[colors[row.model]])
    axes.set(ylim=(len(places) - 0.5, -0.5))
    axes.set_yticks(range(len(places)), places, parse_math=False)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    lines = tuple(Line(name, (), (), colors[name]) for name in names if any(row.model == name for row in found))
    note = "▾ parts, ● objects, ■ groups: in the convention parts are left of objects, and groups right of them."
    return [Plot("Radius by granularity", to_svg(figure), lines, note)]


def orders_in_words(rows: Sequence[PlaceRow]) -> str:
    """How many of each model's orders are the convention's, how many reversed; "" for none."""
    found = []
    for model in dict.fromkeys(row.model for row in rows):
        verdicts = [order.verdict for row in rows if row.model == model for order in row.orders.values()]
        if verdicts:
            coarser, finer = verdicts.count("coarser"), verdicts.count("finer")
            found.append(f"{model} {coarser} of {len(verdicts)} ({finer} reversed)")
    if not found:
        return ""
    others = "the others are no farther off than chance or the same masks at a random place"
    return f"Orders that are as in the convention: {', '.join(found)}; {others}."


def level_plots(rows: Sequence[PlaceRow]) -> list[Plot]:
    """A plot for each step that has pairs: filled marks with intervals, hollow ones for the control."""
    names = list(dict.fromkeys(row.model for row in rows))
    colors, plots = _colors(names), []
    for edge, title in _STEPS.items():
        found = [row for row in rows if edge in row.orders]
        if found:
            lines = [Line(name, (), (), colors[name]) for name in names if any(row.model == name for row in found)]
            control = [Line(_CONTROL, (), (), "muted", hollow=True)]
            plots.append(Plot(title, _drawn(found, edge, colors), (*lines, *control), _sentence(found, edge, names)))
    return plots


def _colors(names: Sequence[str]) -> dict[str, str]:
    adapted = [name for name in names if name != "base"]
    return dict(zip(["base", *adapted], model_colors(len(adapted)), strict=True))


def _drawn(rows: Sequence[PlaceRow], edge: str, colors: Mapping[str, str]) -> Markup:
    places, names = list(dict.fromkeys(row.place for row in rows)), list(colors)
    step = 0.6 / len(names)
    figure, axes = new_axes(
        "pairs in which the coarser one lies farther out", height=0.9 + 0.45 * len(places), grid="x"
    )
    axes.axvline(0.5, color=PAGE["muted"], linewidth=1.2)
    for row in rows:
        order, y = row.orders[edge], places.index(row.place) + step * (names.index(row.model) - (len(names) - 1) / 2)
        color = PAGE[colors[row.model]]
        axes.hlines(y, order.low, order.high, color=color, linewidth=2.2)
        axes.plot([order.fraction], [y], marker="o", markersize=5.5, color=color)
        if order.control is not None:
            axes.plot([order.control], [y], marker="o", markersize=5, markerfacecolor="none", color=PAGE["muted"])
    axes.set(xlim=(-0.02, 1.02), ylim=(len(places) - 0.5, -0.5), yticks=range(len(places)), yticklabels=places)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(percent)
    return to_svg(figure)


def _sentence(rows: Sequence[PlaceRow], edge: str, names: Sequence[str]) -> str:
    """Where the order is the convention's, where the reverse, and where open, by model."""
    said = []
    for name in names:
        found = {row.place: row.orders[edge].verdict for row in rows if row.model == name}
        clauses = [
            f"{text} at {', '.join(places)}"
            for verdict, text in (("coarser", "as in the convention"), ("finer", "reversed"), ("open", "open"))
            if (places := [place for place, was in found.items() if was == verdict])
        ]
        if clauses:
            said.append(f"{starting(name)}: {'; '.join(clauses)}.")
    return " ".join(said)


def _order(metrics: Mapping[str, float], key: str) -> Order | None:
    ends = [metrics.get(f"{key}/delta{end}", math.nan) for end in ("", "/low", "/high")]
    if not all(map(math.isfinite, ends)):
        return None
    control, least, most = (metrics.get(f"{key}/{name}") for name in ("elsewhere", "beyond/low", "beyond/high"))
    fraction, low, high = ((1 + end) / 2 for end in ends)
    beyond = None if least is None or most is None else (least / 2, most / 2)
    return Order(fraction, low, high, None if control is None else (1 + control) / 2, beyond)
