"""Base files that are refused: one line that names the file, and a model that is as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.modeling.checkpoint import load_base
from sam3_hyperet.modeling.fingerprint import base_fingerprint


def refused_in_one_line(model: nn.Module, path: Path, message: str) -> None:
    """Assert that `load_base` refuses a file with a message that matches, and leaves the model alone."""
    before = base_fingerprint(model)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_base(model, path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600
    assert base_fingerprint(model) == before
