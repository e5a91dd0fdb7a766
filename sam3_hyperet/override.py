"""Options as arguments of a command line, as Hydra reads them, or YAML where it cannot."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")
_NUMBER = r"[+-]?(nan|inf(inity)?|[\d_]*\.?[\d_]+\.?(e[+-]?[\d_]+)?)"
_NO_TEXT = re.compile(rf"null|true|false|{_NUMBER}", re.IGNORECASE)
_KEY = re.compile(r"(?! )[\w /+.$%*@?|\\()\[\]{}:=,-]+(?<! )", re.ASCII)  # that Hydra can read
_SPECIAL = re.compile(r"([\\()\[\]{}:=,])")  # in a key, which cannot be quoted


def override(key: str, value: object) -> str:
    """`key=value`, quoted for a shell."""
    is_readable = all(_KEY.fullmatch(one) and not _NO_TEXT.fullmatch(one) for one in _keys(value))
    return shlex.quote(f"{key}={_text(value) if is_readable else json.dumps(value, ensure_ascii=False)}")


def _keys(value: object) -> Iterator[str]:
    """The keys of all mappings in a value."""
    if isinstance(value, Mapping):
        yield from map(str, value)
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _keys(one)


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and not _NO_TEXT.fullmatch(value) else f'"{_quoted(value)}"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(key))}: {_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_text, value)) + "]"
    return repr(value)


def _key(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def _quoted(text: str) -> str:
    """The inside of double quotes: backslashes count only in front of a quote."""
    end = text[len(text.rstrip("\\")) :]
    return re.sub(r'(\\*)"', r'\1\1\\"', text) + end
