"""Files that are odd and yet have a meaning: what is degenerate is left out and counted, and another spelling of the
same file gives the very same numbers."""

from __future__ import annotations

import json

import pytest
from hostile_tools import TOOLS, run_tool
from hostile_trees import HEIGHT, RLE, SQUARE, WIDTH, annotation, category, detection, mode, text

LABELS, DETECTIONS = "maps/labels/1.png", "detections.json"


PRODUCTS = {
    "score": "out.json",
    "evaluate": "out/metrics.json",
    "train": "out/adapter.safetensors",
    "predict": "out/results.json",
    "merge": "out.pt",
    "prepare": "coco/prepared.json",
}


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_writes_its_product_of_the_plain_tree(tree, tool):
    run_tool(tool, tree, *(["out=prepared.json"] if tool == "prepare" else []))
    assert (tree / PRODUCTS[tool.split()[0]]).stat().st_size > 0


# fmt: off
DROPPED = [
    ("a box without area", annotation("bbox", [2, 2, 0, 8]), "repaired 1 × box without area, taken from the mask"),
    ("a polygon of 2 points", annotation("segmentation", [[1, 1, 5, 5]]),
     "dropped 1 × outline without a polygon of 3 points"),
    ("an odd number of coordinates", annotation("segmentation", [SQUARE[:-1]]),
     "dropped 1 × outline without a polygon of 3 points"),
    ("no polygon", annotation("segmentation", []), "dropped 1 × box without a mask"),
    ("a polygon between the pixels", annotation("segmentation", [[2.1, 2.1, 2.2, 2.1, 2.2, 2.2]]),
     "dropped 1 × mask without a pixel"),
    ("an RLE without a pixel", annotation("segmentation", RLE | {"counts": [HEIGHT * WIDTH]}),
     "dropped 1 × mask without a pixel"),
    ("one polygon of two too short", annotation("segmentation", [SQUARE, [1, 1]]),
     "repaired 1 × outline with a polygon of fewer than 3 points"),
    ("a polygon over the border", annotation("segmentation", [[-4, *SQUARE[1:]]]),
     "repaired 1 × outline beyond the image's border, clipped"),
]
# fmt: on


@pytest.mark.parametrize(("spoil", "line"), [pytest.param(*row[1:], id=row[0]) for row in DROPPED])
def test_what_is_merely_degenerate_is_counted(tree, capsys, spoil, line):
    spoil(tree)
    run_tool("prepare", tree)
    assert line in " ".join(capsys.readouterr().out.split())


# fmt: off
SAME = [
    ("a palette label map", "score semantic", mode(LABELS, "P")),
    ("a 16-bit label map", "score semantic", mode(LABELS, "I;16")),
    ("a 16-bit prediction", "score semantic", mode("maps/predictions/1.png", "I;16")),
    ("a palette prediction", "score semantic", mode("maps/predictions/1.png", "P")),
    ("names with a byte-order mark", "score semantic", text("maps/names.txt", b"\xef\xbb\xbfsky\nroad\n")),
    ("names with CRLF", "score semantic", text("maps/names.txt", "sky\r\nroad\r\n\r\n")),
    ("a palette label map", "evaluate maps", mode(LABELS, "P")),
    ("a 16-bit label map", "evaluate maps", mode(LABELS, "I;16")),
    ("names with a byte-order mark and CRLF", "evaluate maps", text("maps/names.txt", b"\xef\xbb\xbfsky\r\nroad\r\n")),
    ("a closed polygon", "score coco", annotation("segmentation", [[*SQUARE, *SQUARE[:2]]])),
    ("a polygon twice", "score coco", annotation("segmentation", [SQUARE, SQUARE])),
    ("a polygon the other way round", "score coco", annotation("segmentation", [[2, 10, 10, 10, 10, 2, 2, 2]])),
    ("ids far apart", "score coco", annotation("id", 2**40)),
    ("keys that nobody reads", "score coco", detection("note", {"by": "me"})),
    ("a category with an emoji", "score coco", category("name", "автобус 🚌")),
    ("JSON with a byte-order mark", "score coco",
     lambda root: text(DETECTIONS, b"\xef\xbb\xbf" + (root / DETECTIONS).read_bytes())(root)),
]
# fmt: on


@pytest.mark.parametrize(("tool", "change"), [pytest.param(*row[1:], id=f"{row[1]}: {row[0]}") for row in SAME])
def test_another_spelling_gives_the_same_numbers(tree, tool, change):
    def numbers():
        run_tool(tool, tree)
        found = json.loads((tree / ("out.json" if tool.startswith("score") else "out/metrics.json")).read_text())
        skip = ("speed/", "source/", "version/", "protocol", "segm/AP/", "bbox/AP/")
        return {key: value for key, value in found.items() if not any(word in key for word in skip)}

    before = numbers()
    change(tree)
    assert numbers() == before
    assert len(before) > 5
