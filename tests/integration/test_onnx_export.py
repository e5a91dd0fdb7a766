"""The packaged base with its gated adapter, which does not fold, as ONNX files."""

from __future__ import annotations

import json

import pytest

from sam3_hyperet.cli.export import main

pytestmark = pytest.mark.integration


def test_an_adapter_that_does_not_fold_is_a_part_of_the_graphs(tmp_path, capsys):
    out = main(
        ["model=tiny_levels", "adapter=package:tiny_levels", "dial=.75", f"out={tmp_path / 'onnx'}", "prompts=[car]"]
    )
    said = capsys.readouterr().out
    assert "the adapter stays a part of the graphs: site " in said
    assert "its gate differs from prompt to prompt" in said or "does not fold" in said
    description = json.loads((out / "export.json").read_text())
    assert [description["dial"], description["merged"]] == [0.75, False]
    assert max(description["difference_from_pytorch"].values()) <= 1e-4
