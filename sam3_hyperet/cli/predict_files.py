"""The JSON files of `predict`, written image by image: all of them may not fit in memory."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from sam3_hyperet.files import replacing
from sam3_hyperet.inference.coco_results import coco_result

JSON_FILES = PREDICTIONS, RESULTS, IMAGES = "predictions.json", "results.json", "images.json"

WriteImage = Callable[[Path, int, Mapping[str, Any], str | None], None]
"""Write the predictions of one image: its file, its id, its entry of predictions.json, and its overlay's name."""


@contextmanager
def open_results(run_dir: Path, facts: Mapping[str, Any], categories: Mapping[str, int]) -> Iterator[WriteImage]:
    """Context in which predictions.json and results.json are written; they are there only when they are whole.

    facts: what predictions.json says of all images. categories: id of each prompt.
    """
    head = json.dumps(facts, ensure_ascii=False)
    with (
        _open_list(run_dir / PREDICTIONS, f'{head[:-1]}, "pictures": ', "}") as pictures,
        _open_list(run_dir / RESULTS) as results,
    ):

        def write(file: Path, image_id: int, entry: Mapping[str, Any], overlay: str | None) -> None:
            pictures.write({"file": str(file), "image_id": image_id, **entry, "overlay": overlay})
            for result in _coco_results(entry, image_id, categories):
                results.write(result)

        yield write


class _JsonList:
    """A list in a JSON file, written item by item."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._separator = file, "\n"

    def write(self, item: object) -> None:
        """Add an item. Raises ValueError for a NaN."""
        self._file.write(self._separator + json.dumps(item, ensure_ascii=False, allow_nan=False))
        self._separator = ",\n"


@contextmanager
def _open_list(path: Path, before: str = "", after: str = "") -> Iterator[_JsonList]:
    """A list to write to, between two texts; the file is there only when it is whole."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f"{before}[")
        yield _JsonList(file)
        file.write(f"\n]{after}\n")


def _coco_results(entry: Mapping[str, Any], image_id: int, categories: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """The detections of an image as COCO has them: a box is [x, y, width, height]."""
    for prompt in entry["prompts"]:
        for one in prompt["detections"]:
            x0, y0, x1, y1 = one["box_xyxy"]
            box, category_id = (x0, y0, x1 - x0, y1 - y0), categories[prompt["prompt"]]
            yield coco_result(image_id, category_id, box, one["segmentation"], one["score"])
