"""A tree of good files for every tool, which the tests spoil."""

from __future__ import annotations

import pytest
from hostile_trees import ADAPTER, write_tree

import sam3_hyperet as hy


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter") / ADAPTER
    hy.save_adapter(
        hy.inject(hy.build_model("tiny", checkpoint="random"), hy.HyperETConfig(geometry="euclidean")), path
    )
    return path


@pytest.fixture
def tree(adapter, tmp_path):
    write_tree(tmp_path / "tree", adapter)
    return tmp_path / "tree"
