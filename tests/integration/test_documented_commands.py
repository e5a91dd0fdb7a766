"""Every command of the documentation runs as it is written, on stand-ins of data, weights and sizes.

A command that needs what is not here (minutes, Slurm, a container engine, a package index, an account) goes as far as
it can without: `NOT_RUN` has the check that it gets instead, and why.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from command_server import CommandServer, Done, run_blocks, run_script, run_tool
from documented import PAGES, REPOSITORY, Command, PythonBlock, fenced_blocks, name_of, python_blocks, shown_commands
from local_hub import TOKEN, LocalHub
from stand_ins import write_stand_ins

from sam3_hyperet.cli.console import TOOLS

pytestmark = pytest.mark.integration


class Instead(NamedTuple):
    """What is checked of the commands of a pattern, which are not run, and why."""

    pattern: str
    check: Callable[[str], object]
    reason: str


def _dry_run(command: str) -> None:
    subprocess.run([*command.split(), "--dry-run", "--always-make"], cwd=REPOSITORY, check=True, capture_output=True)


def _extras_exist(command: str) -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    name, extras = re.fullmatch(r"(\.|sam3_hyperet)(?:\[([\w,]+)\])?", shlex.split(command)[2]).groups()
    assert name in (".", setup["metadata"]["name"])
    for extra in filter(None, (extras or "").split(",")):
        assert extra in setup["options.extras_require"], extra


def _recipe_exists(command: str) -> None:
    files = [word for word in command.split() if "/" in word]
    assert files
    assert all((REPOSITORY / file).is_file() for file in files)


def _program_of(package: str) -> Callable[[str], None]:
    def check(command: str) -> None:
        programs = {one.name for one in importlib.metadata.entry_points(group="console_scripts")}
        assert Path(command.split()[0]).name in programs
        importlib.metadata.version(package)

    return check


def _module_exists(command: str) -> None:
    package, *rest = command.split()[2].split(".")
    (root,) = importlib.util.find_spec(package).submodule_search_locations
    assert Path(root, *rest).with_suffix(".py").is_file()


def _script_exists(command: str) -> None:
    script, option, _ = command.split()[1:]
    assert f'"{option}"' in (REPOSITORY / script).read_text(encoding="utf-8")


NOT_RUN = (
    Instead(r"make \w+(-\w+)?$", _dry_run, "minutes, and CI runs them; make demo is train experiment=demo"),
    Instead(r"pip install ", _extras_exist, "a package index; test_wheel.py installs the package"),
    Instead(r"(docker|apptainer) build ", _recipe_exists, "no engine; tests/unit/ci/test_container.py runs the steps"),
    Instead(r"hf auth login$", _program_of("huggingface_hub"), "an account"),
    Instead(r"\.venv/bin/pre-commit install$", _program_of("pre-commit"), "changes the clone"),
    Instead(r"python -m sam3\.train\.train ", _module_exists, "SAM 3's own trainer, a GPU"),
    Instead(r"python tests/support/fuzz.py ", _script_exists, "minutes; tests/unit/hostile has fewer mutations"),
    Instead(r"srun --(wait=0|ntasks-per-node=4)$", lambda _: None, "an option that is named, not a command"),
)
SHORTENED = {
    "ablate": ("dry_run=true", "many runs; they are composed and checked, of a plan of many arms those of one"),
    "benchmark": ("", "minutes; the benchmark is found and takes the options (command_server.py)"),
    "demo": ("port=0", "serves until it is stopped: models and pictures are opened, the page is not"),
    "evaluate": (
        "protocol.bootstrap=8 protocol.examples=0 protocol.limit=1",
        "half a second each in the report's page, which train experiment=own_data writes",
    ),
    "export": ("", "half a minute; the model is opened and folded, tests/unit/export writes the graphs"),
    "forecast": ("", "steps on a pretended device, minutes with every scheme: tests/unit/training/memory has them"),
    "radius": ("", "weights of timm; names and resolutions are checked, a small encoder is measured"),
}
"""Tools of which a part is not run, by what is added to their command, else by `command_server`, and why."""
ONE_ARM = {
    "geometries": "A_lorentz",
    "official": "B_prompt_lorentz_gate",
    "official_kept": "B_prompt_lorentz_gate",
}
"""An arm of each plan of many; tests/unit/cli/test_ablate.py composes every arm, and plan.yaml is composed whole."""
SIZES = {
    "train": (
        "train.max_steps=1 train.batch_size=1 train.accumulate=1 train.workers=0 train.validate_images=1 "
        "optim.warmup=0 logger=none protocol.bootstrap=8 protocol.examples=0 protocol.limit=1"
    ),
    "pretrain": (
        "train.max_steps=1 train.batch_size=1 optim.warmup=0 train.validate_images=0 logger=none evaluate=false "
        "data.splits={train:2,tune:1,val:1}"
    ),
    "prepare": "counts=null",
    **{tool: added for tool, (added, _) in SHORTENED.items()},
}
"""What is added to a tool's command, but for keys that it has."""
REPLACED = {
    r"^(srun )?apptainer run .*?\S+\.sif |^docker run .* sam3-hyperet (?=\w)": "sam3-hyperet ",  # what the image runs
    r"^python -m sam3_hyperet": "sam3-hyperet",
    r"/work/coco\b": "/data/coco",
    r"/data/": "FOLDER/data/",  # of the command's own folder
    r"/models/|facebook/(?=sam3)": "",
    r"model.checkpoint=sam3\b(?!\.)": "model.checkpoint=sam3.pt",
    r"\bPLAN\b": "plan.yaml",
    r"\bDIR\b": "data/shop",
    r"^((?!.*launcher=slurm).* )devices=8": r"\1devices=1",
    r"train.threads=2": "train.threads=1",
    r"where kept/segm/AP (>= 0\.95.*)": r"where kept/presence/accuracy_absent \1 kept.unclear_threshold=0.5",
}
"""What stands for folders, gated weights, the names in capitals, 8 GPUs, a second core, and a base that is sure."""
WRITES = {
    "train": "adapter.safetensors",
    "evaluate": "report.html",
    "predict": "predictions.json",
    "pull": "adapter.safetensors",
    "pretrain": "base.safetensors",
}
RUNS = ["shop-a", "shop-gate", "coco", "coco-a", "a", "ade-part", "paco"]
"""Finished runs that commands name; paper's scheme folds into the weights, theirs does not."""
BASES = {"README.md": "tiny_levels", "docs/training.md": "tiny"}
"""Bases of the blocks of Python, where it is not the micro model in place of the official one."""
RUN_ELSEWHERE = {"docs/onnx.md": "tests/unit/export/test_export.py runs its block on what it has exported"}
ONLY_COMPILED = "outputs = model(**inputs, input_boxes="
"""An argument for a model of transformers, with the inputs of its processor; nothing of this package."""
OFTEN = [
    ["train", "data=shop.yaml", "data.splits={train: 2, tune: 1}", "hyperet.sites=[encoder_layer,prompt]"],
    ["train", "data=auto", "data.root=shop"],
    ["train", "data=coco"],
    ["evaluate", "run=runs/shop", "dial=[0,.25]"],
    ["evaluate", "run=runs/shop", "data=coco"],
    ["predict", "run=runs/shop", "images=photos", "prompts=car,wheel"],
]
"""What many commands are composed of."""
COMMANDS, FORMS = ([one for one in shown_commands() if one.is_form == is_form] for is_form in (False, True))
BLOCKS = python_blocks()


def not_run(command: Command) -> Instead | None:
    return next((one for one in NOT_RUN if re.match(one.pattern, command.text)), None)


def is_run(block: PythonBlock) -> bool:
    return block.page not in RUN_ELSEWHERE and ONLY_COMPILED not in block.code


def by_place(commands: list[Command]) -> dict[str, Any]:
    return {"argvalues": commands, "ids": map(str, commands)}


@pytest.fixture(scope="module")
def server() -> Iterator[CommandServer]:
    with LocalHub().serving() as hub:
        started = CommandServer(hub.url, TOKEN)
        yield started
        started.stop()


@pytest.fixture(scope="module")
def stand_ins(server: CommandServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands name, with runs that their own commands have trained, and a hub with two of these."""
    folder = tmp_path_factory.mktemp("stand_ins")

    def run(command: str) -> None:
        succeeded(server.run(run_tool, with_sizes(shlex.split(command)), folder=folder))

    succeeded(server.run(write_stand_ins, folder, folder=folder))
    options = "data.root=data/shop model=large model.checkpoint=sam3.pt"
    groups = "data.groups={mine: [car, dog], held_out: [car, dog], before: [dog, house], known: [dog, house]}"
    run(f"train experiment=own_data {options} '{groups}' run_dir=runs/shop")
    run(f"train experiment=paper data=auto {options} '{groups}' run_dir=runs/paper evaluate=false")
    run("train experiment=demo run_dir=runs/demo train.best=loss")
    for name in RUNS:
        shutil.copytree(folder / "runs" / "shop", folder / "runs" / name)
    for name in ("a", "b", "shop", "parts"):
        shutil.copy(folder / "runs" / "shop" / "adapter.safetensors", folder / f"{name}.safetensors")
    shutil.copy(folder / "runs" / "paper" / "adapter.safetensors", folder / "adapter.safetensors")
    run("init data/shop model.checkpoint=sam3.pt out=made")
    shutil.copy(folder / "made" / "shop-experiment.yaml", folder)
    for name in ("shop", "coco"):
        run(f"push runs/{name} repo=user/{name}")
    for tool, *given in OFTEN:
        server.compose(tool, given, folder)
    return folder


@pytest.fixture
def folder(stand_ins: Path, tmp_path: Path) -> Path:
    """A folder of a command's own with all of the stand-ins."""
    return Path(shutil.copytree(stand_ins, tmp_path / "here", symlinks=True, copy_function=os.link))


def succeeded(done: Done) -> Done:
    assert not done.status, done.output
    return done


def with_sizes(arguments: list[str]) -> list[str]:
    """The arguments of `sam3-hyperet` with those that make it small; those of a job make its script be printed."""
    tool, *given = arguments
    if "--help" in arguments or tool.startswith("-"):
        return arguments
    added = shlex.split(SIZES.get(tool, ""))
    added += ["launcher.dry_run=true"] if "launcher=slurm" in given else []
    added += [f"only=[{arm}]" for plan, arm in ONE_ARM.items() if plan in given]
    data = [one for one in given if one.startswith(("data=", "data.root=", "experiment="))]
    if tool == "train" and (not data or {"data=scenes_levels", "experiment=smoke", "experiment=demo"} & set(data)):
        added += ["data.splits={train: 2, tune: 1, val: 1}", "train.validate_every=0"]
    if tool == "train" and "experiment=own_data" not in given:  # it ends with the evaluation that `evaluate` has
        added.append("evaluate=false")
    keys = {one.partition("=")[0] for one in given}
    return [tool, *given, *(one for one in added if one.partition("=")[0] not in keys)]


def in_words(command: str, folder: Path) -> list[str]:
    """The words of a command of ours, with stand-ins of a folder for what it names."""
    for pattern, replacement in REPLACED.items():
        command = re.sub(pattern, replacement, command)
    program, *words = shlex.split(command.replace("FOLDER", str(folder)))
    if program == "sam3-hyperet":
        return [program, *with_sizes(words or ["--help"])]
    assert program == "python", command
    tool = Path(words[0]).stem.partition("_")[0]
    return [program, words[0], *with_sizes([tool, *words[1:]])[1:]]


@pytest.mark.parametrize("command", **by_place([one for one in COMMANDS if not not_run(one)]))
def test_a_command_runs(command, server, folder):
    shown = f"{command.text}\nof {', '.join(command.places)}"
    words = in_words(command.text, folder)
    program, first, *arguments = words
    if len(command.text.split()) == 2 and not command.in_block:  # a tool is named
        assert first in TOOLS or first == "--help" or (REPOSITORY / first).is_file(), shown
        return
    tool = first if program == "sam3-hyperet" else Path(first).stem.partition("_")[0]
    is_done = "--help" not in words and "launcher=slurm" not in words
    for new in re.findall(r"\brun_dir=(runs/\S+)", command.text):  # such a run would go on
        shutil.rmtree(folder / new, ignore_errors=True)
    if tool == "init":
        (folder / "shop.yaml").unlink()
        (folder / "shop-experiment.yaml").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    if program == "python":
        done = server.run(run_script, REPOSITORY / first, arguments, folder=folder)
    else:
        done = server.run(run_tool, [first, *arguments], folder=folder)
    assert not done.status, f"{shown}\n{done.output}"
    assert "is now called" not in done.output, f"{shown}\n{done.output}"
    if is_done and (named := re.search(r"\bout=(\S+)", command.text)) and tool != "benchmark":
        assert (folder / named[1]).exists(), shown
    if is_done and tool in WRITES:
        assert [path for path in folder.rglob(WRITES[tool]) if before.get(path) != path.stat().st_mtime_ns], shown


@pytest.mark.parametrize("command", **by_place([one for one in COMMANDS if not_run(one)]))
def test_a_command_that_is_not_run_names_what_exists(command):
    not_run(command).check(command.text)


@pytest.mark.parametrize("form", **by_place(FORMS))
def test_a_form_of_commands_names_a_tool(form):
    program, tool, *_ = form.text.split()
    assert program != "sam3-hyperet" or tool in TOOLS or tool in ("…", "<tool>")


@pytest.mark.parametrize("block", [one for one in BLOCKS if not is_run(one)], ids=lambda block: block.place)
def test_python_that_is_not_run_here_compiles(block):
    compile(block.code, block.place, "exec")


@pytest.mark.parametrize("page", dict.fromkeys(one.page for one in BLOCKS if is_run(one)))
def test_the_python_of_a_page_runs(page, server, folder):
    blocks = {one.place: one.code for one in BLOCKS if one.page == page and is_run(one)}
    for place, code in blocks.items():
        blocks[place] = code.replace("facebook/sam3", "sam3.pt").replace('"cuda"', '"cpu"')
    succeeded(server.run(run_blocks, blocks, BASES.get(page, "large"), folder, folder=folder))


def test_fenced_blocks_hold_no_commands():
    for page in PAGES:
        for language, line, _ in fenced_blocks(page):
            assert language in ("python", "yaml", "json", "bibtex"), f"{name_of(page)}:{line}: commands are indented"


def test_no_rule_is_left_over():
    for one in NOT_RUN:
        assert any(re.match(one.pattern, command.text) for command in COMMANDS), one.pattern
        for path in re.findall(r"tests/[\w/.]*\w", one.reason):
            assert (REPOSITORY / path).exists(), path
    for path in (*RUN_ELSEWHERE, *(reason.partition(" ")[0] for reason in RUN_ELSEWHERE.values())):
        assert (REPOSITORY / path).exists(), path
    assert any(ONLY_COMPILED in one.code for one in BLOCKS)
    for tool in TOOLS:
        assert any(re.match(rf"(sam3-hyperet|python tools/)\W*{tool}\b", one.text) for one in COMMANDS), tool
