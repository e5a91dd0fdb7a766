"""Tables of the radii of encoders' patch features: every row as CSV, and what a person reads of them as Markdown."""

import csv
import io
from collections.abc import Sequence

from sam3_hyperet.evaluation.encoder_radius import OUTPUT, LayerRadii

_NAMED = ("encoder", "family", "weights", "parameters", "resolution", "layer", "depth", "channels", "positions")
_SHOWN = ("mean", "std", "min", "q05", "q50", "q95", "max")
_DEPTHS = {"first block": 0.0, "25%": 0.25, "50%": 0.5, "75%": 0.75, "last block": 1.0}


def csv_of(rows: Sequence[LayerRadii]) -> str:
    """One line a layer, encoder and resolution; numbers in full."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*_NAMED, *rows[0].statistics])
    for row in rows:
        writer.writerow([*(getattr(row, name) for name in _NAMED), *map(repr, row.statistics.values())])
    return buffer.getvalue()


def markdown_of(rows: Sequence[LayerRadii], title: str, notes: Sequence[str]) -> str:
    """Normalised radii of each encoder's last block and output, medians by depth, and how they were made."""
    last = [layers[-1] for layers in blocks_of(rows).values()]
    parts = [f"# {title}", "Normalised radius of the patch features: mean, range and quantiles."]
    parts += ["## Behind the last block", _statistics(last)]
    parts += ["## What the encoder returns", _statistics([row for row in rows if row.layer == OUTPUT])]
    parts += ["## By depth", "Median normalised radius behind the block nearest to this part of the depth."]
    parts += [_by_depth(list(blocks_of(rows).values()))]
    parts += ["## How to read it", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def blocks_of(rows: Sequence[LayerRadii]) -> dict[tuple[str, int], list[LayerRadii]]:
    """The blocks' rows of each encoder and resolution, in their order."""
    found: dict[tuple[str, int], list[LayerRadii]] = {}
    for row in rows:
        if row.layer != OUTPUT:
            found.setdefault((row.encoder, row.resolution), []).append(row)
    return found


def _statistics(rows: Sequence[LayerRadii]) -> str:
    head = ("encoder", "family", "parameters", "resolution", "weights", *_SHOWN, "spread")
    return _table(
        head,
        [
            (
                *(row.encoder, row.family, f"{row.parameters / 1e6:.3g} M", str(row.resolution), row.weights),
                *(f"{row.statistics[f'normalized_radius/{name}']:.3f}" for name in _SHOWN),
                f"{row.statistics['spread']:.3f}",
            )
            for row in rows
        ],
    )


def _by_depth(encoders: Sequence[Sequence[LayerRadii]]) -> str:
    columns: dict[str, list[LayerRadii]] = {}
    for name, depth in _DEPTHS.items():
        found = [_at(layers, depth) for layers in encoders]
        if found not in columns.values():  # as of encoders with few blocks
            columns[name] = found
    rows = [
        (row[0].encoder, str(row[0].resolution), *(f"{one.statistics['normalized_radius/q50']:.3f}" for one in row))
        for row in zip(*columns.values(), strict=True)
    ]
    return _table(("encoder", "resolution", *columns), rows)


def _at(layers: Sequence[LayerRadii], depth: float) -> LayerRadii:
    return min(layers, key=lambda row: abs(row.depth - depth))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
