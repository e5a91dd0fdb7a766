"""What `predict` is asked: images with their ids, and prompts with the ids of their categories."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, ListConfig
from PIL import Image
from rich.console import Console

from sam3_hyperet.choices import AUTO
from sam3_hyperet.cli.of_run import config_of_run, listed
from sam3_hyperet.cli.progress import counted
from sam3_hyperet.data.annotations import AnnotatedImages, same_prompts, some
from sam3_hyperet.data.coco import read_coco_images
from sam3_hyperet.data.finding import IMAGE_ENDINGS, is_hidden, with_readable_name
from sam3_hyperet.data.image_files import has_hidden_orientation, has_orientation, image_size, read_image
from sam3_hyperet.data.parts import WithParts
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.inference.exemplar_file import ExemplarFile, StatedBox, exemplars_of, reach_beyond, read_exemplars
from sam3_hyperet.inference.exemplars import Exemplars
from sam3_hyperet.inference.tiles import Tiling
from sam3_hyperet.reading import regular_file
from sam3_hyperet.wording import count_of, is_plain_name, unique

_MOST_AT_ONCE, _CHECK_BYTES = 8, 2 * 1024**3
"""Images that are decoded at the same time to be checked, and the memory that they may take together."""
_BYTES_PER_PIXEL = 12
"""Of an image that is decoded: as stored, turned and in RGB, up to four bytes each."""
_MOST_TRIALS = 8


@dataclass(frozen=True)
class Inputs:
    """paths, ids: of the images. categories: id of each prompt. everywhere: those that are asked of every image.

    boxes: by image, the exemplars' boxes, whose prompts are asked of that image as well.
    """

    paths: Sequence[Path]
    ids: Sequence[int]
    categories: Mapping[str, int]
    upright: bool
    annotated: AnnotatedImages | None = None  # those of `annotations=`
    everywhere: Sequence[str] = ()
    boxes: Mapping[int, Sequence[StatedBox]] = field(default_factory=dict)
    notes: Sequence[str] = ()  # lines about prompts and exemplars

    @classmethod
    def of(cls, config: DictConfig) -> "Inputs":
        """Those of `images=`, `prompts=`, `annotations=` and `exemplars=`. Raises ConfigError or DataError."""
        stated = None if config.exemplars is None else read_exemplars(Path(str(config.exemplars)).expanduser())
        upright = config.exif == "apply" or (config.exif == "auto" and config.annotations is None)
        if config.annotations is None:
            if config.prompts is None and stated is None:
                others = "annotations=FILE for the categories of a COCO file or exemplars=FILE for boxes"
                raise ConfigError(f"predict: needs prompts=…, or {others}")
            paths = find_images(config.images)
            written = listed_prompts(config.prompts) if config.prompts is not None else []
            names = same_prompts([*written, *(stated.prompts if stated else ())])
            prompts = dict.fromkeys(names[prompt] for prompt in written)
            ids = {prompt: number for number, prompt in enumerate(dict.fromkeys(names.values()), start=1)}
            inputs = cls(paths, range(1, len(paths) + 1), ids, upright, everywhere=tuple(prompts))
            return replace(inputs, notes=_matched(names))._with(stated, names, config.exif)
        (file, *more), folders = listed(config.annotations), listed(config.images)
        if more or len(folders) != 1 or not folders[0].is_dir():
            raise ConfigError(
                f"images={config.images} with annotations={config.annotations}; expected one COCO file and the one "
                "folder below which its images lie"
            )
        found = read_coco_images(file, folders[0], upright=upright)
        known, renamed = _called_as_trained(found, config.run)
        written = listed_prompts(config.prompts) if config.prompts is not None else list(known)
        names = same_prompts(written, known)
        if unknown := [prompt for prompt in written if names[prompt] not in known]:
            raise ConfigError(f"prompts={some(unknown)}: no category of {file}, which has {some(known, 20)}")
        images = [found.image(i) for i in range(len(found))]
        categories = {names[prompt]: known[names[prompt]] for prompt in written}
        names |= same_prompts(stated.prompts if stated else (), known)
        if stated and (unknown := [prompt for prompt in stated.prompts if names[prompt] not in categories]):
            expected = f"expected categories of {file}, whose ids results.json has: {some(list(categories), 20)}"
            raise ConfigError(f"exemplars={config.exemplars}: boxes of {some(unknown)}; {expected}")
        paths, numbers = [one.path for one in images], [one.image_id for one in images]
        notes = (*found.remarks, *renamed, *_matched(names))
        inputs = cls(paths, numbers, categories, upright, found, tuple(categories), notes=notes)
        return inputs._with(stated, names, config.exif)

    def _with(self, stated: ExemplarFile | None, names: Mapping[str, str], exif: str) -> "Inputs":
        """The same with the boxes of a file, whose prompts are called as `names` has them.

        Raises DataError for names of images that are not there, and for images that are none.
        """
        if stated is None:
            return self
        boxes, total = stated.renamed(names).by_image(self.paths), len(stated.boxes)
        if not boxes and not self.everywhere:
            named, there = some(list(stated.boxes)), some([path.name for path in self.paths])
            raise DataError(f"{stated.path}: no box of an image in images=, which has {there}; it has boxes of {named}")
        notes = [*self.notes, *([stated.ignored] if stated.ignored else [])]
        if len(boxes) < total:
            notes.append(f"{stated.path}: {total - len(boxes)} of {total} images with boxes are not among images=")
        if not self.everywhere and (without := len(self.paths) - len(boxes)):
            notes.append(f"{stated.path}: {without} of {len(self.paths)} images have no box: nothing is asked of them")
        if stated.is_coco and exif == AUTO and (turned := self._turned_unseen(boxes)):
            how = "turned by it" if self.upright else "stored"
            notes.append(
                f"{stated.path}: {turned} of {count_of(len(boxes), 'image')} with boxes: an EXIF orientation that no "
                f"size shows; the boxes are taken to be of images as they are {how}, expected "
                f"exif={'ignore' if self.upright else 'apply'} if they are not"
            )
        return replace(self, boxes=boxes, notes=notes)

    def _turned_unseen(self, boxes: Mapping[int, Sequence[StatedBox]]) -> int:
        """How many images with boxes are turned or mirrored by EXIF without a size in the file that shows how."""
        return sum(
            (has_orientation if any(one.size is None for one in of) else has_hidden_orientation)(self.paths[i])
            for i, of in boxes.items()
        )

    def asked(self, i: int, size: tuple[int, int]) -> dict[str, Exemplars | None]:
        """The prompts of image i, which has (width, height), with their boxes. Raises DataError naming the record."""
        return {**dict.fromkeys(self.everywhere), **exemplars_of(self.boxes.get(i, ()), size)}

    def load(self, i: int) -> Image.Image:
        """Image i in RGB. Raises DataError naming the file, also where its size is not that in the annotations."""
        return self.annotated.load_image(i) if self.annotated else read_image(self.paths[i], upright=self.upright)

    def check(self, tiling: Tiling, console: Console) -> tuple[list[str], list[tuple[int, int]]]:
        """Decode every image once: one that is broken or too small for tiles is an error before anything is written.

        Lines about prompts and boxes; width and height of each image.
        """
        with ThreadPoolExecutor(_MOST_AT_ONCE) as pool:
            largest = max(pool.map(lambda path: math.prod(image_size(path)), self.paths), default=1)
        at_once, sizes = max(1, min(_MOST_AT_ONCE, _CHECK_BYTES // (_BYTES_PER_PIXEL * largest))), []
        with ThreadPoolExecutor(at_once) as pool, counted(console, "images checked", len(self.paths)) as on_image:
            for size in pool.map(lambda i: self._check(i, tiling), range(len(self.paths))):
                sizes.append(size)
                on_image()
        beyond = sum(reach_beyond(boxes, sizes[i]) for i, boxes in self.boxes.items())
        cut = [f"exemplars: {count_of(beyond, 'box')} cut at the border of the image"] if beyond else []
        return [*self.notes, *cut], sizes

    def _check(self, i: int, tiling: Tiling) -> tuple[int, int]:
        """Decode an image; its width and height."""
        size = self.load(i).size
        if tiling.columns is not None:
            tiling.grid(*size, name=self.paths[i])
        self.asked(i, size)
        return size

    def overlays(self) -> list[str]:
        """A file name for each image's overlay."""
        names, taken = [], set[str]()
        for path in self.paths:
            names.append(f"{unique(path.stem, taken)}.png")
            taken.add(names[-1].removesuffix(".png"))
        return names

    def listing(self, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """A COCO file without annotations for these ids; sizes: width and height of each image."""
        images = zip(self.ids, self.paths, sizes, strict=True)
        return {
            "images": [
                {"id": number, "file_name": str(path), "width": width, "height": height}
                for number, path, (width, height) in images
            ],
            "categories": [{"id": number, "name": name} for name, number in self.categories.items()],
            "annotations": [],
        }


def _called_as_trained(images: AnnotatedImages, run: object) -> tuple[dict[str, int], list[str]]:
    """Ids of the categories by what the run's training called them, and a line where a file calls them otherwise."""
    called = {category.id: category.name for category in images.categories}
    for folder in listed(run):
        data = config_of_run(folder).data
        if data.get("parts") or data.get("renamed"):
            trained = WithParts(images, data.get("parts") or "", dict(data.get("renamed") or {}), all_fit=False)
            called = {category.id: category.name for category in trained.categories}
    others = [f"{c.name!r} as {called[c.id]!r}" for c in images.categories if c.name != called[c.id]]
    lines = [f"{count_of(len(others), 'category')} asked for as in training: {some(others)}"] if others else []
    return {name: number for number, name in called.items()}, lines


def _matched(names: Mapping[str, str]) -> list[str]:
    """A line about prompts that are taken for others, or written in another way, but for case and underscores."""
    others = [f"{written!r} as {name!r}" for written, name in names.items() if written != name]
    if not others:
        return []
    return [f"{count_of(len(others), 'prompt')} taken by another spelling (case, underscores, spaces): {some(others)}"]


def listed_prompts(prompts: str | ListConfig) -> list[str]:
    """The noun phrases of `prompts=car,house` or `prompts=[car,house]`. Raises ConfigError for a null."""
    if isinstance(prompts, DictConfig) or (isinstance(prompts, ListConfig) and any(map(_is_nested, prompts))):
        raise ConfigError(f"prompts={prompts}; expected noun phrases, prompts=car,house or prompts=[car,house]")
    if not isinstance(prompts, ListConfig):
        return [prompt.strip() for prompt in str(prompts).split(",")]
    if None in prompts:
        raise ConfigError("prompts has a null; expected noun phrases")
    return list(map(str, prompts))


def prompts_text(names: Sequence[str]) -> str:
    """The value of `prompts=` that `listed_prompts` reads as these names: between commas where that is unmistakable."""
    is_plain = all(map(is_plain_name, names)) and list(names) != ["null"]
    return ",".join(names) if is_plain else json.dumps(list(names), ensure_ascii=False)


def _is_nested(prompt: object) -> bool:
    return isinstance(prompt, ListConfig | DictConfig)


def passed_over(images: str | Sequence[str]) -> list[str]:
    """A line for each folder of `images=` that has other files or folders than images, which are not looked at."""
    lines = []
    for folder in (path for path in listed(images) if path.is_dir()):
        others = [p for p in folder.iterdir() if p.suffix.lower() not in IMAGE_ENDINGS and not is_hidden(p.name)]
        if others:
            names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in others)
            lines.append(f"{folder}: {len(others)} other files and folders are passed over: {some(names)}")
    return lines


def trial_images(images: str | Sequence[str] | None, say: Callable[[str], None]) -> list[Image.Image]:
    """The images that a model is checked on: at most 8 of those that `images=` names, or one of noise without any."""
    if images:
        found = find_images(images)
        chosen = [found[i * len(found) // _MOST_TRIALS] for i in range(_MOST_TRIALS)] if found[_MOST_TRIALS:] else found
        if len(chosen) < len(found):
            say(f"checked on {len(chosen)} of {len(found)} images, evenly spread")
        return [_shrunk(read_image(path, upright=True)) for path in chosen]
    return [Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))]


def _shrunk(image: Image.Image) -> Image.Image:
    """The image with a side of 2048 pixels at most, which the model shrinks further: several are kept."""
    image.thumbnail((2048, 2048))
    return image


def find_images(images: str | Sequence[str]) -> list[Path]:
    """The images that `images=` names, each once; hidden files are skipped.

    Raises DataError for a path that does not exist, and for a folder without images.
    """
    found: list[Path] = []
    for path in listed(images):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_ENDINGS and not is_hidden(p.name))
            if not inside:
                expected = f"expected files ending in {', '.join(IMAGE_ENDINGS)}"
                raise DataError(f"{path}: no images in this folder; {expected}")
            found += map(with_readable_name, inside)
        elif os.path.lexists(path):
            found.append(with_readable_name(regular_file(path)))
        else:
            raise DataError(f"{path}: no such image or folder")
    return list(dict.fromkeys(found))
