"""The documentation names only what exists: its commands compose, its options, files and examples are there."""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from documented import COMMANDS, PAGES, REPOSITORY, code_of, text_of
from omegaconf import OmegaConf

from sam3_hyperet.cli.ablation_study import open_study
from sam3_hyperet.cli.command import SECTIONS, parse_command
from sam3_hyperet.cli.console import TOOLS
from sam3_hyperet.cli.run_options import read_run
from sam3_hyperet.cli.submit import parse_runs


@pytest.fixture(scope="module")
def run_config():
    """The configuration that a finished run has kept."""
    return OmegaConf.to_yaml(parse_command("train", ["scheme=A", "run_dir=elsewhere"])[1])


@pytest.fixture
def elsewhere(run_config, monkeypatch, tmp_path):
    """An empty folder with what the commands refer to: data set files of one's own, and finished runs."""
    monkeypatch.chdir(tmp_path)
    for content, name in re.findall(r"```yaml\n(name: (\w+).*?)```", text_of(REPOSITORY / "docs" / "data.md"), re.S):
        (tmp_path / f"{name}.yaml").write_text(content)
    (plan,) = re.findall(r"```yaml\n(.*?)```", text_of(REPOSITORY / "docs" / "ablation.md"), re.S)
    (tmp_path / "plan.yaml").write_text(plan)
    for name in {value for command in COMMANDS for value in re.findall(r"\bexperiment=(\S+\.yaml)", command)}:
        (tmp_path / name).write_text("name: shop\n")
    named = {value for command in COMMANDS for value in re.findall(r"\brun=(\S+)", command)}
    for run in {run for value in named for run in value.strip("[]").split(",")}:
        folder = tmp_path / run
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(run_config)
    return tmp_path


def test_there_are_commands():
    assert len(COMMANDS) > 20
    for tool in TOOLS:
        assert any(re.match(rf"(sam3-hyperet|python tools/)\W*{tool}", command) for command in COMMANDS), tool


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes(command, elsewhere, caplog, capsys):
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", text_of(REPOSITORY / "Makefile"), re.M)
        return
    if words[0] == "python":
        assert (REPOSITORY / words[1]).is_file()
        if words[1].startswith("examples"):
            return
        tool, _, data = Path(words[1]).stem.partition("_")
        words = ["sam3-hyperet", tool, *([f"data={data}"] if data in ("coco", "ade20k") else []), *words[2:]]
    tool, *arguments = words[1:]
    if tool == "--help":
        return
    assert tool in TOOLS
    if not arguments:  # only named
        return
    if tool == "ablate" and "--help" not in arguments:
        study = open_study([one.replace("PLAN", "plan.yaml") for one in arguments])
        if "plan.yaml" in arguments:
            study.check()
        return
    is_run = tool in ("train", "pretrain")
    parse = parse_runs if is_run else parse_command
    ends = pytest.raises(SystemExit, match="0") if "--help" in arguments else contextlib.nullcontext()
    with caplog.at_level(logging.WARNING), ends:
        found, _ = parse(tool, arguments)
        for config in found if is_run else ():
            read_run(OmegaConf.to_container(config))
    assert not caplog.records, "an option has another name now"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_options_in_the_text_exist(page):
    for code in code_of(page):
        for section, option in re.findall(r"(?:^|\s)(\w+)\.(\w+)(?==|$|\s)", code):
            if section in SECTIONS and option != "safetensors":  # the name of a file
                assert option in {field.name for field in fields(SECTIONS[section])}, code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)", text_of(page)):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def test_the_quick_start_is_the_example():
    example = text_of(REPOSITORY / "examples" / "quickstart.py").partition('"""\n')[2].strip()
    assert example in text_of(REPOSITORY / "README.md")


def test_every_part_of_the_package_is_on_the_map():
    map_ = text_of(REPOSITORY / "docs" / "architecture.md")
    for path in (REPOSITORY / "sam3_hyperet").iterdir():
        if path.suffix == ".py" and not path.stem.startswith("__"):
            assert f"`{path.stem}`" in map_, path
        elif (path / "__init__.py").exists():
            assert f"`{path.name}/`" in map_, path


def test_the_first_commands_of_the_readme():
    lines = [line.split()[:2] for line in text_of(REPOSITORY / "README.md").splitlines() if line.startswith("    ")]
    assert lines[:2] == [["make", "demo"], ["make", "test"]]
