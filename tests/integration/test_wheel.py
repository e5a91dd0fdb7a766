"""A wheel, installed where there is no repository: training, evaluation and prediction from an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = ("sam3_hyperet", "configs", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the sources, as `pip wheel . --no-deps` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / "sources" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / "sources" / name)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder)]
    subprocess.run(command, cwd=folder / "sources", check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """A function that runs `sam3-hyperet` of a fresh environment, which has the dependencies of this one."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    paths = sysconfig.get_paths(vars={"base": str(environment), "platbase": str(environment)})
    # no .pth file of a folder that is listed in one is read: an editable sam3_hyperet stays out
    ours = dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
    (Path(paths["purelib"]) / "dependencies.pth").write_text("".join(f"{folder}\n" for folder in ours))
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "-q", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    empty = tmp_path_factory.mktemp("empty")

    def run(*arguments, code=0, start=(str(environment / "bin" / "sam3-hyperet"),)):
        done = subprocess.run(
            [*start, *arguments],
            cwd=empty,
            env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    run.folder, run.python, run.script = empty, str(python), str(environment / "bin" / "sam3-hyperet")
    return run


def test_the_wheel_has_all_data_and_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"sam3_hyperet/configs/{path.relative_to(REPOSITORY / 'configs')}" for path in _files("configs")}
    assert configs <= names
    others = {str(path.relative_to(REPOSITORY)) for path in _files("sam3_hyperet") if "__pycache__" not in path.parts}
    assert others <= names
    packages = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert packages == {"sam3_hyperet"}


ONE_AFTER_THE_OTHER = """
import runpy, sys
script, *words = sys.argv[1:]
for command in " ".join(words).split(" then "):
    sys.argv = [script, *command.split()]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


def test_the_whole_way_from_an_empty_folder(run):
    """In one process, which imports everything once."""
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(run.folder / "a.png")
    few = "data.splits.train=4 data.splits.tune=1 data.splits.val=2 train.max_steps=2 train.validate_images=1"
    train, evaluate = f"train experiment=smoke {few} run_dir=run", "evaluate run=run run_dir=evaluated"
    predict = "predict run=run images=a.png prompts=car,house run_dir=predicted"
    start = (run.python, "-c", ONE_AFTER_THE_OTHER, run.script)
    said = run(f"{train} then {evaluate} then {predict}", start=start)
    assert "next: sam3-hyperet predict run=run" in said
    trained, again = (json.loads((run.folder / name / "metrics.json").read_text()) for name in ("run", "evaluated"))
    assert again["scenes/images"] == trained["scenes/images"] == 2
    content = json.loads((run.folder / "predicted" / "predictions.json").read_text())
    assert [prompt["prompt"] for prompt in content["pictures"][0]["prompts"]] == ["car", "house"]
    assert {path.name for path in run.folder.iterdir()} <= {"a.png", "run", "runs", "evaluated", "predicted"}


def test_help_and_what_is_only_in_the_repository(run):
    assert "sam3-hyperet train experiment=smoke" in run("--help")
    start = (run.python, "-m", "sam3_hyperet")
    assert "python -m sam3_hyperet train experiment=smoke" in run("--help", start=start)
    said = run("benchmark", "ops", code=1)
    assert said == (
        "error: benchmark: benchmarks/ is not in the installed package; expected a clone of the repository\n"
    )
    assert "data='voc' is unknown; expected one of ade20k" in run("train", "data=voc", code=1)


def _files(folder):
    return [path for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
