"""The pictures of `exports` as YOLO folders, VOC trees and coloured masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from export_pictures import CATEGORIES, HEIGHT, SPLITS, WIDTH, Picture, polygon, write_pictures

NAMES = list(CATEGORIES)


def yolo(root: Path) -> Path:
    """Ultralytics' own tree, with the path of another machine and names by index."""
    for split, name in {"train": "train", "tune": "val", "val": "test"}.items():
        write_yolo(root / "images" / name, root / "labels" / name, SPLITS[split])
    names = "\n".join(f"  {index}: {name}" for index, name in enumerate(NAMES))
    (root / "shop.yaml").write_text(
        f"path: ../datasets/shop # root\ntrain: images/train\nval: images/val\ntest: images/test\n\nnames:\n{names}\n"
    )
    return root


def roboflow_yolo(root: Path) -> Path:
    """Roboflow's export, whose paths lead out of the folder."""
    for split, name in {"train": "train", "tune": "valid", "val": "test"}.items():
        write_yolo(root / name / "images", root / name / "labels", SPLITS[split])
    (root / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: {len(NAMES)}\nnames: {NAMES}\n"
        "roboflow:\n  workspace: shop\n  license: CC BY 4.0\n"
    )
    return root


def cvat_yolo(root: Path) -> Path:
    """CVAT's Ultralytics export, with a list of images for each subset."""
    for split, name in {"train": "train", "val": "val"}.items():
        write_yolo(root / "images" / name, root / "labels" / name, SPLITS[split])
        listed = [f"data/images/{name}/{picture.name}" for picture in SPLITS[split]]
        (root / f"{name}.txt").write_text("\n".join(listed) + "\n")
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(NAMES))
    (root / "data.yaml").write_text(f"names:\n{names}path: .\ntrain: train.txt\nval: val.txt\n")
    return root


def write_yolo(
    images: Path, labels: Path, pictures: Iterable[Picture], name: Callable[[Picture], str] = lambda p: p.name
) -> None:
    """Write pictures and their label files."""
    pictures = list(pictures)
    write_pictures(images, pictures, name)
    for picture in pictures:
        rows = []
        for category, *box in picture.boxes:
            fractions = [v / (HEIGHT if n % 2 else WIDTH) for n, v in enumerate(polygon(box))]
            rows.append(" ".join(map(str, (NAMES.index(category), *fractions))))
        path = (labels / name(picture)).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(rows) + "\n" if rows else "")
