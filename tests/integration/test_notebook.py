"""The notebook is its script, and runs from the first cell to the last."""

from __future__ import annotations

import base64
import io
import os
import runpy
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT, NOTEBOOK = (REPOSITORY / "examples" / f"own_data.{ending}" for ending in ("py", "ipynb"))

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(REPOSITORY / "examples" / "make_notebook.py"))


def committed() -> nbformat.NotebookNode:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return notebook


def pictures_of(notebook: nbformat.NotebookNode) -> list[Image.Image]:
    data = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    return [Image.open(io.BytesIO(base64.b64decode(one["image/png"]))) for one in data if "image/png" in one]


def test_the_notebook_is_the_script(tool):
    cells = tool["notebook_of"](SCRIPT.read_text(encoding="utf-8")).cells
    shown = committed().cells
    sources = [(cell.cell_type, cell.source) for cell in cells]
    assert [(cell.cell_type, cell.source) for cell in shown] == sources, "python examples/make_notebook.py own_data"
    assert all(cell.execution_count for cell in shown if cell.cell_type == "code"), (
        "python examples/make_notebook.py own_data"
    )
    assert NOTEBOOK.stat().st_size < 300_000
    assert "/home/" not in NOTEBOOK.read_text(encoding="utf-8")


def test_the_notebook_runs(tool, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # its kernel has one core, as each worker of the tests has
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])))
    script = SCRIPT.read_text(encoding="utf-8")
    less = {"max_steps=60": "max_steps=16", 'write_export("val", "test", 12)': 'write_export("val", "test", 4)'}
    for shown, run in less.items():
        assert shown in script
        script = script.replace(shown, run)
    notebook = tool["notebook_of"](script)
    ran = tool["run"](notebook, tmp_path)
    (picture,) = pictures_of(ran)
    (shown,) = pictures_of(committed())
    assert picture.size == shown.size
    base, _, adapted = np.split(np.asarray(picture.convert("RGB"))[40:-40, : picture.width // 3 * 3], 3, axis=1)
    assert np.abs(base.astype(int) - adapted).mean() > 5, "the adapter draws nothing"
    assert (tmp_path / "runs" / "own_data" / "dial" / "report.html").is_file()
