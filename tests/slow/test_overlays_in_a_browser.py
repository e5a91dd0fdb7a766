"""The page of `predict`'s overlays in a real browser, at a desk and on a phone."""

from __future__ import annotations

import numpy as np
import pytest
from browser import TOO_WIDE, chromium
from PIL import Image

from sam3_hyperet.cli.predict_overlays import Overlays, write_masks
from sam3_hyperet.masks import encode_masks
from sam3_hyperet.overlays.folder_page import Legend

PHRASES = ("wheel", "a quite long phrase of a vehicle that stands at the side of a road")
PICTURES = """() => [...document.images].map((one) => {
    const box = one.parentElement.getBoundingClientRect();
    return [one.complete && one.naturalWidth > 0, box.width, box.height];
})"""
"""JavaScript: of each picture, whether it has loaded, and the size of its frame."""


def record(height: int, width: int, *counts: int) -> dict:
    """An image of predictions.json, with so many detections of each phrase."""
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 1
    detection = {"score": 0.9, "box_xyxy": [0, 0, 9, 9], "segmentation": encode_masks(mask[None])[0]}
    prompts = [
        {"prompt": phrase, "presence": 0.8, "detections": [dict(detection) for _ in range(count)]}
        for phrase, count in zip(PHRASES, counts, strict=True)
    ]
    return {"width": width, "height": height, "prompts": prompts}


@pytest.fixture
def page_address(tmp_path):
    """Two images, a small one and a wide one with an awkward name, base beside adapted, with masks."""
    overlays = Overlays(tmp_path, {one: i for i, one in enumerate(PHRASES)}, ["base", "adapted, dial 0.5"], 2048, 0.5)
    drawn, legend = [], Legend()
    for name, (width, height) in {"a #1 ü.png": (60, 80), "b.png": (900, 300)}.items():
        found = record(height, width, 2, 1)
        assert write_masks(tmp_path, name.removesuffix(".png"), found) == 3
        image = Image.new("RGB", (width, height), "grey")
        drawn.append(overlays.draw(name, name, image, [record(height, width, 1, 0), found]))
        legend.add(drawn[-1].picture.found)
    facts = {"adapter": f"/home/somebody/{'a-long-folder/' * 9}adapter.safetensors", "base": "tiny"}
    overlays.write_page("2 images, 2 phrases", facts, drawn, legend, ["predictions.json", "masks/"])
    return (tmp_path / "index.html").as_uri()


def test_the_page_fits_the_screen_and_loads_its_own_pictures_alone(page_address):
    with chromium() as browser:
        page = browser.new_page()
        asked: list[str] = []
        failed: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("requestfailed", lambda request: failed.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        for width in (1100, 400):
            page.set_viewport_size({"width": width, "height": 20_000})  # lazy pictures load, too
            page.goto(page_address)
            page.wait_for_load_state("networkidle")
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width
            frames = "a.frame img"  # pictures are shown through a frame, which hides what is beside a panel
            wide = [one for one in page.evaluate(TOO_WIDE) if not one.startswith("IMG")]
            assert wide == []
            shown = page.evaluate(PICTURES)
            assert len(shown) == page.locator(frames).count() == 4
            assert all(loaded and w > 50 and h > 50 for loaded, w, h in shown)
        page.click("a.frame >> nth=0")
        page.wait_for_load_state()
        assert page.url.endswith(".png")
        assert failed == []
        folder = page_address.rpartition("/")[0]
        assert all(one.startswith(folder) for one in asked)
