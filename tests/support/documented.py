"""The pages of the documentation and the commands in them."""

from __future__ import annotations

import re
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
_OURS = re.compile(r"(sam3-hyperet \S|python (tools|datasets|examples)/\w+\.py|make \w)")
_OTHERS = re.compile(r"(pip|docker|apptainer|srun) \w")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_of(page: Path) -> list[str]:
    """Code in a line of text, without what blocks hold."""
    prose = re.sub(r"```.*?```", "", text_of(page), flags=re.S)
    return [" ".join(code.split()) for code in _CODE.findall(prose)]


def commands_of(page: Path) -> list[str]:
    """Commands of this project, of blocks and of lines; with an ellipsis or a choice (a|b) it is a form, no command."""
    return [command for command in (*_blocks(page), *code_of(page)) if _OURS.match(command) and not _is_form(command)]


def commands_of_others(page: Path) -> list[str]:
    """Commands of other programs, in blocks."""
    return [line for line in _blocks(page) if _OTHERS.match(line)]


def _blocks(page: Path) -> list[str]:
    lines = re.sub(r"\\\n\s*", "", text_of(page)).splitlines()
    return [line.strip() for line in lines if line.startswith("    ")]


def _is_form(command: str) -> bool:
    return "…" in command or "|" in command.replace("||", "")


def _to_run(page: Path) -> list[str]:
    """Commands of blocks, and those in a line of text that have arguments: without, a tool is only named."""
    blocks = _blocks(page)
    return [one for one in commands_of(page) if one in blocks or len(one.split()) > 2]


COMMANDS = sorted({command for page in PAGES for command in commands_of(page)})
"""Every command of this project."""
RUNNABLE = sorted({re.sub(r"\s+#.*", "", command) for page in PAGES for command in _to_run(page)})
"""Those that can be run as they are, without comments."""
