"""The demo's page in a real browser: a picture, phrases, boxes and the dial; at a desk and on a phone."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from browser import TOO_WIDE, chromium
from PIL import Image
from rich.console import Console

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.demo.samples import read_picture
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.adapter_file import load_adapter
from sam3_hyperet.modeling.build import build_model, resolution
from sam3_hyperet.modeling.config import packaged_adapter
from sam3_hyperet.modeling.dial import set_dial
from sam3_hyperet.scenes.dataset import scene

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # what the server's own threads warn of is not ours
]
WAIT = 60_000  # milliseconds


@pytest.fixture(scope="module")
def address():
    pytest.importorskip("gradio")
    from sam3_hyperet.cli.demo import serving

    _, config = parse_command("demo", ["port=0", "prompts=building"])
    with serving(config, Console(quiet=True)) as address:
        yield address.rstrip("/")


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser, address):
    """A function from a width to the page, which has asked nothing of any other machine in the end."""
    outside, faults = [], []

    def open_page(width: int):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(WAIT)
        own = (f"{address}/", "data:", "blob:")
        page.on("request", lambda request: request.url.startswith(own) or outside.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)
        page.wait_for_selector(".hy-scores tbody tr")
        return page

    yield open_page
    assert outside == []
    assert faults == []


def scores(page, model: str) -> dict[str, list[float]]:
    """Presence, and the scores that the page lists, of each phrase."""
    rows = page.locator(".hy-scores tbody tr")
    found = {}
    for row in rows.all():
        cell = row.locator(f'td[data-model="{model}"]')
        listed = [float(one.get_attribute("data-score")) for one in cell.locator("b").all()]
        found[row.get_attribute("data-phrase")] = [float(cell.get_attribute("data-presence")), *listed]
    return found


def set_to(page, dial: float) -> None:
    number = page.locator("#hy-dial input[type=number]")
    number.fill(f"{dial:g}")
    number.press("Enter")
    page.get_by_role("columnheader", name=f"Adapted, dial {dial:g}", exact=True).wait_for()


def upload(page, file: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Upload a picture").click()
    chooser.value.set_files(file)


@functools.cache
def expected(picture: Path, phrases: tuple[str, ...], dial: float) -> dict[str, list[float]]:
    model = load_adapter(build_model("tiny_levels"), packaged_adapter("tiny_levels"))
    set_dial(model, dial)
    predictor, image = Predictor(model, phrases, resolution(model)), read_picture(picture).image
    found = {}
    for phrase, prediction in zip(phrases, predictor.predict(image), strict=True):
        best = prediction.detections(image.height, image.width, None, score_threshold=0.1)
        found[phrase] = [prediction.presence, *best.scores.tolist()[:12]]
    return found


def assert_same(found: dict[str, list[float]], wanted: dict[str, list[float]]) -> None:
    assert found.keys() == wanted.keys()
    for phrase, values in wanted.items():
        assert found[phrase] == pytest.approx(values, abs=1e-6), phrase


def test_the_page_at_a_desk(opened, tmp_path):
    page = opened(1280)
    file = tmp_path / "street.png"
    Image.fromarray(scene(2, "val", 19, 384)[0]).save(file)
    upload(page, file)
    page.get_by_text("street.png, 384 × 384").wait_for()
    typed = page.locator("#hy-phrases input")
    typed.fill("roof")
    typed.press("Enter")
    page.wait_for_selector('tr[data-phrase="roof"]')
    phrases = ("building", "roof")
    assert_same(scores(page, "adapted"), expected(file, phrases, 1.0))
    set_to(page, 0.0)
    of_base = expected(file, phrases, 0.0)
    assert_same(scores(page, "adapted"), of_base)
    assert_same(scores(page, "base"), of_base)
    set_to(page, 1.0)
    assert_same(scores(page, "adapted"), expected(file, phrases, 1.0))
    assert scores(page, "adapted")["roof"][0] > 0.5 > scores(page, "base")["roof"][0]
    page.screenshot(path=tmp_path / "desk.png", full_page=True)

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    upload(page, broken)
    alert = page.get_by_role("alert").filter(has_text="broken.png: not a readable image")
    alert.wait_for()
    assert page.locator(".hy-scores tbody tr").count() == 2  # the results stay as they were

    page.get_by_text("Box exemplars").click()
    page.get_by_label("Draw boxes on the picture").check()
    stage = page.locator(".hy-drawing")
    stage.scroll_into_view_if_needed()
    area = stage.locator("svg").bounding_box()
    page.mouse.move(area["x"] + area["width"] / 4, area["y"] + area["height"] / 4)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2, steps=3)
    page.mouse.up()
    page.get_by_text("1 box", exact=True).wait_for()
    assert not alert.is_visible()
    name, _, numbers = page.locator("#hy-boxes textarea").input_value().partition(": ")
    assert name == "building"
    np.testing.assert_allclose([float(one) for one in numbers.split(", ")], 96, atol=2)

    with page.expect_download() as download:
        page.get_by_role("button", name="Masks as COCO JSON").click()
    content = json.loads(Path(download.value.path()).read_text())
    assert [one["name"] for one in content["categories"]] == list(phrases)
    assert content["images"][0]["file_name"] == "street.png"
    assert content["annotations"][0]["score"] >= content["info"]["score_threshold"]
    with page.expect_download() as download:
        page.get_by_role("button", name="Masks as PNG").click()
    assert download.value.suggested_filename.endswith(".zip")


def test_the_page_on_a_phone(opened, tmp_path):
    page = opened(400)
    for view, shown in (("Masks", ".hy-scores"), ("Radius map", ".hy-radius"), ("Concept tree", ".hy-tree")):
        page.get_by_label(view).check()
        page.wait_for_selector(shown)
        assert page.evaluate(TOO_WIDE) == []
        page.screenshot(path=tmp_path / f"phone {view}.png", full_page=True)
    page.get_by_text("pictures to begin with").click()
    page.get_by_label("Thumbnail 3 of").click()
    page.get_by_text("scene 4, 384 × 384").wait_for()
    page.get_by_text("Box exemplars").click()
    assert page.evaluate(TOO_WIDE) == []


def test_what_is_typed_is_text(opened):
    page = opened(800)
    typed = page.locator("#hy-phrases input")
    for text in ("<b>car</b>", "{{car}} ${1 + 1}"):
        typed.fill(text)
        typed.press("Enter")
        page.get_by_role("rowheader", name=text).wait_for()
