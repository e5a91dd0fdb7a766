"""What is no regular file, in place of one: opening or reading it would wait or go on for ever."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        before = Path.cwd()
        os.chdir(path.parent)  # a socket's path has at most 108 characters
        try:
            bound.bind(path.name)
        finally:
            os.chdir(before)


SPECIAL = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": _socket,
    "folder": Path.mkdir,
}
"""By what it is, how to make it at a path; an error names it so."""


def replace_by(kind: str, path: Path) -> Path:
    """Put a special file at `path`."""
    path.unlink(missing_ok=True)
    SPECIAL[kind](path)
    return path
