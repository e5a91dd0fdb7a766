"""A small valid set of every kind of file that a tool reads, and ways to spoil one of them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

HEIGHT, WIDTH = 16, 24
SQUARE = [2, 2, 10, 2, 10, 10, 2, 10]
RLE = {"size": [HEIGHT, WIDTH], "counts": [0, 40, HEIGHT * WIDTH - 40]}
ANNOTATIONS = "coco/annotations/instances_val.json"
ADAPTER = "adapter.safetensors"
Spoil = Callable[[Path], object]


def write_tree(root: Path, adapter: Path) -> None:
    """Write it below `root`.

    coco/: two pictures a split with a car each. detections.json: what fits them. maps/: pictures, labels, predictions
    and names.txt. adapter.safetensors: a copy of `adapter`.
    """
    (root / "coco/annotations").mkdir(parents=True)
    images = [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in (1, 2)]
    cars = [
        {
            "id": n,
            "image_id": n,
            "category_id": 3,
            "bbox": [2, 2, 8, 8],
            "area": 64,
            "iscrowd": 0,
            "segmentation": [SQUARE],
        }
        for n in (1, 2)
    ]
    content = {
        "images": images,
        "annotations": cars,
        "categories": [{"id": 3, "name": "car"}, {"id": 5, "name": "bus"}],
    }
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for split in ("train", "val"):
        (root / "coco" / split).mkdir()
        (root / f"coco/annotations/instances_{split}.json").write_text(json.dumps(content))
        for n in (1, 2):
            Image.fromarray(pixels).save(root / "coco" / split / f"{n}.png")
    detections = [
        {"image_id": 1, "category_id": 3, "score": 0.9, "bbox": [2, 2, 8, 8], "segmentation": RLE},
        {"image_id": 2, "category_id": 3, "score": 0.8, "bbox": [0, 0, 4, 4], "segmentation": RLE},
    ]
    (root / "detections.json").write_text(json.dumps(detections))
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[4:] = 1
    labels[12:] = 255
    for folder, array in (("pictures", pixels), ("labels", labels), ("predictions", np.roll(labels, 3))):
        (root / "maps" / folder).mkdir(parents=True)
        for n in (1, 2):
            Image.fromarray(array).save(root / "maps" / folder / f"{n}.png")
    (root / "maps/names.txt").write_text("sky\nroad\n")
    (root / ADAPTER).write_bytes(adapter.read_bytes())


def edit(file: str, change: Callable[[Any], Any]) -> Spoil:
    """Change a JSON file's content in place, or replace it by what `change` returns."""

    def spoil(root: Path) -> None:
        content = json.loads((root / file).read_text())
        changed = change(content)
        (root / file).write_text(json.dumps(content if changed is None else changed))

    return spoil


def setting(file: str, *keys: Any) -> Spoil:
    """Set content[keys[0]][keys[1]]… to the last of `keys`."""
    *path, last, value = keys

    def change(content: Any) -> None:
        for key in path:
            content = content[key]
        content[last] = value

    return edit(file, change)


def image(key: str, value: Any, n: int = 0) -> Spoil:
    """Set a key of an image of the annotations."""
    return setting(ANNOTATIONS, "images", n, key, value)


def annotation(key: str, value: Any, n: int = 0) -> Spoil:
    """Set a key of an annotation."""
    return setting(ANNOTATIONS, "annotations", n, key, value)


def category(key: str, value: Any, n: int = 1) -> Spoil:
    """Set a key of a category."""
    return setting(ANNOTATIONS, "categories", n, key, value)


def detection(*keys_and_value: Any) -> Spoil:
    """Set a key of a detection."""
    return setting("detections.json", 1, *keys_and_value)


def without(file: str, *keys: Any) -> Spoil:
    """Take content[keys[0]]… out."""
    *path, last = keys

    def change(content: Any) -> None:
        for key in path:
            content = content[key]
        del content[last]

    return edit(file, change)


def text(file: str, content: str | bytes) -> Spoil:
    """Replace a file by a text or bytes."""
    return lambda root: (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(file: str, share: float = 0.5) -> Spoil:
    """Keep the beginning of a file."""
    return lambda root: (root / file).write_bytes((b := (root / file).read_bytes())[: int(share * len(b))])


def gone(file: str) -> Spoil:
    """Remove a file, or a folder with what is in it."""

    def spoil(root: Path) -> None:
        path = root / file
        for inside in sorted(path.rglob("*"), reverse=True):
            inside.rmdir() if inside.is_dir() else inside.unlink()
        path.rmdir() if path.is_dir() else path.unlink()

    return spoil


def folder(file: str) -> Spoil:
    """A folder in a file's place."""

    def spoil(root: Path) -> None:
        (root / file).unlink()
        (root / file).mkdir()

    return spoil


def picture(file: str, change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Change the pixels of a picture."""
    return lambda root: Image.fromarray(change(np.asarray(Image.open(root / file)))).save(root / file)


def mode(file: str, name: str) -> Spoil:
    """Store a picture's values in another mode of Pillow; "P" gets a palette whose colours are not its indices."""

    def spoil(root: Path) -> None:
        values = np.asarray(Image.open(root / file))
        if name == "P":
            image = Image.fromarray(values).convert("L")
            image = Image.frombytes("P", image.size, image.tobytes())
            image.putpalette([(7 * k) % 256 for k in range(768)])
        elif name == "I;16":
            image = Image.fromarray(values.astype(np.uint16))
        else:
            image = Image.fromarray(values).convert(name)
        image.save(root / file)

    return spoil


def tensors(change: Callable[[dict[str, Any], dict[str, str]], None]) -> Spoil:
    """Change the adapter file's tensors and metadata in place."""

    def spoil(root: Path) -> None:
        path = root / ADAPTER
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata())
        found = load_file(path)
        change(found, metadata)
        save_file(found, path, metadata=metadata or None)

    return spoil


def both(*spoils: Spoil) -> Spoil:
    """One after the other."""
    return lambda root: [spoil(root) for spoil in spoils]


def huge_png(file: str, width: int, height: int) -> Spoil:
    """Let a PNG declare another size than it has."""

    def spoil(root: Path) -> None:
        content = bytearray((root / file).read_bytes())
        content[16:24] = struct.pack(">II", width, height)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        (root / file).write_bytes(content)

    return spoil
