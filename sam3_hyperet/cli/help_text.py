"""Help of a tool: what it does, the choices of its groups, its keys, and the options of a section."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from itertools import dropwhile, takewhile
from pathlib import Path

from sam3_hyperet.options import defaults, meanings

_WIDTH = 110


def help_of_tool(
    called: str, word: str, file: Path, choices: Mapping[str, list[str]], sections: Mapping[str, list[str]]
) -> str:
    """The help of a tool that is `called` so, with a first `word` for what it takes without a name, or "".

    The comments at the beginning of its configuration, `file`, are the summary; those behind keys explain them. Each
    group's default comes first in its `choices`; `sections` have the names of their options.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    summary = [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines)]
    if "defaults:" in lines:
        below = lines[lines.index("defaults:") + 1 :]
        lines = list(dropwhile(lambda line: line.startswith(" "), below))
    keys = [f"  {line}" for line in lines if _is_key(line) and line.partition(":")[0] not in sections]
    title = f"choices, the default first{'; or a file of your own: data=own.yaml' if 'data' in choices else ''}"
    parts = [
        "\n".join(summary),
        f"usage: {' '.join(filter(None, (called, word)))} key=value …",
        _listed(title, choices, " | "),
    ]
    parts.append("\n".join(["keys, with their defaults:", *keys]) if keys else "")
    parts.append(_listed(f"sections, set as section.key=value ({called} --help SECTION explains one)", sections, " "))
    return "\n\n".join(filter(None, parts))


def help_of_section(name: str, cls: type, values: Mapping[str, object], choices: list[str]) -> str:
    """Every option of a section: its value where nothing is given, and what it means."""
    own = f"{name}= {' | '.join(choices)} | own.yaml\n\n" if choices else ""
    lines = (f"{name}.{key}={shown}   {meaning}" for key, shown, meaning in option_rows(cls, values))
    filler = textwrap.TextWrapper(_WIDTH, initial_indent="  ", subsequent_indent=" " * 8)
    return own + "\n".join(filler.fill(line.rstrip()) for line in lines)


def option_rows(cls: type, values: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """Each option of a section: its name, its value as one would write it, and what it means, with YAML's null."""
    explained = meanings(cls)
    for key, default in defaults(cls).items():
        value = values.get(key, default)
        shown = value if isinstance(value, str) and value else json.dumps(value, default=str)
        yield key, shown, re.sub(r"\bNone\b", "null", explained.get(key, ""))


def help_of_files(group: str, files: list[Path]) -> str:
    """The choices of a group, each with what its file says."""
    texts = {file.stem: textwrap.indent(file.read_text(encoding="utf-8"), "  ") for file in files}
    return "\n\n".join(f"{group}={name}\n{text}" for name, text in texts.items())


def _listed(title: str, rows: Mapping[str, list[str]], separator: str) -> str:
    filler = textwrap.TextWrapper(_WIDTH, subsequent_indent=" " * 14, break_on_hyphens=False)
    lines = (filler.fill(f"  {name:<12}{separator.join(words)}") for name, words in rows.items())
    return "\n".join([f"{title}:", *lines]) if rows else ""


def _is_key(line: str) -> bool:
    """Whether a line has a key that is not nested, or goes on with the comment behind one."""
    return line[:1] not in ("", " ", "#", "}") or (line[:1] == " " and line.lstrip().startswith("#"))
