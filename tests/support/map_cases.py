"""Label maps of two pictures a split, as people have them, and what is right for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 64, 96
Save = Callable[[np.ndarray, Path], object]


def save(values: np.ndarray, path: Path) -> None:
    Image.fromarray(values).save(path)


@dataclass(frozen=True)
class MapCase:
    """How labels and images are saved, the names, and the regions of a split, or the message that refuses it."""

    labels: Save = save
    regions: int = 6
    refused: str = ""
    names: str = "sky\ncar\nhouse\n"
    images: Save = save
    files: Callable[[Path], object] | None = None  # of the root, once written
    options: dict[str, Any] = field(default_factory=dict)
    repaired: dict[str, int] = field(default_factory=dict)
    note: str = "0 sky|1 car|2 house"

    @property
    def counts(self) -> tuple[Counter[str], Counter[str]]:
        return Counter(), Counter(self.repaired)


def write_maps(root: Path, case: MapCase) -> dict[str, Any]:
    """Write a case below `root`; returns the data options."""
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (root / split / folder).mkdir(parents=True)
        for n in (0, 1):
            values = np.zeros((HEIGHT, WIDTH), np.uint8)
            values[20:40, 10 + n : 50], values[45:60, 40:80] = 1, 2
            noise = np.random.default_rng(n).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            case.images(noise, root / split / f"images/f{n}.png")
            case.labels(values, root / split / f"labels/f{n}.png")
    (root / "names.txt").write_text(case.names)
    if case.files:
        case.files(root)
    splits = {split: [f"{split}/images", f"{split}/labels"] for split in ("train", "val")}
    data = {"name": "shop", "format": "label_maps", "root": str(root), "splits": splits, "names": "names.txt"}
    return data | {"tune_images": 0} | case.options


def of(change: Callable[[np.ndarray], np.ndarray], **keys: Any) -> Save:
    """Saved after a change of the values."""
    return lambda values, path: Image.fromarray(change(values)).save(path, **keys)


def palette(**keys: Any) -> Save:
    def save_palette(values: np.ndarray, path: Path) -> None:
        image = Image.frombytes("P", values.shape[::-1], values.tobytes())
        image.putpalette([(7 * k) % 256 for k in range(768)])
        image.save(path, **keys)

    return save_palette


def pages(values: np.ndarray, path: Path) -> None:
    first = Image.fromarray(values)
    first.save(path.with_suffix(".tif"), save_all=True, append_images=[first])


def sideways(values: np.ndarray, path: Path) -> None:
    """A JPEG whose EXIF orientation is a quarter of a turn."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(path.with_suffix(".jpg"), exif=exif)


def each_file(pattern: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
    def files(root: Path) -> None:
        for path in sorted(root.glob(pattern)):
            change(path)

    return files


def system_files(root: Path) -> None:
    """What macOS, Windows and a Synology leave in folders."""
    for folder in root.glob("*/*"):
        if folder.is_dir():
            (folder / "@eaDir/f0.png").mkdir(parents=True)
            for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._f0.png", "@eaDir/f0.png/SYNOPHOTO_THUMB_M.jpg"):
                (folder / name).write_bytes(b"\0")


def linked(path: Path) -> None:
    target = path.parents[1] / f"{path.parent.name}-{path.name}"
    path.rename(target)
    path.symlink_to(target)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere.png")


TURNED = of(lambda v: v.T.copy())
BINARY = of(lambda v: (v > 0).astype(np.uint8) * 255)
NUMBER = "name with a number before it, which is left out"
MAPS = {
    "palette": MapCase(palette()),
    "palette with a transparent index": MapCase(palette(transparency=0)),
    "palette with transparencies": MapCase(palette(transparency=b"\x00\xff\x80")),
    "16 bit": MapCase(of(lambda v: v.astype(np.uint16))),
    "1 bit": MapCase(of(lambda v: v > 0), 4, names="sky\ncar\n"),
    "colours": MapCase(
        of(lambda v: np.stack([v * 100, v * 0, v * 50], axis=-1)), refused="f0.png: found RGB pixels, expected"
    ),
    "floats": MapCase(
        lambda v, path: Image.fromarray(v.astype(np.float32)).save(path.with_suffix(".tif")),
        refused="f0.tif: found F pixels, expected",
    ),
    "JPEG files": MapCase(
        lambda v, path: Image.fromarray(v).save(path.with_suffix(".jpg")), refused="labels: no file ends in .png"
    ),
    "TIFF of two pages": MapCase(pages, refused="f0.tif: it has 2 pages or frames, expected one label map"),
    "a pixel smaller": MapCase(of(lambda v: v[:-1]), refused="image 0 is 96x64 pixels, .* for 96x63"),
    "turned": MapCase(
        TURNED,
        refused="image 0 is 96x64 pixels, .* for 64x96; expected data.exif=apply .in predict: exif=apply., if EXIF",
    ),
    "turned, as EXIF turns the image": MapCase(
        TURNED, images=sideways, options={"exif": "apply"}, note="2 of 2 images looked at have an EXIF orientation"
    ),
    "turned, EXIF ignored": MapCase(
        TURNED, images=sideways, refused="for 64x96; expected data.exif=apply .in predict: exif=apply., if EXIF"
    ),
    "values from 1": MapCase(of(lambda v: v + 1), refused="values 1 to 3, for 3 names; .*expected data.offset=1"),
    "values from 1, and said so": MapCase(of(lambda v: v + 1), options={"offset": 1}, note="1 sky .*3 house"),
    "a value more than names": MapCase(names="car\nhouse\n", refused="values 0 to 2, for 2 names; .*data.ignore=0"),
    "0 and 255, one name": MapCase(BINARY, names="car\n", refused="values 0 and 255 alone, for one name"),
    "0 and 255, two names": MapCase(
        BINARY, names="background\ncar\n", refused="one of the classes car; .* 'data.colors="
    ),
    "0 and 255, two classes": MapCase(BINARY, 2, names="road\ncar\n", note="say 'data.colors="),
    "0 and 255, as grey values": MapCase(
        BINARY, 2, options={"colors": {"background": 0, "car": 255}}, note=r"\[255, 255, 255\] car"
    ),
    "0, 128 and 255": MapCase(
        of(lambda v: np.array([0, 128, 255], np.uint8)[v]), refused="has the label 128, expected 0 to 2, or 255"
    ),
    "a value that is no class": MapCase(
        of(lambda v: np.array([0, 1, 11], np.uint8)[v]),
        refused="has the label 11, expected 0 to 2, or 255 for no class; if 11 is no class: data.ignore=11",
    ),
    "the value behind the last is no class": MapCase(
        names="sky\ncar\n", refused="values 0 to 2, for 2 names; .*if 2 is no class: data.ignore=2"
    ),
    "a value that is no class, and said so": MapCase(
        of(lambda v: np.array([0, 1, 11], np.uint8)[v]), 4, names="sky\ncar\n", options={"ignore": 11}
    ),
    "everything ignored": MapCase(
        of(lambda v: v * 0 + 255), refused="no pixel in all label maps has one of the classes sky, .*; found 255 100"
    ),
    "a class that is none by its name": MapCase(
        names="Unlabeled\ncar\nhouse\n",
        regions=4,
        note=r"not asked for and not scored: Unlabeled \(0\); data.void_classes=true makes",
    ),
    "a class that is none by its name, the last": MapCase(
        names="sky\ncar\n__ignore__\n", regions=4, note=r"not scored: __ignore__ \(2\); data.void_classes"
    ),
    "a class that is none by its name, and is one": MapCase(
        names="unlabeled\ncar\nhouse\n", options={"void_classes": True}, note="0 unlabeled"
    ),
    "a colour that is no class by its name": MapCase(
        of(lambda v: v * np.uint8(90)),
        4,
        options={"names": "", "colors": {"void": 0, "car": 90, "house": 180}},
        note="not scored: void; data.void_classes=true",
    ),
    "a colour that is a class whatever its name": MapCase(
        of(lambda v: v * np.uint8(90)),
        options={"names": "", "colors": {"void": 0, "car": 90, "house": 180}, "void_classes": True},
        note="void",
    ),
    "names with their numbers": MapCase(names="0: sky\n1: car\n2: house\n", repaired={NUMBER: 3}, note="0 sky"),
    "names with their numbers, from 1": MapCase(
        of(lambda v: v + 1), names="1 sky\n2 car\n3 house\n", repaired={NUMBER: 3}, note="1 sky"
    ),
    "names as a table": MapCase(names="id,name\n0,sky\n1,car\n2,house\n", repaired={NUMBER: 3}, note="0 sky"),
    "names with other numbers": MapCase(names="7: sky\n9: car\n21: house\n", refused="names are numbered 7, 9, 21"),
    "names that begin with numbers": MapCase(names="1 cent\n2 cent\n5 cent\n", note="0 1 cent"),
    "names as JSON": MapCase(names='{"0": "sky", "1": "car"}', refused="names.txt: it looks like JSON"),
    "names with a comment": MapCase(names="# mine\nsky\ncar\nhouse\n", refused="line 1 is the comment '# mine'"),
    "names with a gap": MapCase(names="sky\n\ncar\nhouse\n", refused="name 2 is ''"),
    "names that differ in case": MapCase(names="sky\ncar\nCar\n", refused="name 3 is 'Car', as name 2 is"),
    "names of labelme": MapCase(
        regions=4,
        names="__ignore__\n_background_\ncar\nhouse\n",
        repaired={"labelme's line __ignore__ before the first name, left out": 1},
        note="0 background",
    ),
    "system files": MapCase(files=system_files),
    "upper-case suffixes": MapCase(files=each_file("*/*/*.png", lambda path: path.rename(path.with_suffix(".PNG")))),
    "linked files": MapCase(files=each_file("*/*/*.png", linked)),
    "links to nothing": MapCase(files=each_file("*/images/*.png", dangling), refused="f0.png: no such file"),
    "names with spaces and accents": MapCase(
        files=each_file("*/*/*.png", lambda path: path.rename(path.with_name(f"é 🚗 {path.name}")))
    ),
    "names of another ending": MapCase(
        files=each_file("*/labels/*.png", lambda path: path.rename(path.with_name(f"{path.stem}_mask.png"))),
        refused="2 images without a label map .*data.label_ending=_mask.png",
    ),
    "a label map missing": MapCase(
        files=each_file("train/labels/f0.png", Path.unlink), refused="1 image without a label map in .*: f0"
    ),
}
