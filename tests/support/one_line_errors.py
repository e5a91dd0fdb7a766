"""Errors of the user at a tool: one line, an exit status, and nothing written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sam3_hyperet.cli.command import exit_cleanly


def error_of(
    main: Callable[[list[str]], object], arguments: Sequence[str], capsys, unwritten: Path | None = None
) -> tuple[str, str]:
    """What a tool says on standard error and output, having failed; an `unwritten` path is not there then."""
    with pytest.raises(SystemExit) as exit_:
        exit_cleanly(main)(list(arguments))
    assert exit_.value.code == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.out
    assert unwritten is None or not unwritten.exists()
    return said.err, said.out
