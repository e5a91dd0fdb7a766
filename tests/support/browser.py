"""A headless Chromium for tests of pages, where one can be had."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

TOO_WIDE = """() => [...document.querySelectorAll("body *")].filter((element) => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && (box.right > innerWidth + 0.5 || box.left < -0.5) && element.checkVisibility();
}).map((element) => `${element.tagName} ${element.id} ${element.className}`)"""
"""JavaScript: the visible elements that reach beyond the screen."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A Playwright browser: that of `CHROMIUM`, or of the path. Skips the test where there is none."""
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: no {', '.join(NAMES)} on the path (set CHROMIUM, or install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()
