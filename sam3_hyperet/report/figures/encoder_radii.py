"""Figure of the radii of encoders: ranges of what they return, and medians by depth."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from sam3_hyperet.evaluation.encoder_radius import OUTPUT, LayerRadii
from sam3_hyperet.report.encoder_radii import blocks_of
from sam3_hyperet.report.figures.plots import TEXT

_WIDTH, _ROW = 9.0, 0.36  # inches
_BELOW = 0.34  # of a row
_MARKS = ("min", "q05", "q50", "q95", "max")
_INK, _MUTED, _GRID = "#16191d", "#59616b", "#dfe3e8"
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#b5568c", "#b97f00", "#6a51a3", "#3f9bd1")
_STYLES = ("-", (0, (5, 2)), (0, (2, 2)), (0, (1, 1)))


def encoder_figure(rows: Sequence[LayerRadii]) -> Figure:
    """Left: normalised radii of each encoder's output, range thin, 5 to 95 % thick; right: medians by depth.

    Below each, hollow, its last block, which no last LayerNorm has set. A colour a family, a line style a resolution.
    """
    outputs = [row for row in rows if row.layer == OUTPUT]
    families = list(dict.fromkeys(row.family for row in rows))
    sides = sorted({row.resolution for row in rows})
    figure = Figure(figsize=(_WIDTH, max(2.6, 1.1 + _ROW * len(outputs))), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    for axes in (left, right):
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_edgecolor(_MUTED)
        axes.tick_params(which="both", length=0, labelsize=TEXT, labelcolor=_MUTED)
        axes.grid(axis="x" if axes is left else "y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    last = [layers[-1] for layers in blocks_of(rows).values()]
    for place, (row, block) in enumerate(zip(outputs, last, strict=True)):
        color = _color(families, row)
        for at, layer, fill in ((place, row, color), (place + _BELOW, block, "white")):
            low, q05, middle, q95, high = (layer.statistics[f"normalized_radius/{name}"] for name in _MARKS)
            left.hlines(at, low, high, color=color, linewidth=1.2 if layer is row else 0.7)
            left.hlines(at, q05, q95, color=color, linewidth=4.5 if layer is row else 2.5, alpha=0.55)
            left.plot(middle, at, "o", color=color, markersize=4.5, markerfacecolor=fill, markeredgewidth=0.9)
    names = [f"{row.encoder.partition(':')[2]} @ {row.resolution}" for row in outputs]
    left.set_yticks(range(len(outputs)), names, parse_math=False)
    left.tick_params(axis="y", labelcolor=_INK)
    left.set_ylim(len(outputs) - 0.3, -0.6)
    left.set_xlabel("normalised radius of the output; hollow: last block", color=_MUTED, fontsize=TEXT)
    for (_, side), layers in blocks_of(rows).items():
        medians = [layer.statistics["normalized_radius/q50"] for layer in layers]
        style = _STYLES[sides.index(side) % len(_STYLES)]
        right.plot([layer.depth for layer in layers], medians, color=_color(families, layers[0]), linestyle=style)
    right.set_xlabel("depth", color=_MUTED, fontsize=TEXT)
    right.set_title("median behind each block", color=_MUTED, fontsize=TEXT, loc="left")
    marks = [right.plot([], [], color=_COLORS[k % len(_COLORS)], label=name)[0] for k, name in enumerate(families)]
    if len(sides) > 1:
        for k, side in enumerate(sides):
            marks += right.plot([], [], color=_MUTED, linestyle=_STYLES[k % len(_STYLES)], label=f"{side} px")
    figure.legend(handles=marks, loc="outside upper left", ncols=8, frameon=False, labelcolor=_MUTED, fontsize=TEXT)
    return figure


def _color(families: Sequence[str], row: LayerRadii) -> str:
    return _COLORS[families.index(row.family) % len(_COLORS)]
