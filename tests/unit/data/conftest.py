"""A COCO file beside its one image."""

from __future__ import annotations

import json

import pytest
from PIL import Image


@pytest.fixture
def write(tmp_path):
    """Writes annotations beside one 30x20 picture; returns what `read_coco` takes."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "a.png")

    def write(value):
        text = value if isinstance(value, str) else json.dumps(value)
        (tmp_path / "instances.json").write_text(text)
        return tmp_path / "instances.json", tmp_path / "images"

    return write
