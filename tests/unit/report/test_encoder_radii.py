"""Tables of the radii of encoders: columns are of the blocks that were measured, each once."""

from __future__ import annotations

import torch

from sam3_hyperet.evaluation.encoder_radius import OUTPUT, LayerRadii, radii_of
from sam3_hyperet.report.encoder_radii import markdown_of


def rows_of(encoder: str, blocks: int) -> list[LayerRadii]:
    """An encoder whose median normalised radius behind block i is tanh(i/10)."""
    layers = [(f"blocks.{i}", i / blocks, i) for i in range(1, blocks + 1)] + [(OUTPUT, 1.0, blocks)]
    return [
        LayerRadii(encoder, "f", "w", 1, 64, layer, depth, 1, 3, radii_of(torch.full((3,), i / 10), 1, 1.0, "none"))
        for layer, depth, i in layers
    ]


def by_depth(rows: list[LayerRadii]) -> list[list[str]]:
    """The cells of the table by depth."""
    table = markdown_of(rows, "title", []).split("## By depth")[1].split("## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]


def test_the_first_column_is_of_the_first_block():
    head, _, row = by_depth(rows_of("deep", 12))
    assert head[2:] == ["first block", "25%", "50%", "75%", "last block"]
    assert row[2:] == [f"{torch.tanh(torch.tensor(i / 10)):.3f}" for i in (1, 3, 6, 9, 12)]


def test_no_block_has_two_columns():
    head, _, row = by_depth(rows_of("shallow", 2))
    assert head[2:] == ["first block", "last block"]
    assert row[2:] == ["0.100", "0.197"]
    head, _, *several = by_depth([*rows_of("shallow", 2), *rows_of("deep", 12)])
    assert len(head) == 7
    assert {len(row) for row in several} == {7}
