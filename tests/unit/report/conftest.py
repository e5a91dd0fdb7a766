"""Every kind of plot is drawn here."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def plots(drawn: None) -> None:
    """Drawn in full, as Matplotlib does."""
