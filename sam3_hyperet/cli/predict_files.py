"""The files of all images that `predict` leaves: JSON, written image by image, and the page of the overlays."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from omegaconf import DictConfig

from sam3_hyperet.cli.predict_inputs import Inputs
from sam3_hyperet.cli.predict_models import PromptedModels
from sam3_hyperet.cli.predict_overlays import MASKS, PAGE, Overlays
from sam3_hyperet.cli.predict_records import PREDICTED, PredictionRecords
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.files import Manifest, remove_leftovers, replacing, write_json
from sam3_hyperet.inference.coco_results import coco_result
from sam3_hyperet.modeling.adapter_source import HUB, PACKAGE, adapter_name
from sam3_hyperet.modeling.dial import dial_of
from sam3_hyperet.overlays.folder_page import Legend
from sam3_hyperet.wording import count_of

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


def write_files(
    config: DictConfig,
    inputs: Inputs,
    records: PredictionRecords,
    overlays: Overlays | None,
    facts: Mapping[str, Any],
) -> list[str]:
    """Write the JSON files and the page; returns lines for people.

    Records are read one by one, for all of them may not fit in memory; of an image that was asked for many names, the
    few that were found are kept.
    """
    run_dir, sizes, drawn, legend, masks = Path(config.run_dir), [], [], Legend(), 0
    with open_results(run_dir, facts, inputs.categories) as write:
        for i, (path, number) in enumerate(zip(inputs.paths, inputs.ids, strict=True)):
            one = records.read(i)
            write(path, number, one.entry, one.drawn.picture.file if one.drawn else None)
            sizes.append((one.entry["width"], one.entry["height"]))
            masks += one.masks
            if one.drawn:
                legend.add(one.drawn.picture.found)
                drawn.append(one.drawn.on_page)
    write_json(run_dir / IMAGES, inputs.listing(sizes))
    said = []
    if overlays:
        title = f"{count_of(len(sizes), 'image')}, {count_of(len(inputs.categories), 'phrase')}"
        files = [*JSON_FILES, *([f"{MASKS}/"] if masks else [])]
        overlays.write_page(title, _page_facts(config, facts), drawn, legend, files)
        said = overlays.lines(drawn)
    return [*said, _written_line(config, len(sizes), masks)]


def results_facts(config: DictConfig, models: PromptedModels, adapter: str | None) -> dict[str, Any]:
    """What predictions.json says of all images."""
    return {
        "adapter": adapter,
        "dial": dial_of(models.own.model) if adapter else None,
        "score_threshold": config.score_threshold,
        **({} if models.max_dets is None else {"max_dets": models.max_dets}),
        "precision": models.own.precision,
        **({} if models.tiling.is_whole else {"tiles": config.tiles, "tile_overlap": config.tile_overlap}),
        **({} if config.exemplars is None else {"exemplars": str(config.exemplars)}),
    }


def check_written(run_dir: Path, inputs: Inputs, config: DictConfig) -> list[str]:
    """Names of what is to be written.

    Raises ConfigError if any of it would replace what `predict` did not write.
    """
    drawn = [*inputs.overlays(), PAGE] if config.overlays else []
    written = [*drawn, *([MASKS] if config.masks else []), *JSON_FILES, PREDICTED]
    if replaced := {(run_dir / name).resolve() for name in written} & {path.resolve() for path in inputs.paths}:
        raise ConfigError(f"run_dir={run_dir}: the overlay would replace the image {replaced.pop()}; use another")
    Manifest(run_dir).check(*written)
    return written


def remove_outdated(run_dir: Path) -> None:
    """Remove JSON files and page of an earlier prediction, and what a kill left half written.

    The other files of that prediction are about to be replaced.
    """
    Manifest(run_dir).remove(*JSON_FILES, PAGE)
    remove_leftovers(run_dir)


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


def _written_line(config: DictConfig, images: int, masks: int) -> str:
    """What has been written, and where, for so many images."""
    ids = f"ids of {config.annotations}" if config.annotations else f"ids as in {IMAGES}"
    what = f"{count_of(images, 'overlay')} and the page {PAGE}, " if config.overlays else ""
    what += f"{count_of(masks, 'mask')}, " if config.masks else ""
    return f"wrote {what}{PREDICTIONS} and, in COCO's format, {RESULTS} ({ids}) to {Path(config.run_dir)}"


def _page_facts(config: DictConfig, facts: Mapping[str, Any]) -> dict[str, str]:
    """What the overlays' page says of how they were made: files by their names, for the page is passed on."""
    adapter, given = "none: the base", str(config.adapter)
    if facts["adapter"]:
        file, name = Path(facts["adapter"]), adapter_name(facts["adapter"])
        of_run = file.name if name == file.stem else f"{name}/{file.name}"
        adapter = given if given.startswith((HUB, PACKAGE)) else of_run
    named = {"adapter": adapter, "base": config.model.name, **{k: v for k, v in facts.items() if k != "adapter"}}
    if "exemplars" in named:
        named["exemplars"] = Path(named["exemplars"]).name
    if facts["dial"] is None:
        del named["dial"]
    return {
        key.replace("_", " "): f"{value:g}" if isinstance(value, float) else str(value) for key, value in named.items()
    }
