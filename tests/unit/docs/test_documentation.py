"""The documentation names only what exists: options, files, examples. Its commands run in tests/integration."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from documented import PAGES, REPOSITORY, code_of, name_of, text_of

from sam3_hyperet.cli.sections import SECTIONS


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_in_the_text_exist(page):
    for code in code_of(page):
        for section, option in re.findall(r"(?:^|\s)(\w+)\.(\w+)(?==|$|\s)", code):
            if section in SECTIONS and option not in ("safetensors", "json"):  # names of files
                assert option in {field.name for field in fields(SECTIONS[section])}, code


@pytest.mark.parametrize("page", PAGES, ids=name_of)
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
