"""Files that nobody should have, through the tools that read them: one clear line and nothing written, a counted drop,
or the very number that the plain file gives; never a traceback, never another number.

A row of a table is: what is wrong, the tool that meets it, how to make it, and a piece of what the tool must say.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_tools import run_tool
from hostile_trees import (
    ADAPTER,
    ANNOTATIONS,
    HEIGHT,
    RLE,
    SQUARE,
    WIDTH,
    annotation,
    both,
    category,
    cut,
    detection,
    edit,
    folder,
    gone,
    huge_png,
    image,
    picture,
    setting,
    tensors,
    text,
    without,
)
from PIL import Image
from special_files import replace_by

from sam3_hyperet.files import MANIFEST

TRAIN, PICTURE, LABELS = "coco/annotations/instances_train.json", "coco/val/1.png", "maps/labels/1.png"
LONG = "x" * 10_000
MANY_WORDS = " ".join("abcdefghijklmnopqrstuvwxyz" * 2)
# fmt: off
ANNOTATION = [
    ("HTML in place of JSON", "evaluate coco", text(ANNOTATIONS, "<!doctype html><html>"), "not valid JSON"),
    ("an empty file", "evaluate coco", text(ANNOTATIONS, ""), "instances_val.json: not valid JSON"),
    ("a file that breaks off", "train coco", cut(TRAIN), "not valid JSON"),
    ("a folder in place of the file", "evaluate coco", folder(ANNOTATIONS), "instances_val.json: cannot be read"),
    ("no file", "train coco", gone("coco/annotations"), "instances_train.json: no such file"),
    ("brackets 100,000 deep", "evaluate coco", text(ANNOTATIONS, "[" * 100_000), "not valid JSON"),
    ("not UTF-8", "evaluate coco", text(ANNOTATIONS, b'{"images": "\xff"}'), "byte 12 is not UTF-8"),
    ("a list, not an object", "evaluate coco", text(ANNOTATIONS, "[]"), "found a list, expected an object"),
    ("no annotations key", "evaluate coco", without(ANNOTATIONS, "annotations"), "the key 'annotations' is missing"),
    ("images that are text", "evaluate coco", setting(ANNOTATIONS, "images", "all"),
     "images is 'all', expected a list"),
    ("no image", "evaluate coco", edit(ANNOTATIONS, lambda c: c | {"images": [], "annotations": []}),
     "it has no images"),
    ("no category", "evaluate coco", edit(ANNOTATIONS, lambda c: c | {"categories": []}), "it has no categories"),
    ("two images of one id", "evaluate coco", image("id", 1, 1), "two images have this id"),
    ("two categories of one id", "train coco", setting(TRAIN, "categories", 1, "id", 3),
     "category 3: two categories have this id"),
    ("two categories of one name", "evaluate coco", both(category("name", "Car"), annotation("category_id", 5)),
     "category 3 has the same name"),
    ("an id that is text, of one image alone", "evaluate coco", image("id", "a1"),
     "its image_id 1 is not among the 2 images"),
    ("an id that is true", "evaluate coco", annotation("image_id", True), "image_id True"),
    ("a negative id, of one image alone", "evaluate coco", image("id", -1), "its image_id 1 is not among the 2 images"),
    ("a huge id", "evaluate coco", annotation("category_id", 2**40), "its category_id 1099511627776 is not among"),
    ("a category that is not there", "evaluate coco", annotation("category_id", 4),
     "its category_id 4 is not among the categories"),
    ("an image that is not there", "evaluate coco", annotation("image_id", 9),
     "its image_id 9 is not among the 2 images"),
    ("a polygon with a text", "evaluate coco", annotation("segmentation", [["a", *SQUARE[1:]]]),
     "a polygon has the coordinate 'a'"),
    ("a polygon to infinity", "evaluate coco", annotation("segmentation", [[float("inf"), *SQUARE[1:]]]),
     "is not finite"),
    ("a polygon far away", "evaluate coco", annotation("segmentation", [[900, *SQUARE[1:]]]),
     "annotation 1: a polygon spans"),
    ("a segmentation that is text", "evaluate coco", annotation("segmentation", "car"),
     "its segmentation is 'car', expected polygons or an RLE"),
    ("an RLE of another size", "evaluate coco", annotation("segmentation", RLE | {"size": [WIDTH, HEIGHT]}),
     "its RLE has the size [24, 16]"),
    ("an RLE too short", "evaluate coco", annotation("segmentation", RLE | {"counts": [0, 40]}),
     "its RLE covers 40 pixels"),
    ("an RLE of garbage", "evaluate coco", annotation("segmentation", RLE | {"counts": "\x7fé"}),
     "its RLE cannot be read"),
    ("an RLE of negative runs", "evaluate coco", annotation("segmentation", RLE | {"counts": [-1, 385]}),
     "expected whole numbers from 0"),
    ("a gigantic declared size", "evaluate coco", image("height", 10**9), "its height is 1000000000"),
    ("an image of negative size", "evaluate coco", image("width", -1), "its width is -1, expected 1"),
    ("a size that is not the picture's", "evaluate coco", image("width", 25),
     "image 1 is 24x16 pixels, its annotations are for 25x16"),
    ("a file name that leaves the folder", "evaluate coco", image("file_name", "../../7.png"),
     "leaves the image folder"),
    ("iscrowd of 2", "evaluate coco", annotation("iscrowd", 2), "its iscrowd is 2"),
    ("no annotation with a mask", "evaluate coco",
     both(annotation("segmentation", []), annotation("segmentation", [], 1)), "none of its 2 annotations has a mask"),
    ("no picture folder", "train coco", gone("coco/train"), "2 of 2 images are not in"),
    ("a picture missing", "evaluate coco", gone("coco/val/2.png"), "1 of 2 images are not in"),
    ("a picture that breaks off", "evaluate coco", cut("coco/val/2.png"), "not a readable image"),
    ("a picture of no bytes", "evaluate coco", text(PICTURE, ""), "1.png: not a readable image"),
    ("a folder in place of a picture", "evaluate coco", folder(PICTURE), "1.png: cannot be read (it is a folder"),
    ("a picture that declares 60,000 x 60,000", "predict", huge_png(PICTURE, 60_000, 60_000),
     "1.png: it has 3,600.0 million pixels"),
    ("a picture of 16 bits", "predict", both(picture(PICTURE, lambda v: v[..., 0].astype(np.uint16))),
     "expected 8 bits a channel"),
]
VOCABULARY = [
    ("a name of 10,000 characters", "evaluate coco", category("name", LONG), "expected 1 to 200 printable"),
    ("a name of more than 32 tokens", "evaluate coco", category("name", MANY_WORDS), "has 52 tokens; SAM 3 reads 30"),
    ("the same in training", "train coco", setting(TRAIN, "categories", 1, "name", MANY_WORDS),
     "has 52 tokens; SAM 3 reads 30"),
    ("an empty name", "evaluate coco", category("name", "  "), "its name is ' ', expected 1 to 200"),
    ("a name of two lines", "evaluate coco", category("name", "bus\nstop"), "its name is 'bus\\nstop'"),
    ("a name that is a number", "evaluate coco", category("name", 7), "its name is 7, expected text"),
    ("no names file", "train maps", gone("maps/names.txt"), "names.txt: no such file"),
    ("an empty names file", "evaluate maps", text("maps/names.txt", "\n\n"), "names.txt: it has no names"),
    ("names twice", "train maps", text("maps/names.txt", "sky\nsky\n"), "name 2 is 'sky', as name 1 is"),
    ("names in Latin-1", "evaluate maps", text("maps/names.txt", "sky\nstraße\n".encode("latin-1")),
     "names.txt: byte 8 is not UTF-8"),
    ("scored names twice", "score semantic", text("maps/names.txt", "sky\nsky\n"), "the name 'sky' occurs twice"),
    ("scored names, none", "score semantic", text("maps/names.txt", ""), "names.txt: no class names"),
    ("scored names, a folder", "score semantic", folder("maps/names.txt"), "names.txt: cannot be read (it is a folder"),
]
# fmt: on
DETECTIONS = "detections.json"
# fmt: off
PREDICTION = [
    ("HTML", "score coco", text(DETECTIONS, "<html>"), "detections.json: not valid JSON"),
    ("no bytes", "score coco", text(DETECTIONS, ""), "detections.json: not valid JSON"),
    ("brackets 100,000 deep", "score coco", text(DETECTIONS, "[" * 100_000), "detections.json: not valid JSON"),
    ("no file", "score coco", gone(DETECTIONS), "detections.json: no such file"),
    ("a folder", "score coco", folder(DETECTIONS), "detections.json: cannot be read"),
    ("an object", "score coco", text(DETECTIONS, "{}"), "expected a list of detections, found a dict"),
    ("a record that is a list", "score coco", setting(DETECTIONS, 1, []), "record 1: expected an object, found []"),
    ("a score of NaN", "score coco", detection("score", float("nan")), "record 1: score is nan"),
    ("a score that is text", "score coco", detection("score", "0.8"), "record 1: score is '0.8'"),
    ("a score of infinity", "score coco", detection("score", float("inf")), "record 1: score is inf"),
    ("a score of 400 digits", "score coco", detection("score", 10**400), "record 1: score is 1000"),
    ("no score", "score coco", without(DETECTIONS, 1, "score"), "record 1: score is None"),
    ("an image that is not there", "score coco", detection("image_id", 7), "image_id 7 is not in the ground"),
    ("an image that is text", "score coco", detection("image_id", "1"), "image_id is '1', expected an integer"),
    ("a huge category", "score coco", detection("category_id", 2**70), "category_id is 118059"),
    ("a negative category", "score coco", detection("category_id", -3), "category_id -3 is not in"),
    ("a negative box", "score coco", detection("bbox", [0, 0, -1, 4]), "record 1: bbox is [0, 0, -1, 4]"),
    ("a box of three", "score coco", detection("bbox", [0, 0, 4]), "record 1: bbox is [0, 0, 4]"),
    ("an RLE of another size", "score coco", detection("segmentation", "size", [8, 8]), "RLE of size [8, 8]"),
    ("an RLE that breaks off", "score coco", detection("segmentation", "counts", "0X1"), "record 1: broken RLE"),
    ("an RLE too short", "score coco", detection("segmentation", "counts", [4]), "record 1: its RLE covers 4 pixels"),
    ("an RLE of other letters", "score coco", detection("segmentation", "counts", "é"), "RLE counts are 'é'"),
    ("a polygon", "score coco", detection("segmentation", [SQUARE]), "segmentation is [[2, 2"),
    ("truth: an area of NaN", "score coco", annotation("area", float("nan")), "area is nan"),
    ("truth: a polygon of 2 points", "score coco", annotation("segmentation", [[1, 1, 2, 2]]), "three or more points"),
    ("truth: a polygon far away", "score coco", annotation("segmentation", [[1e8, *SQUARE[1:]]]),
     "a polygon spans [2.0, 2.0, 100000000.0, 10.0], the image is 24x16"),
    ("truth: a polygon less far away", "score coco", annotation("segmentation", [[1e7, *SQUARE[1:]]]),
     "a polygon spans"),
    ("truth: an image of 2^20 x 2^20", "score coco", both(image("height", 2**20), image("width", 2**20)),
     "height is 1048576, expected 1 to 65500 pixels"),
    ("truth: an image of size zero", "score coco", image("height", 0), "height is 0"),
    ("truth: two images of one id", "score coco", image("id", 1, 1), "id 1 occurs twice"),
]
COLOURED = picture(LABELS, lambda v: np.dstack([v, v, 255 - v]))
LABEL_MAP = [
    ("an RGB label map", "score semantic", COLOURED, "RGB"),
    ("the same in evaluation", "evaluate maps", COLOURED, "RGB"),
    ("an RGBA prediction", "score semantic",
     picture("maps/predictions/1.png", lambda v: np.dstack([v, v, 255 - v, v])), "predictions/1.png: "),
    ("a label beyond the classes", "score semantic", picture(LABELS, lambda v: v + (v == 1)),
     "have the values 0 to 2, for 2 names"),
    ("the same in evaluation", "evaluate maps", picture(LABELS, lambda v: v + (v == 1)),
     "it has the label 2, expected 0 to 1"),
    ("the same in 16 bits", "score semantic",
     picture(LABELS, lambda v: v.astype(np.uint16) + np.uint16(256) * (v == 1)), "has the label 257, expected 0 to 1"),
    ("a prediction of another size", "score semantic", picture("maps/predictions/1.png", lambda v: v[:9]), "(9, 24)"),
    ("a label map of another size", "evaluate maps", picture(LABELS, lambda v: v[:9]), "its annotations are for 24x9"),
    ("a prediction missing", "score semantic", gone("maps/predictions/2.png"),
     "1 of 2 predictions are missing, e.g. 2.png"),
    ("a label map missing", "train maps", gone("maps/labels/2.png"), "1 image without a label map in"),
    ("no folder of predictions", "score semantic", gone("maps/predictions"), "predictions: no such folder"),
    ("a file in place of the folder", "score semantic", both(gone("maps/labels"), text("maps/labels", "x")),
     "labels: no such folder"),
    ("an empty folder", "evaluate maps", both(gone(LABELS), gone("maps/labels/2.png")), "labels: no file ends in .png"),
    ("a label map of no bytes", "score semantic", text(LABELS, ""), "1.png: not a readable label map"),
    ("a label map that breaks off", "evaluate maps", cut(LABELS, 0.6), "1.png: not a readable label map"),
    ("a prediction that is HTML", "score semantic", text("maps/predictions/1.png", "<html>"), "1.png: not a readable"),
    ("a folder named like a label map", "score semantic", folder(LABELS), "1.png: "),
    ("a label map that declares 60,000 x 60,000", "score semantic", huge_png(LABELS, 60_000, 60_000),
     "1.png: it has 3,600.0 million pixels"),
    ("no labelled pixel", "score semantic",
     both(*(picture(f"maps/labels/{n}.png", lambda v: v * 0 + 255) for n in (1, 2))), "no labelled pixel in 2 images"),
]
# fmt: on


def _first(found):
    return sorted(found)[0]


def special(file, kind):
    """What is no file in a file's place."""
    return lambda root: replace_by(kind, root / file)


def _lossy(root):
    """A label map that an editor has stored as JPEG, under its name."""
    Image.open(root / LABELS).save(root / LABELS, "JPEG")


def _a_base(found, metadata):
    metadata.update(format="sam3_hyperet-base-1")


def _renamed(found, metadata):
    found["elsewhere." + _first(found)] = found.pop(_first(found))


# fmt: off
ADAPTER_FILE = [
    ("text", "evaluate adapter", text(ADAPTER, "adapter"), "adapter.safetensors: not a readable safetensors file"),
    ("no bytes", "predict", text(ADAPTER, ""), "adapter.safetensors: not a readable safetensors file"),
    ("half a file", "merge", cut(ADAPTER), "adapter.safetensors: not a readable safetensors file"),
    ("a header of 2^60 bytes", "predict", text(ADAPTER, b"\0" * 7 + b"\x10" + b"{}"),
     "not a readable safetensors file"),
    ("a folder", "predict", folder(ADAPTER), "adapter.safetensors: cannot be read (it is a folder"),
    ("no file", "merge", gone(ADAPTER), "adapter.safetensors: no such file"),
    ("no metadata", "evaluate adapter", tensors(lambda t, m: m.clear()), "not an adapter file; format is None"),
    ("of another base", "evaluate adapter", tensors(lambda t, m: m.update(base="0" * 64)),
     "made for the base 000000000000…"),
    ("a configuration that is no JSON", "predict", tensors(lambda t, m: m.update(config="{")),
     "its configuration cannot be read"),
    ("a configuration that is a list", "predict", tensors(lambda t, m: m.update(config="[]")),
     "its configuration cannot be read"),
    ("a scheme that there is not", "merge", tensors(lambda t, m: m.update(config=m["config"].replace('"A"', '"Z"'))),
     "its configuration cannot be read"),
    ("a key missing", "evaluate adapter", tensors(lambda t, m: t.pop(_first(t)) is None or None),
     "adapter keys differ from the model's, first"),
    ("a foreign key", "predict", tensors(lambda t, m: t.update(foreign=torch.zeros(2))),
     "adapter keys differ from the model's, first foreign"),
    ("a renamed key", "merge", tensors(_renamed), "adapter keys differ from the model's"),
    ("a wrong shape", "predict", tensors(lambda t, m: t.update({_first(t): torch.zeros(3, 5, 7)})),
     "has shape (3, 5, 7), expected"),
    ("NaN", "predict", tensors(lambda t, m: t[_first(t)].fill_(float("nan")) is None or None), "not finite numbers"),
    ("infinity", "merge", tensors(lambda t, m: t[_first(t)].fill_(float("inf")) is None or None), "not finite numbers"),
    ("integers", "predict", tensors(lambda t, m: t.update({_first(t): t[_first(t)].to(torch.int32)})),
     "is int32; expected float32, bfloat16"),
]
ODD_FILE = [
    ("annotations that are a pipe", "score coco", special(ANNOTATIONS, "pipe"), "json: cannot be read (it is a pipe"),
    ("results that are a device", "score coco", special(DETECTIONS, "device"), "json: cannot be read (it is a device"),
    ("names that are a pipe", "score semantic", special("maps/names.txt", "pipe"), "cannot be read (it is a pipe"),
    ("a picture that is a pipe", "predict", special(PICTURE, "pipe"), "1.png: cannot be read (it is a pipe"),
    ("an adapter that is a device", "predict", special(ADAPTER, "device"), "cannot be read (it is a device"),
    ("a label map that is a JPEG", "score semantic", _lossy, "1.png: it is JPEG, which changes labels at edges"),
    ("the same in training", "train maps", _lossy, "1.png: it is JPEG, which changes labels at edges"),
    ("a base in place of an adapter", "predict", tensors(_a_base), "base weights are given as model.checkpoint="),
    ("brackets in an adapter", "merge", tensors(lambda t, m: m.update(config="[" * 5_000)), "nested too deeply"),
]
COMMAND = [
    ("a prompt of 10,000 characters", "predict", f"prompts=['{LONG}']", "tokens; SAM 3 reads 30"),
    ("a prompt of 52 tokens", "predict", f"prompts=['{MANY_WORDS}']", "has 52 tokens; SAM 3 reads 30"),
    ("an empty prompt", "predict", "prompts=['']", "the prompt '' is empty"),
    ("no prompt", "predict", "prompts=[]", "there is no prompt"),
    ("a null prompt", "predict", "prompts=[car,null]", "prompts has a null"),
    ("a folder without pictures", "predict", "images={}/coco/annotations", "no images in this folder"),
    ("no pictures", "predict", "images={}/none", "none: no such image or folder"),
    ("a text in place of a picture", "predict", "images={}/maps/names.txt", "names.txt: not a readable image"),
    ("a vocabulary without a name", "evaluate coco", "data.vocabulary=[car,cart]", "cart not among the data set's 2"),
    ("prompts that are not there", "train coco", "data.prompts=ov_base", "data.prompts: person, bicycle"),
    ("a group of nothing", "evaluate coco", "data.groups={{a:[]}}", "data.groups.a=[]; expected category names"),
    ("no such folder", "evaluate coco", "data.root=/nowhere", "/nowhere: no such folder; expected data set"),
]
# fmt: on
FAILING = [
    pytest.param(tool, spoil, (), says, id=f"{name}: {kind}")
    for name, rows in {
        "annotations": ANNOTATION,
        "vocabulary": VOCABULARY,
        "predictions": PREDICTION,
        "label maps": LABEL_MAP,
        "adapters": ADAPTER_FILE,
        "odd files": ODD_FILE,
    }.items()
    for kind, tool, spoil, says in rows
] + [pytest.param(tool, None, (option,), says, id=f"options: {kind}") for kind, tool, option, says in COMMAND]


def files(root: Path) -> dict[Path, int]:
    """When each file was written, but for an evaluation's records, which it keeps to go on from, and their list."""
    written = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    lists = {path for path in written if path.name == MANIFEST and (path.parent / "records").is_dir()}
    return {path: time for path, time in written.items() if "records" not in path.parts and path not in lists}


@pytest.mark.parametrize(("tool", "spoil", "options", "says"), FAILING)
def test_one_clear_line_and_nothing_written(tree, capsys, tool, spoil, options, says):
    if spoil:
        spoil(tree)
    before = files(tree)
    with pytest.raises(SystemExit) as exit_:
        run_tool(tool, tree, *options)
    assert exit_.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert len(error) < 1000
    assert says in error
    assert files(tree) == before
