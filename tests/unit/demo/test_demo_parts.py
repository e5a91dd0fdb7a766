"""The demo's parts without a model: prompts as they are entered, the concept tree, samples, files and HTML."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from sam3_hyperet.demo import rendering, samples
from sam3_hyperet.demo.concepts import Concepts, coverage
from sam3_hyperet.demo.masks_file import coco_json, png_zip
from sam3_hyperet.demo.models import Found, Picture
from sam3_hyperet.demo.prompts import MAX_PROMPTS, Ask, DrawnBox, asks_of, read_boxes
from sam3_hyperet.demo.samples import MOST, Samples
from sam3_hyperet.demo.session import Answer
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.masks import decode, encode_masks

SIZE = 24, 18


@pytest.fixture
def picture():
    return Picture("a picture.png", Image.new("RGB", SIZE, "teal"))


def found(*scores: float, size: tuple[int, int] = (720, 540)) -> Found:
    """Detections side by side, each a sixth of the picture."""
    masks = np.zeros((len(scores), size[1], size[0]), bool)
    for k, mask in enumerate(masks):
        mask[:, k * size[0] // 6 : (k + 1) * size[0] // 6] = True
    radii = np.arange(16.0).reshape(4, 4)
    return Found(0.75, scores, np.zeros((len(scores), 4)), tuple(encode_masks(masks)), radii)


def answer(*phrases: str) -> Answer:
    asked = tuple(map(Ask, phrases))
    base, adapted = (tuple(found(*scores) for _ in phrases) for scores in ((0.4,), (0.9, 0.6, 0.2)))
    return Answer(asked, base, adapted, "adapted", 0.5, 2, 0.1)


def test_a_picture_is_resized_once(picture, monkeypatch):
    assert picture.shown.shape == (540, 720, 3)
    monkeypatch.setattr(Image.Image, "resize", lambda *_: pytest.fail("resized again"))
    assert rendering.masks_html(picture, answer("car"), 0.5)
    assert rendering.stage_html(picture, [], drawing=False)


def test_boxes_are_read_and_written():
    text = "wheel: 1, 2, 3, 4\n\n- wheel: 5,6,7,8.5\n9, 8, 7, 6"
    boxes = read_boxes(text)
    assert boxes == [
        DrawnBox("wheel", (1, 2, 3, 4), True),
        DrawnBox("wheel", (5, 6, 7, 8.5), False),
        DrawnBox("", (9, 8, 7, 6), True),
    ]
    assert read_boxes("\n".join(map(str, boxes))) == boxes
    wheel, car, alone = asks_of(["wheel", " car ", "wheel"], boxes, (20, 20))
    assert wheel.exemplars.positive == (True, False)
    assert (car, alone.text, alone.label) == (Ask("car"), "visual", "boxes alone")


@pytest.mark.parametrize("line", ["wheel", "wheel: 1, 2, 3", "wheel: 1, 2, 3, x", "1 2 3 4"])
def test_a_line_that_is_no_box_is_an_error(line):
    with pytest.raises(ConfigError, match=r"line 2 of the boxes is .*; expected a line for each box"):
        read_boxes(f"1, 2, 3, 4\n{line}")


def test_prompts_that_cannot_be_are_errors():
    with pytest.raises(ConfigError, match="lies mostly outside its image of 24 × 18 pixels"):
        asks_of([], read_boxes("100, 100, 5, 5"), SIZE)
    with pytest.raises(ConfigError, match=f"{MAX_PROMPTS + 1} prompts; expected at most"):
        asks_of([f"thing {k}" for k in range(MAX_PROMPTS + 1)], [], SIZE)


def test_the_tree_of_the_scenes():
    concepts = Concepts.of_scenes()
    assert list(concepts.by_level()) == ["group", "object", "part"]
    shown = [(row.depth, row.name) for row in concepts.rows]
    assert shown[:4] == [(0, "vehicle"), (1, "car"), (2, "wheel"), (2, "window")]
    assert shown.count((2, "wheel")) == 2
    assert all(concepts.names[row.number] == row.name for row in concepts.rows)
    covered = coverage([found(0.9, 0.6, 0.2), found(0.9)], 0.5, (720, 540))
    assert (covered.count, covered.fraction) == (3, pytest.approx(1 / 3))


def test_a_tree_from_a_file(tmp_path):
    file = tmp_path / "concepts.json"
    file.write_text('[{"id": 1, "name": "bike"}, {"id": 2, "name": "spoke", "granularity": "part", "parents": [1]}]')
    assert [(row.depth, row.name, row.level) for row in Concepts.read(file).rows] == [
        (0, "bike", "object"),
        (1, "spoke", "part"),
    ]
    file.write_text("[]")
    with pytest.raises(DataError, match="it has 0 concepts, expected from 1 to"):
        Concepts.read(file)


def test_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "_SIDE", 200)
    monkeypatch.setattr(samples, "_SCENES", (2, 3))
    scenes = Samples()
    assert (len(scenes), len(scenes.thumbnails)) == (2, 2)
    assert scenes[0].image.size == (200, 200)
    assert scenes.thumbnails[0][0].size == (192, 192)
    files = [tmp_path / f"{k}.png" for k in range(MOST + 1)]
    for k, file in enumerate(files):
        Image.new("RGB", (10 + k, 8)).save(file)
    offered = Samples(files)
    assert len(offered) == MOST
    assert (offered[1].name, offered[1].image.size) == ("1.png", (11, 8))
    files[3].write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.png: not a readable image"):
        Samples(files)


def test_masks_as_a_coco_file(picture):
    asked, shown = [Ask("wheel"), Ask("")], [found(0.9, 0.2, size=SIZE), found(0.6, size=SIZE)]
    content = json.loads(coco_json(picture, asked, shown, 0.5, {"dial": 0.5}))
    assert content["images"] == [{"id": 1, "file_name": "a picture.png", "width": 24, "height": 18}]
    assert [one["name"] for one in content["categories"]] == ["wheel", "boxes alone"]
    assert [(one["category_id"], one["score"], one["area"]) for one in content["annotations"]] == [
        (1, 0.9, 72),
        (2, 0.6, 72),
    ]
    assert content["annotations"][0]["bbox"] == [0, 0, 4, 18]
    assert decode(content["annotations"][0]["segmentation"]).sum() == 72


def test_masks_as_png(picture):
    asked, shown = [Ask("front wheel/left"), Ask("")], [found(0.9, 0.7, size=SIZE), found(0.6, size=SIZE)]
    with zipfile.ZipFile(io.BytesIO(png_zip(asked, shown, 0.65))) as archive:
        assert archive.namelist() == ["1_front_wheel_left_1_0.90.png", "1_front_wheel_left_2_0.70.png"]
        mask = np.asarray(Image.open(io.BytesIO(archive.read("1_front_wheel_left_1_0.90.png"))))
    assert mask.shape == (18, 24)
    assert mask.astype(bool).sum() == 72


def test_html_of_answers(picture):
    html = rendering.masks_html(picture, answer("wheel"), 0.5)
    assert html.count("data:image/jpeg;base64,") == 2
    assert '<b data-score="0.9">0.90</b>' in html
    assert '<b data-score="0.2" class="hy-below">0.20</b>' in html
    assert "Adapted, dial 0.5" in html
    maps = rendering.radius_html(picture, answer(*map(str, range(8))))
    assert maps.count("<section") == 6
    assert "2 more phrases are not drawn" in maps
    concepts = Concepts.of_scenes()
    tree = rendering.tree_html(picture, answer(*concepts.names), concepts, 0.5)
    assert tree.count("<img") == 6
    assert tree.count("<tr data-depth") == len(concepts.rows)
    stage = rendering.stage_html(picture, read_boxes("- 1, 2, 3, 4"), drawing=True)
    assert '<rect class="hy-not" x="1.0" y="2.0" width="3.0" height="4.0"/>' in stage
    assert "hy-drawing" in stage


@pytest.mark.parametrize("text", ["<script>x</script>", "{{value}}", "${1 + 1}"])
def test_what_people_type_is_text(picture, text):
    for html in (rendering.masks_html(picture, answer(text), 0.5), rendering.message_html(text)):
        assert text not in html
        assert not any(mark in html for mark in "{}$")
