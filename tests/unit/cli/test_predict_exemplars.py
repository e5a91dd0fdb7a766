"""`predict exemplars=FILE`: boxes by image name, with and without prompts, and mistakes in one line that names them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from sam3_hyperet.cli.command import exit_cleanly, parse_command
from sam3_hyperet.cli.predict import main
from sam3_hyperet.cli.predict_inputs import Inputs
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.inference.exemplar_file import exemplars_of, read_exemplars
from sam3_hyperet.inference.tiles import Tiling

SIZE = (30, 20)
CAR = {"prompt": "car", "box": [3, 2, 6, 5]}


@pytest.fixture
def pictures(tmp_path):
    for name in ("a/0", "b/0", "b/1"):
        path = tmp_path / "pictures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(len(name)).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def written(tmp_path):
    """A function that writes a file of boxes."""

    def write(content):
        path = tmp_path / "boxes.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_boxes_are_asked_of_their_images_beside_the_common_prompts(pictures, written, tmp_path, capsys):
    boxes = [CAR, {"prompt": "car", "box": [20, 10, 12, 9], "positive": False}, {"box": [1, 1, 4, 4]}]
    file = written({"b/0.png": boxes})
    folder = main(
        [
            *(f"images=[{pictures}/a,{pictures}/b]", "prompts=wheel,car", f"exemplars={file}", "model=tiny"),
            *("model.checkpoint=random", "score_threshold=0", "overlays=false", f"run_dir={tmp_path / 'out'}"),
        ]
    )
    assert "exemplars: 1 box cut at the border of the image" in capsys.readouterr().out
    found = json.loads((folder / "predictions.json").read_text())
    assert found["exemplars"] == str(file)
    asked = {one["file"][-7:]: [p["prompt"] for p in one["prompts"]] for one in found["pictures"]}
    assert asked == {"a/0.png": ["wheel", "car"], "b/0.png": ["wheel", "car", "visual"], "b/1.png": ["wheel", "car"]}
    wheel, car, alone = found["pictures"][1]["prompts"]
    assert "exemplars" not in wheel
    expected = [{"box": [3, 2, 6, 5], "positive": True}, {"box": [20, 10, 10, 9], "positive": False}]
    assert [one["positive"] for one in car["exemplars"]] == [one["positive"] for one in expected]
    np.testing.assert_allclose([one["box"] for one in car["exemplars"]], [one["box"] for one in expected], atol=1e-9)
    np.testing.assert_allclose(alone["exemplars"][0]["box"], [1, 1, 4, 4], atol=1e-9)
    names = {one["name"]: one["id"] for one in json.loads((folder / "images.json").read_text())["categories"]}
    assert names == {"wheel": 1, "car": 2, "visual": 3}
    assert {one["category_id"] for one in json.loads((folder / "results.json").read_text())} == {1, 2, 3}


def test_a_coco_file_names_prompts_and_boxes(pictures, written, tmp_path, capsys):
    box = {"image_id": 4, "category_id": 7, "bbox": [3, 2, 6, 5]}
    content = {
        "images": [{"id": 4, "file_name": "b/1.png"}, {"id": 5, "file_name": "c.png"}],
        "categories": [{"id": 7, "name": "side_window"}],
        "annotations": [box, {**box, "iscrowd": 1}, {**box, "image_id": 5}],
    }
    file = written(content)
    arguments = [f"images={pictures}/b", f"exemplars={file}", "model.checkpoint=random", "overlays=false"]
    folder = main([*arguments, f"run_dir={tmp_path / 'out'}"])
    found = json.loads((folder / "predictions.json").read_text())["pictures"]
    assert [[p["prompt"] for p in one["prompts"]] for one in found] == [[], ["side window"]]
    said = capsys.readouterr().out
    for line in ("1 crowd left out", "1 of 2 images with boxes are not among images=", "nothing is asked of"):
        assert line in said
    for changed in ({"image_id": 9}, {"category_id": [7]}, {"bbox": None}):
        with pytest.raises(DataError, match=r"boxes\.json: annotation 2: "):
            read_exemplars(written({**content, "annotations": [box, {**box, **changed}]}))
    with pytest.raises(DataError, match="images, record 2: expected an id and a file_name"):
        read_exemplars(written({**content, "images": [*content["images"][:1], {"id": 5}]}))
    with pytest.raises(DataError, match="no annotation with a box"):
        read_exemplars(written({**content, "annotations": []}))
    written({**content, "images": [{"id": 4, "file_name": "c.png"}, {"id": 5, "file_name": "d.png"}]})
    with pytest.raises(DataError, match=r"boxes\.json: no box of an image in images=, which has 0\.png, 1\.png"):
        main([*arguments, f"run_dir={tmp_path / 'none'}"])
    for size, remedy in (((60, 40), "60x40$"), ((20, 30), "20x30; expected exif=ignore or exif=apply, if EXIF turns")):
        sized = dict(zip(("width", "height"), size, strict=True))
        written({**content, "images": [{**one, **sized} for one in content["images"]]})
        message = f"annotation 1: its image is 30x20 pixels, the box is for {remedy}"
        with pytest.raises(DataError, match=message):
            main([*arguments, f"run_dir={tmp_path / 'none'}"])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "boxes.json: not valid JSON"),
        ([CAR], "boxes.json: it is a list; expected {"),
        ({}, "boxes.json: it is an empty object; expected {"),
        ({"0.png": CAR}, "0.png: its value is an object; expected {"),
        ({"0.png": []}, "0.png: its value is an empty list; expected {"),
        ({"0.png": [CAR, 3]}, "0.png, record 2: it has a number; expected box"),
        ({"0.png": [{"prompt": "car"}]}, "record 1: it has prompt; expected box, and no more than prompt, box"),
        ({"0.png": [{**CAR, "label": 1}]}, "it has prompt, box, label; expected box, and no more"),
        ({"0.png": [{**CAR, "prompt": " "}]}, "prompt is ' '; expected a noun phrase, or none"),
        ({"0.png": [{**CAR, "positive": 1}]}, "positive is 1; expected true or false"),
        ({"0.png": [{"box": [1, 2, 3]}]}, "box is [1, 2, 3]; expected four numbers"),
        ({"0.png": [{"box": [1, 2, 3, True]}]}, "box is [1, 2, 3, True]; expected four numbers"),
        ({"0.png": [{"box": [1, 2, 3, 10**400]}]}, "0.png, record 1: box is [1, 2, 3, 1000"),
        (
            {"0.png": [{"box": [1, 2, 0, 5]}]},
            "0.png, record 1: box [1.0, 2.0, 0.0, 5.0]; expected [x, y, width, height",
        ),
        (
            {"0.png": [CAR, {"box": [25, 2, 29, 9]}]},
            "record 2: box [25.0, 2.0, 29.0, 9.0] lies mostly outside its image",
        ),
        ({"0.png": [{"box": [1, 2, 3, 4], "positive": False}]}, "there are negative boxes alone"),
        ({"9.png": [CAR]}, "9.png: no such image in images=, which has 0.png"),
        ({"0.png": [CAR], "b/0.png": [CAR]}, "b/0.png: boxes of"),
    ],
)
def test_mistakes(written, content, message):
    def read():
        for boxes in read_exemplars(written(content)).by_image([Path("b/0.png")]).values():
            exemplars_of(boxes, SIZE)

    with pytest.raises(DataError, match=re.escape(message)):
        read()


def test_a_mistake_is_one_line_before_anything_is_written(pictures, written, tmp_path, capsys):
    file = written({"0.png": [{"box": [29, 2, 9, 9]}]})
    with pytest.raises(SystemExit):
        exit_cleanly(main)([f"images={pictures}/b", f"exemplars={file}", f"run_dir={tmp_path / 'out'}"])
    said = capsys.readouterr().err
    assert "0.png, record 1: box [29.0, 2.0, 9.0, 9.0] lies mostly outside its image of 30 × 20 pixels" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_one_name_for_several_images_and_boxes_that_no_category_names(pictures, written, tmp_path):
    file = read_exemplars(written({"0.png": [CAR]}))
    paths = [pictures / "a" / "0.png", pictures / "b" / "0.png"]
    with pytest.raises(DataError, match="expected one name an image, with its folders"):
        file.by_image(paths)
    assert read_exemplars(written({"b\\0.png": [CAR]})).by_image(paths).keys() == {1}
    assert exemplars_of(file.boxes["0.png"], SIZE)["car"].boxes == ((0.2, 0.225, 0.2, 0.25),)
    listing = {"images": [{"id": 1, "file_name": "0.png", "width": 30, "height": 20}], "annotations": []}
    (tmp_path / "images.json").write_text(json.dumps({**listing, "categories": [{"id": 3, "name": "wheel"}]}))
    arguments = [f"images={pictures}/b", f"annotations={tmp_path / 'images.json'}", f"exemplars={file.path}"]
    with pytest.raises(ConfigError, match=r"boxes of car; expected categories of .* whose ids results.json has: wheel"):
        main([*arguments, f"run_dir={tmp_path / 'out'}"])


def test_prompts_that_differ_in_case_and_underscores_are_one(pictures, written, tmp_path):
    def inputs(*arguments):
        config = parse_command("predict", [f"images={pictures}/b", f"exemplars={file}", *arguments])[1]
        return Inputs.of(config)

    boxes = [{**CAR, "prompt": "Wheel_of a Car"}, {**CAR, "prompt": "wheel of a car"}, {**CAR, "prompt": "Red_Roof"}]
    file = written({"0.png": boxes})
    found = inputs("prompts=[wheel_of_a car,sky,Sky]")
    assert found.everywhere == ("wheel of a car", "sky")
    assert found.categories == {"wheel of a car": 1, "sky": 2, "Red Roof": 3}
    asked = {name: one and len(one.boxes) for name, one in found.asked(0, SIZE).items()}
    assert asked == {"wheel of a car": 2, "sky": None, "Red Roof": 1}
    (line,) = found.check(Tiling(), Console())[0]
    assert line == (
        "4 prompts taken by another spelling (case, underscores, spaces): 'wheel_of_a car' as 'wheel of a car', "
        "'Sky' as 'sky', 'Wheel_of a Car' as 'wheel of a car' and 1 more"
    )
    named = [{"id": 3, "name": "Wheel of a car"}, {"id": 4, "name": "red_roof"}]
    listing = {"images": [{"id": 1, "file_name": "0.png", "width": 30, "height": 20}], "annotations": []}
    (tmp_path / "images.json").write_text(json.dumps({**listing, "categories": named}))
    found = inputs(f"annotations={tmp_path / 'images.json'}")
    assert found.categories == {"Wheel of a car": 3, "red roof": 4}
    assert [len(one.boxes) for one in found.asked(0, SIZE).values()] == [2, 1]
    assert found.check(Tiling(), Console())[0][0].startswith(
        "3 prompts taken by another spelling (case, underscores, spaces): 'Wheel_of"
    )


def test_orientations_that_no_size_shows_are_counted(tmp_path, written):
    for name, orientation, size in (("0", 3, SIZE), ("1", 2, SIZE), ("2", 6, SIZE), ("3", 6, (20, 20)), ("4", 1, SIZE)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", size).save(tmp_path / f"{name}.png", exif=exif)
    images = [{"id": n, "file_name": f"{n}.png", "width": 30, "height": 20} for n in range(5)]
    images[2] |= {"width": 20, "height": 30}
    images[3] |= {"width": 20, "height": 20}
    content = {
        "images": images,
        "categories": [{"id": 7, "name": "car"}],
        "annotations": [{"image_id": n, "category_id": 7, "bbox": [3, 2, 6, 5]} for n in range(5)],
    }

    def lines(*arguments):
        config = parse_command("predict", [f"images={tmp_path}", f"exemplars={file}", *arguments])[1]
        return Inputs.of(config).check(Tiling(), Console())[0]

    file = written(content)
    assert lines() == [
        f"{file}: 3 of 5 images with boxes: an EXIF orientation that no size shows; the boxes are taken to be of "
        "images as they are turned by it, expected exif=ignore if they are not"
    ]
    assert lines("exif=apply") == []
    for image in images:  # without sizes, the one that lies on its side is one more
        del image["width"]
    assert "4 of 5 images with boxes" in lines(f"exemplars={written(content)}")[0]
    file = written({"0.png": [CAR]})  # of the image as it is shown, which docs/evaluation.md says
    assert "EXIF" not in " ".join(lines())
