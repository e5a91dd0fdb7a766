"""Reports without what Matplotlib draws, which is up to half of the time that they take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pytest


@contextmanager
def nothing_drawn() -> Iterator[dict[str, Any]]:
    """Every plot of a report is an empty SVG; yields what draws, by its name in `plots`."""
    from sam3_hyperet.report.figures import plots

    draws = {"Figure": plots.Figure, "_fit": plots._fit}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "Figure", _Figure)
        patch.setattr(plots, "_fit", lambda figure: None)
        yield draws


@contextmanager
def drawn_again(draws: dict[str, Any]) -> Iterator[None]:
    """The plots are drawn for a while."""
    from sam3_hyperet.report.figures import plots

    with pytest.MonkeyPatch.context() as patch:
        for name, real in draws.items():
            patch.setattr(plots, name, real)
        yield


class _Anything:
    """Every attribute, item and result of it is itself; it has no elements."""

    def __getattr__(self, name: str) -> _Anything:
        return self

    def __call__(self, *arguments: object, **options: object) -> _Anything:
        return self

    def __getitem__(self, key: object) -> _Anything:
        return self

    def __iter__(self) -> Iterator[_Anything]:
        return iter(())


class _Figure(_Anything):
    """A figure whose axes, ticks and lines are not made, either."""

    def __init__(self, **options: object) -> None: ...

    def add_subplot(self) -> _Anything:
        return _Anything()

    def savefig(self, file: IO[str], **options: object) -> None:
        file.write("<svg></svg>")
