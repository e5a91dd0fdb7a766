"""The embedded data set `scenes`: drawn images, annotated at three granularities, from nothing but a seed.

Written as COCO instances and ADE-style label maps, so the readers and evaluators of the real sets run on it:

    root/names.txt                                       the object-level classes, in label order
    root/concepts.json                                   the tree: id, name, granularity, parents, synonyms
    root/annotations/instances_<split>.json              all granularities
    root/<split>/images/000001.png
    root/<split>/labels/000001.png                       0 = unlabelled, 1… = the line of names.txt
    root/<split>/manifest.json                           what the split was made from; its last file

Beyond COCO's own keys, a category has `granularity`; an annotation has `object_id`, the id of the object
that it is, is a part of, or is the group view of; a thing and its group view have `attributes: {"color": …}`.
"""

import json
import os
import re
import shutil
import tempfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.reading import read_json, read_text
from sam3_hyperet.scenes.concepts import CONCEPTS, OBJECTS, group_of
from sam3_hyperet.scenes.drawing import Image, SceneInstance, draw_scene

VERSION = 1  # of the images: raise it whenever the same seed draws something else
MIN_SIZE = 64


@dataclass
class SceneSplit:
    """A written split: where it is, and what it was made from."""

    root: Path
    split: str
    images: int
    seed: int
    size: int

    def __post_init__(self) -> None:
        self.folder = self.root / self.split
        self.image_folder, self.label_folder = self.folder / "images", self.folder / "labels"
        self.names, self.concepts = self.root / "names.txt", self.root / "concepts.json"
        self.annotations = self.root / "annotations" / f"instances_{self.split}.json"

    def manifest(self) -> dict[str, Any]:
        made_from = {"split": self.split, "images": self.images, "seed": self.seed, "size": self.size}
        return {"dataset": "scenes", "version": VERSION, **made_from}


def scene(seed: int, split: str, index: int, size: int = 128) -> tuple[Image, list[SceneInstance]]:
    """Image number `index` (from 1) of a split, (size, size, 3) RGB uint8, and its instances.

    A function of its arguments alone. Objects come first, then parts, then groups.
    """
    _check(seed, split, size)
    if index < 1:
        raise ConfigError(f"scenes index: {index}; images are numbered from 1")
    return draw_scene(np.random.default_rng(_entropy(seed, split, index)), size)


def _entropy(seed: int, split: str, index: int) -> tuple[int, int, int]:
    return seed, zlib.crc32(split.encode()), index


def scenes_folder(folder: Path, images: int, seed: int, size: int = 128) -> Path:
    """The root of so many scenes of a seed and size, below a folder for all of them.

    What another command draws beside them then replaces no picture that somebody is still to read.
    """
    return folder / f"{images}_of_seed_{seed}_{size}px"


class DrawnFrom:
    """From the file of a scene to the entropy of the generator that drew it; None of any other file."""

    def __init__(self) -> None:
        self._manifests: dict[Path, dict[str, Any]] = {}

    def __call__(self, file: Path) -> tuple[int, int, int] | None:
        folder = file.parent.parent
        if folder not in self._manifests:
            manifest = folder / "manifest.json"
            found = read_json(manifest) if manifest.is_file() else None
            self._manifests[folder] = found if isinstance(found, dict) and found.get("dataset") == "scenes" else {}
        made = self._manifests[folder]
        return _entropy(made["seed"], made["split"], int(file.stem)) if made else None


def write_scenes(root: Path, images: int, seed: int, size: int = 128, split: str = "train") -> SceneSplit:
    """Write images 1 … images of a split, unless they are there; a split of another seed, size or count is replaced.

    Nothing takes its final name before all is complete. Raises DataError where its folder holds something else.
    """
    _check(seed, split, size)
    if images < 1:
        raise ConfigError(f"scenes images: {images}; expected at least 1")
    result = SceneSplit(Path(root), split, images, seed, size)
    if _is_complete(result):
        return result
    _check_replaceable(result)
    result.root.mkdir(parents=True, exist_ok=True)
    draft = SceneSplit(Path(tempfile.mkdtemp(prefix=f".{split}-", dir=result.root)), split, images, seed, size)
    try:
        _write(draft)
        _publish(draft, result)
    finally:
        shutil.rmtree(draft.root, ignore_errors=True)
    return result


def label_map(instances: list[SceneInstance]) -> Image:
    """The object-level label map of a scene: 0 where unlabelled, else the object's category id."""
    labels = np.zeros(instances[0].mask.shape, np.uint8)
    for instance in instances:
        if instance.granularity == "object":
            labels[instance.mask] = CONCEPTS[instance.concept].id
    return labels


def _check(seed: int, split: str, size: int) -> None:
    if seed < 0:
        raise ConfigError(f"scenes seed: {seed}; expected 0 or more")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", split) or split == "annotations":
        raise ConfigError(f"scenes split: {split!r}; expected a plain name such as 'train' or 'val'")
    if size < MIN_SIZE:
        raise ConfigError(f"scenes size: {size}; expected at least {MIN_SIZE}")


def _is_complete(split: SceneSplit) -> bool:
    try:
        found = read_json(split.folder / "manifest.json")
    except DataError:
        return False
    folders = (split.image_folder, split.label_folder)
    return (
        found == split.manifest()
        and all(file.is_file() for file in (split.annotations, split.names, split.concepts))
        and all(folder.is_dir() and len(list(folder.iterdir())) == split.images for folder in folders)
    )


def _check_replaceable(split: SceneSplit) -> None:
    folder, file = split.folder, split.annotations
    if folder.exists() and not (folder / "manifest.json").is_file():
        raise DataError(f"{folder}: exists, but is no split of scenes (no manifest.json); choose another root or split")
    if file.exists() and '"description":"scenes"' not in read_text(file)[:100]:
        raise DataError(f"{file}: exists, but was not written by scenes; choose another root or split")


def _write(split: SceneSplit) -> None:
    for folder in (split.image_folder, split.label_folder, split.annotations.parent):
        folder.mkdir(parents=True)
    records, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for index in range(1, split.images + 1):
        picture, instances = scene(split.seed, split.split, index, split.size)
        name = f"{index:06d}.png"
        _write_png(split.image_folder / name, np.ascontiguousarray(picture[..., ::-1]))
        _write_png(split.label_folder / name, label_map(instances))
        records.append({"id": index, "file_name": name, "width": split.size, "height": split.size})
        annotations.extend(_annotations(instances, index, len(annotations) + 1))
    _write_json(split.annotations, _coco(records, annotations))
    split.names.write_text("".join(f"{name}\n" for name in OBJECTS))
    _write_json(split.concepts, [asdict(concept) for concept in sorted(CONCEPTS.values(), key=lambda c: c.id)])
    _write_json(split.folder / "manifest.json", split.manifest())


def _annotations(instances: list[SceneInstance], image_id: int, first_id: int) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for number, instance in enumerate(instances):
        code = coco_mask.encode(np.asfortranarray(instance.mask, dtype=np.uint8))
        annotation: dict[str, Any] = {
            "id": first_id + number,
            "image_id": image_id,
            "category_id": CONCEPTS[instance.concept].id,
            "bbox": coco_mask.toBbox(code).tolist(),
            "area": float(coco_mask.area(code)),
            "iscrowd": 0,
            "segmentation": {"size": list(code["size"]), "counts": code["counts"].decode("ascii")},
            "object_id": first_id + instance.owner,
        }
        color = {} if instance.color is None else {"attributes": {"color": instance.color}}
        annotations.append(annotation | color)
    return annotations


def _coco(records: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    categories = []
    for concept in sorted(CONCEPTS.values(), key=lambda concept: concept.id):
        above = (group_of(concept.name) if concept.granularity == "object" else None) or ""
        category = {"id": concept.id, "name": concept.name, "granularity": concept.granularity, "supercategory": above}
        categories.append(category)
    info = {"description": "scenes", "version": str(VERSION)}
    content = {"info": info, "licenses": [], "images": records}
    return content | {"annotations": annotations, "categories": categories}


def _publish(draft: SceneSplit, final: SceneSplit) -> None:
    """Move a complete draft to its place; the split's folder, which holds the manifest, goes last.

    One that another process has meanwhile completed stays: somebody may be reading it.
    """
    final.annotations.parent.mkdir(exist_ok=True)
    if final.folder.exists():  # asked first: what appears later is complete, and the last rename then fails
        if _is_complete(final):
            return
        final.folder.rename(draft.root / "replaced")
    os.replace(draft.annotations, final.annotations)
    os.replace(draft.names, final.names)
    os.replace(draft.concepts, final.concepts)
    try:
        draft.folder.rename(final.folder)
    except OSError as error:
        if not _is_complete(final):  # complete: another process has just written the same
            raise DataError(f"{final.folder}: appeared while the split was written, with other contents") from error


def _write_png(path: Path, picture: Image) -> None:
    if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise DataError(f"{path}: could not be written")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, separators=(",", ":")))
