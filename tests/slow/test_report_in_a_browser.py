"""The report in a real browser: at three widths, in the dark, on paper."""

from __future__ import annotations

import re

import pytest
from browser import chromium
from example_reports import full, three_models

from sam3_hyperet.report.report import write_report

WIDTHS = (400, 768, 1100)
BEYOND = """() => [...document.querySelectorAll("body *")].filter((one) => {
    const box = one.getBoundingClientRect(), scrolled = one.parentElement.closest(".wide, pre, svg");
    return one.checkVisibility() && !scrolled && box.width > 0 && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map((one) => `${one.tagName}.${one.className}: ${one.getBoundingClientRect().right}`)"""
"""JavaScript: visible elements that reach beyond the screen, but for those in a box that scrolls."""
HEIGHT = "() => document.documentElement.scrollHeight"


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    reports = {"full": full(), "three": three_models()}
    return {name: write_report(one, folder / f"{name}.html").as_uri() for name, one in reports.items()}


@pytest.fixture
def opened(browser, addresses):
    """A page of the report by name, in a window of a width."""
    context = browser.new_context()
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("requestfailed", lambda request: failures.append(request.url))

    def at(name: str, width: int):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(addresses[name])
        return page

    yield at
    context.close()
    assert failures == []


@pytest.mark.parametrize("name", ["full", "three"])
def test_nothing_is_wider_than_the_screen(opened, name):
    for width in WIDTHS:
        page = opened(name, width)
        if width == 1100:
            assert page.evaluate(HEIGHT) <= 8000
        for is_open in (False, True):
            page.evaluate("(open) => document.querySelectorAll('details').forEach((one) => one.open = open)", is_open)
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width
            assert page.evaluate(BEYOND) == []


def test_the_answer_the_pictures_and_what_was_done_are_above_the_fold(opened):
    for name in ("full", "three"):
        page = opened(name, 1100)
        bottoms = "(names) => names.map((one) => document.querySelector(one).getBoundingClientRect().bottom)"
        assert max(page.evaluate(bottoms, [".headline", ".strip", ".facts"])) <= 900
        lines = "() => [...document.querySelectorAll('.headline dd')].map((one) => one.getClientRects()[0].height)"
        heights = page.evaluate(lines)
        assert len(heights) <= 3
        if name == "three":
            assert max(heights) < 1.5 * min(heights)  # a line each
        page.click("nav a:last-child")
        assert page.evaluate("() => document.querySelector(location.hash).checkVisibility()")  # it unfolds


def test_the_first_column_stays_where_a_table_scrolls(opened):
    page = opened("three", 400)
    cells = """() => { const table = document.querySelector('#results ~ .wide'); table.scrollLeft = 200;
        const row = table.querySelector('tbody tr:not(.name)');
        return [table.scrollLeft, ...[...row.children].slice(0, 3).map((one) => one.getBoundingClientRect().left)]; }"""
    scrolled, first, _, third = page.evaluate(cells)
    assert scrolled == 200
    assert 0 <= first <= 20
    assert third < 150  # it went to the left


def test_dark_and_on_paper(opened):
    page = opened("full", 768)
    colors = "() => ['backgroundColor', 'color'].map((one) => getComputedStyle(document.body)[one])"

    def brightness() -> list[float]:
        return [sum(map(int, re.findall(r"\d+", color)[:3])) / 765 for color in page.evaluate(colors)]

    page.emulate_media(color_scheme="dark")
    background, ink = brightness()
    assert background < 0.15 < 0.85 < ink
    page.emulate_media(color_scheme="dark", media="print")
    background, ink = brightness()
    assert ink < 0.15
    folded = "() => [...document.querySelectorAll('details:not([open])')].filter((one) => one.checkVisibility()).length"
    assert page.evaluate(folded) == 0
    pdf = page.pdf(format="A4", print_background=False)
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8
