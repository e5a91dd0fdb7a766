"""The site builds without a warning, has every option and public name, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import pytest

import sam3_hyperet as hy
from sam3_hyperet.cli.console import TOOLS
from sam3_hyperet.cli.sections import SECTIONS

REPOSITORY = Path(__file__).resolve().parents[3]


class Loaded(HTMLParser):
    """What a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        fetched = given.get("src") or (given.get("href") if tag == "link" and given.get("rel") != "canonical" else None)
        self.urls += [fetched] if fetched else []


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the built site."""
    pytest.importorskip("mkdocs", reason="the site needs the extra docs")
    out = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(REPOSITORY)}
    build = [sys.executable, "-X", "importtime", "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(build, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    log = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 0, "\n".join(log)
    assert "WARNING" not in "\n".join(log)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert not imported & {"torch", "sam3", "gradio"}, "the site is built without them"
    return out


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_every_option_and_tool_has_its_help(site):
    page = text_of(site / "options.html")
    for name, cls in SECTIONS.items():
        _, _, section = page.partition(f'<h3 id="{name}">')
        section = section.partition("<h3")[0]
        for field in fields(cls):
            assert f"<code>{field.name}</code></td>" in section, f"{name}.{field.name}"
    for tool in TOOLS:
        assert f"usage: sam3-hyperet {tool}" in re.sub(r"<[^>]+>", "", page), tool


def test_every_public_name_is_documented(site):
    page = text_of(site / "api.html")
    for name in hy.__all__:
        assert name.startswith("__") or re.search(rf'id="sam3_hyperet\.[\w.]+\.{name}"', page), name
    assert 'id="sam3_hyperet.hyperbolic.poincare.mobius_add"' in page


def test_formulas_are_typeset_when_the_site_is_built(site):
    page = text_of(site / "mathematics.html")
    assert page.count("<math ") > 60
    assert "arithmatex" not in page
    prose = re.sub(r"<math .*?</math>", "", page, flags=re.S)
    assert "\\lVert" not in prose
    assert "$" not in re.sub(r"<(script|style).*?</\1>", "", prose, flags=re.S)


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = Loaded()
        loaded.feed(text_of(page))
        assert not [url for url in loaded.urls if re.match(r"(\w+:)?//", url)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", text_of(sheet)), sheet


def test_files_of_the_repository_are_pages(site):
    assert "sets up .venv" in text_of(site / "index.html")  # the README
    page = text_of(site / "repository" / "configs" / "experiment.html")
    assert "own_data.yaml" in page
    assert "What it is" not in page


def test_the_notebook_is_a_page_with_its_pictures(site):
    page = text_of(site / "notebook.html")
    assert "From a Roboflow export to a dial" in page
    assert "data:image/png;base64," in page
