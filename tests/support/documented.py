"""The pages of the documentation, the commands that they show, and their blocks of Python."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")),
    *(
        page
        for folder in ("docs", "tools", "datasets", "benchmarks")
        for page in sorted(REPOSITORY.glob(f"{folder}/*.md"))
    ),
]
_CODE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
_PROGRAM = re.compile(r"(sam3-hyperet|python|make|pip|hf|docker|apptainer|srun|sbatch|git|curl|wget|conda|uv) \S")
_TREE = re.compile("[├└│]")


@dataclass(frozen=True)
class Command:
    """A command in one line without its comment; where it is shown (page:line), and whether a block shows it.

    With an ellipsis, a name in angle brackets or a choice (a|b) it is a form of commands, which cannot be run.
    """

    text: str
    places: tuple[str, ...]
    in_block: bool

    @property
    def is_form(self) -> bool:
        return any(sign in self.text.replace("||", "") for sign in "…<|")

    def __str__(self) -> str:
        return f"{self.places[0]}: {self.text}"


@dataclass(frozen=True)
class PythonBlock:
    """A fenced block of Python; place: page:line of its first line."""

    page: str
    place: str
    code: str


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def code_of(page: Path) -> list[str]:
    """Code in a line of text, without what blocks hold."""
    return [code for _, code in _inline(_without_fences(text_of(page)))]


def shown_commands() -> list[Command]:
    """Every command of every page, each once, in the order of the pages.

    That is each line of an indented block that is no drawing of a folder, and code in a line of text that begins with
    a program.
    """
    found: dict[str, list[str]] = {}
    in_blocks: set[str] = set()
    for page in PAGES:
        text = _without_fences(text_of(page))
        lines = [(line, shown, True) for line, shown in _indented(text)]
        lines += [(line, code, False) for line, code in _inline(text) if _PROGRAM.match(code)]
        for line, shown, in_block in sorted(lines):
            command = re.sub(r"\s+#.*", "", shown)
            found.setdefault(command, []).append(f"{name_of(page)}:{line}")
            in_blocks |= {command} if in_block else set()
    return [Command(text, tuple(places), text in in_blocks) for text, places in found.items()]


def fenced_blocks(page: Path) -> list[tuple[str, int, str]]:
    """Language, number of the first line, and content of each fenced block."""
    text = text_of(page)
    return [(one[2], text.count("\n", 0, one.start()) + 2, textwrap.dedent(one[3])) for one in _FENCE.finditer(text)]


def python_blocks() -> list[PythonBlock]:
    """Every block of Python of every page."""
    return [
        PythonBlock(name_of(page), f"{name_of(page)}:{line}", code)
        for page in PAGES
        for language, line, code in fenced_blocks(page)
        if language == "python"
    ]


def _without_fences(text: str) -> str:
    """A page's text with blank lines in place of fenced blocks, so that lines keep their numbers."""
    return _FENCE.sub(lambda found: re.sub(r"[^\n]+", "", found[0]), text)


def _inline(text: str) -> Iterator[tuple[int, str]]:
    """Number of a line, and code in it that may go on in the next."""
    for found in _CODE.finditer(text):
        yield text.count("\n", 0, found.start()) + 1, " ".join(found[1].split())


def _indented(text: str) -> Iterator[tuple[int, str]]:
    """Number and content of each line of the indented blocks, lines that end with a backslash joined to the next."""
    for block in re.finditer(r"(?<=\n\n)(?: {4}.*\n)+(?:\n+(?: {4}.*\n)+)*", text):
        if _TREE.search(block[0]):
            continue
        number = text.count("\n", 0, block.start()) + 1
        for line in re.sub(r"\\\n\s*", lambda found: "\0", block[0]).splitlines():
            if line.strip():
                yield number, line.replace("\0", "").strip()
            number += 1 + line.count("\0")
