"""Help of a tool: what it does, the choices of its groups, its keys, and the options of a section."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

from sam3_hyperet.options import defaults, meanings

_WIDTH = 110


def help_of_tool(
    usage: str, file: Path, choices: Mapping[str, tuple[str, list[str]]], sections: Mapping[str, list[str]]
) -> str:
    """The help of a tool.

    Args:
        usage: how the tool is called.
        file: its configuration; the comments at its beginning are the summary, those behind keys explain them.
        choices: the choice that a group has by default, and all it can have.
        sections: names of the options by section.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    summary = [line.removeprefix("#").strip() for line in lines[: _first_without(lines, "#")]]
    keys = [line for line in _below_defaults(lines) if _is_key(line) and line.partition(":")[0] not in sections]
    parts = ["\n".join(summary), f"usage: {usage} key=value …"]
    if choices:
        parts.append(
            _listed(
                "choices, the default first; or a file of your own: data=own.yaml",
                ((n, " | ".join(_first(*c))) for n, c in choices.items()),
            )
        )
    if keys:
        parts.append("\n".join(["keys, with their defaults:", *(f"  {line}" for line in keys)]))
    if sections:
        title = f"sections, set as section.key=value ({usage} --help SECTION explains one)"
        parts.append(_listed(title, ((name, " ".join(options)) for name, options in sections.items())))
    return "\n\n".join(parts)


def help_of_section(name: str, cls: type, choices: list[str]) -> str:
    """Every option of a section: its default and what it means."""
    explained = meanings(cls)
    described = ((f"{name}.{key}={_shown(value)}", explained.get(key, "")) for key, value in defaults(cls).items())
    own = f"{name}= {' | '.join(choices)} | own.yaml\n\n" if choices else ""
    return own + "\n".join(
        textwrap.fill(f"{key}   {text}".rstrip(), _WIDTH, initial_indent="  ", subsequent_indent=" " * 8)
        for key, text in described
    )


def help_of_files(group: str, files: list[Path]) -> str:
    """The choices of a group, each with what its file says."""
    return "\n\n".join(
        f"{group}={file.stem}\n{textwrap.indent(file.read_text(encoding='utf-8'), '  ')}" for file in files
    )


def _first(default: str, names: list[str]) -> list[str]:
    return [default, *(name for name in names if name != default)]


def _shown(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, default=str)


def _listed(title: str, rows: Iterable[tuple[str, str]]) -> str:
    indent = " " * 14
    filled = (
        textwrap.fill(text, _WIDTH, initial_indent=f"  {name:<12}", subsequent_indent=indent, break_on_hyphens=False)
        for name, text in rows
    )
    return "\n".join([f"{title}:", *filled])


def _first_without(lines: list[str], prefix: str) -> int:
    return next((number for number, line in enumerate(lines) if not line.startswith(prefix)), len(lines))


def _is_key(line: str) -> bool:
    """Whether a line has a key that is not nested, or goes on with the comment behind one."""
    return line[:1] not in ("", " ", "#", "}") or (line[:1] == " " and line.lstrip().startswith("#"))


def _below_defaults(lines: list[str]) -> list[str]:
    if "defaults:" not in lines:
        return lines
    rest = lines[lines.index("defaults:") + 1 :]
    return rest[_first_without(rest, " ") :]
