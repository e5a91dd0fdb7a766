"""Every command of the documentation runs as it is written, on stand-ins of data, weights and sizes."""

from __future__ import annotations

import contextlib
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from documented import PAGES, REPOSITORY, RUNNABLE, commands_of_others
from huggingface_hub import constants
from local_hub import TOKEN, LocalHub
from stand_ins import MICRO, write_stand_ins

from sam3_hyperet.cli import demo
from sam3_hyperet.cli.console import main
from sam3_hyperet.modeling import build

pytestmark = pytest.mark.integration

NOT_RUN = {
    r"make (test|lint|format|docs)\b": "what CI itself runs: .ci/run; tests/unit/docs/test_site.py builds the site",
    r"make demo\b(?!-)": "minutes; it is train experiment=demo, and experiment=smoke is run here",
    r"make demo-page\b": "serves until it is stopped; tests/integration/test_demo_page.py opens the page",
    r"sam3-hyperet ablate geometries": "many runs; tests/integration/test_ablation_study.py has a study",
    r"(sam3-hyperet|python tools/)\W?benchmark\b(?!.*launcher)": "minutes; tests/unit/benchmarks has small sizes",
    r"sam3-hyperet radius .*pretrained=true": "weights of timm; tests/unit/cli/test_radius_tool.py runs small encoders",
    r"sam3-hyperet pretrain experiment=": "thousands of scenes; tests/integration/test_tiny_base.py trains a base",
    r"python examples/quickstart.py": "tests/unit/examples/test_example_scripts.py runs it with an adapter",
}
"""Commands of this project that are not run here, by pattern, and why; what they do is tested where it says."""
NOT_OURS = {
    r"pip install": "a package index; tests/integration/test_wheel.py installs the wheel",
    r"docker (build|run)": "no engine here; tests/unit/ci/test_container.py runs the steps",
    r"apptainer (build|run)|srun apptainer": "no engine here; tests/unit/ci/test_container.py runs the steps",
}
"""Commands of other programs, by pattern, and why they are not run."""
SIZES = {
    "train": (
        "train.max_steps=1 train.batch_size=1 train.accumulate=1 train.workers=0 train.validate_images=1 "
        "optim.warmup=0 logger=none protocol.bootstrap=8 protocol.examples=0 protocol.limit=1"
    ),
    "pretrain": (
        "train.max_steps=1 train.batch_size=1 optim.warmup=0 train.validate_images=0 logger=none evaluate=false "
        "data.splits={train:2,tune:1,val:1}"
    ),
    "evaluate": "protocol.bootstrap=8 protocol.examples=0 protocol.limit=2",
    "prepare": "counts=null",
    "ablate": "dry_run=true",
    "forecast": "compare=false",
    "demo": "port=0",
}
"""What is added to a tool's command. A study is composed and checked alone: it starts a process for each run."""
WRITES = {
    "train": "adapter.safetensors",
    "evaluate": "report.html",
    "predict": "predictions.json",
    "prepare": "prepared.json",
    "pull": "adapter.safetensors",
    "pretrain": "base.safetensors",
}
RUNS = ["shop", "shop-a", "shop-gate", "coco", "coco-a", "a", "ade-part", "paco", "demo"]
"""Finished runs that commands name; paper's scheme folds into the weights, theirs does not."""


def reason_for_not_running(command: str, reasons: dict[str, str]) -> str | None:
    return next((reason for pattern, reason in reasons.items() if re.match(pattern, command)), None)


RUN = [one for one in RUNNABLE if not reason_for_not_running(one, NOT_RUN)]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that commands start in, with a hub, and with runs that their own commands have trained."""
    with pytest.MonkeyPatch.context() as patch, LocalHub().serving() as hub:
        patch.setitem(build.ARCHITECTURES, "large", MICRO)
        folder = write_stand_ins(tmp_path_factory.mktemp("stand_ins"))
        patch.chdir(folder)
        patch.setenv("HYDRA_FULL_ERROR", "1")  # an error is raised as it is
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        own = "train experiment=own_data data.root=/data/shop model=large model.checkpoint=sam3.pt"
        groups = "data.groups={mine: [car, dog], held_out: [car, dog], before: [dog, house], known: [dog, house]}"
        run(f"{own} '{groups}' run_dir=runs/shop", folder)
        paper = own.replace("experiment=own_data", "experiment=paper data=auto")
        run(f"{paper} run_dir=runs/paper", folder)
        for name in RUNS[1:]:
            shutil.copytree("runs/shop", f"runs/{name}")
        for name in ("a", "b", "shop", "parts"):
            shutil.copy("runs/shop/adapter.safetensors", f"{name}.safetensors")
        shutil.copy("runs/paper/adapter.safetensors", "adapter.safetensors")
        run("init /data/shop model.checkpoint=sam3.pt", folder, out="init_out")
        shutil.copy("init_out/shop-experiment.yaml", "shop-experiment.yaml")
        for name in ("shop", "coco"):
            run(f"push runs/{name} repo=user/{name}", folder)
        yield folder


def run(command: str, folder: Path, **options: str) -> None:
    """Run a command of sam3-hyperet in this process, with its paths and sizes replaced."""
    text = command.replace("/data/", f"{folder}/data/").replace("facebook/sam3", "sam3.pt")
    text = text.replace("PLAN", "plan.yaml").replace("DIR", f"{folder}/data/shop")
    tool, *arguments = shlex.split(text, comments=True)
    if "--help" in arguments:
        return main([tool, *arguments])
    added = shlex.split(SIZES.get(tool, "")) + [f"{key}={value}" for key, value in options.items()]
    if "launcher=slurm" in arguments:  # the script of the job is printed, and nothing submitted
        added.append("launcher.dry_run=true")
    else:
        arguments = ["devices=1" if one == "devices=8" else one for one in arguments]
    data = [one for one in arguments if one.startswith(("data=", "data.root=", "experiment="))]
    if tool == "train" and (not data or "data=scenes_levels" in data or "experiment=smoke" in data):
        added += ["data.splits={train: 2, tune: 1, val: 1}", "train.validate_every=0"]
    if tool == "train" and "experiment=own_data" not in arguments:  # the evaluation is the same, and that of `evaluate`
        added.append("evaluate=false")
    main([tool, *arguments, *added])
    return None


def test_every_command_is_run_or_has_a_reason():
    everything = {*RUNNABLE, *(one for page in PAGES for one in commands_of_others(page))}
    for pattern in (*NOT_RUN, *NOT_OURS):
        assert any(re.match(pattern, one) for one in everything), f"{pattern}: no such command in the documentation"
    for reason in (*NOT_RUN.values(), *NOT_OURS.values()):
        for path in re.findall(r"(?:tests|\.ci)/[\w/.]*\w", reason):
            assert (REPOSITORY / path).exists(), path
    for page in PAGES:
        for command in commands_of_others(page):
            assert reason_for_not_running(command, NOT_OURS), f"{page.name}: {command}: neither run nor in NOT_OURS"


@pytest.mark.parametrize("command", RUN)
def test_a_documented_command_runs(command, stand_ins, tmp_path, monkeypatch, capsys):
    for path in stand_ins.iterdir():
        if path.name == "runs":
            shutil.copytree(path, tmp_path / "runs", symlinks=True)
        elif path.name not in ("init_out", "cache"):
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    for new in re.findall(r"run_dir=(runs/\S+)", command):  # the run does not go on
        shutil.rmtree(new, ignore_errors=True)
    if "init" in command.split():
        (tmp_path / "shop.yaml").unlink()
        (tmp_path / "shop-experiment.yaml").unlink()
    before = set(tmp_path.rglob("*"))
    words = command.split()
    tool = words[1] if words[0] == "sam3-hyperet" else Path(words[1]).stem.partition("_")[0]
    if tool == "pretrain":
        monkeypatch.setitem(build.ARCHITECTURES, "tiny", MICRO)
    if tool == "demo":
        _serves_nothing(monkeypatch)
    ends = pytest.raises(SystemExit, match=r"^0$") if "--help" in words[2:] else contextlib.nullcontext()
    with ends:
        if words[0] == "python":
            text = command.replace("/data/", f"{stand_ins}/data/")
            monkeypatch.setattr(sys, "argv", [*shlex.split(text)[1:], *shlex.split(SIZES[tool])])
            runpy.run_path(str(REPOSITORY / words[1]), run_name="__main__")
        else:
            run(command.removeprefix("sam3-hyperet "), stand_ins)
    assert "Traceback" not in "".join(capsys.readouterr())
    if tool in ("merge", "score", "pull") and (named := re.search(r"\bout=(\S+)", command)):
        assert (tmp_path / named[1]).exists()
    if tool in WRITES and "--help" not in words and "launcher=slurm" not in words and tool != "prepare":
        assert set(tmp_path.rglob(WRITES[tool])) - before


def _serves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of Gradio's server, which tests/integration/test_demo_page.py opens in a browser."""

    @contextlib.contextmanager
    def served(*_: object, **__: object) -> Iterator[str]:
        yield "http://127.0.0.1:7860"

    class Interrupted:
        def wait(self) -> None:
            raise KeyboardInterrupt

    pytest.importorskip("gradio")
    monkeypatch.setattr("sam3_hyperet.demo.page.served", served)
    monkeypatch.setattr(demo, "threading", SimpleNamespace(Event=Interrupted))
    monkeypatch.setattr(demo.signal, "signal", lambda *_: None)
