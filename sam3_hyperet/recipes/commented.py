"""YAML for people: a comment behind or above each key, and values that the configuration reads back as they were."""

import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from sam3_hyperet.recipes.choices import Choice

_WIDTH = 110
_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*( [\w./-]+)*")
_WORDS = {"true", "false", "null", "none", "yes", "no", "on", "off", "nan", "inf", "y", "n"}


class _Quoting(yaml.SafeDumper):  # type: ignore[misc]  # yaml is untyped
    """Quotes every text that some YAML reader might take for something else."""


def _text(dumper: _Quoting, value: str) -> yaml.ScalarNode:
    is_plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, None if is_plain else '"')


_Quoting.add_representer(str, _text)


def document(head: Iterable[str], choices: Iterable[Choice]) -> str:
    """The file: comments at its head, then the choices in their order, those of one section together."""
    lines = [line for text in head for line in _comment(text)]
    sections: dict[str, list[Choice]] = {}
    for choice in choices:
        sections.setdefault(choice.key.partition(".")[0], []).append(choice)
    was_nested = True
    for section, members in sections.items():
        is_nested = members[0].key != section
        lines += [""] if is_nested or was_nested else []
        lines += [f"{section}:"] if is_nested else []
        was_nested = is_nested
        for choice in members:
            indent = "  " if is_nested else ""
            lines += _entry(choice.key.rpartition(".")[2], choice.value, choice.reason, indent)
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str = "") -> list[str]:
    filler = textwrap.TextWrapper(_WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
    return filler.wrap(text) if len(text) > _WIDTH and not text.startswith(" ") else [f"{indent}# {text}".rstrip()]


def _entry(key: str, value: object, reason: str, indent: str) -> list[str]:
    """A key with its value, the comment behind it where it fits, else above; a mapping below its key."""
    if isinstance(value, Mapping):
        entries = (f"{indent}  {_flow(name)}: {_flow(_plain(inner))}" for name, inner in value.items())
        return [f"{indent}{key}: # {reason}", *entries]
    line = f"{indent}{key}: {_flow(_plain(value))}"
    with_reason = f"{line} # {reason}"
    return [with_reason] if len(with_reason) <= _WIDTH else [*_comment(reason, indent), line]


def _flow(value: Any) -> str:
    """A value in one line."""
    dumped: str = yaml.dump([value], Dumper=_Quoting, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return dumped.strip()[1:-1]


def _plain(value: Any) -> Any:
    """The same of lists and texts in which "${" stands for itself: OmegaConf reads a reference in it."""
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
