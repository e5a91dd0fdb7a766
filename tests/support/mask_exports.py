"""The pictures of `exports` as YOLO folders, VOC trees and coloured masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from export_pictures import ALL, CATEGORIES, HEIGHT, SPLITS, WIDTH, Picture, polygon, write_pictures
from PIL import Image

from sam3_hyperet.layouts.masks import voc_colors

NAMES = list(CATEGORIES)
LABELS = {name: value for value, name in enumerate(NAMES, start=1)}
VOC_LABELS = {"car": 7, "dog": 12, "house": 15}  # houses are people here: VOC has no house
COLORS = {"background": (0, 0, 0), "car": (128, 0, 0), "dog": (0, 128, 0), "house": (10, 20, 30)}


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


def cvat_yolo_project(root: Path) -> Path:
    """The same of a project with CVAT's own names of subsets, which are keys of data.yaml as they are."""
    for split, name in {"train": "Train", "tune": "Validation", "val": "Test"}.items():
        write_yolo(root / "images" / name, root / "labels" / name, SPLITS[split])
        listed = [f"data/images/{name}/{picture.name}" for picture in SPLITS[split]]
        (root / f"{name}.txt").write_text("\n".join(listed) + "\n")
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(NAMES))
    (root / "data.yaml").write_text(
        f"Test: Test.txt\nTrain: Train.txt\nValidation: Validation.txt\nnames:\n{names}path: .\n"
    )
    return root


def voc(root: Path) -> Path:
    """VOC's tree: palette maps of classes and of objects, each with a border of no class."""
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, name in {"train": "train", "val": "val"}.items():
        write_pictures(root / "JPEGImages", SPLITS[split])
        (lists / f"{name}.txt").write_text("\n".join(picture.stem for picture in SPLITS[split]) + "\n")
        for picture in SPLITS[split]:
            for folder, values in {"Class": VOC_LABELS, "Object": None}.items():
                drawn = Image.fromarray(label_map(picture, values)).convert("P")
                drawn.putpalette([value for color in voc_colors(256) for value in color])
                save(drawn, root / f"Segmentation{folder}" / f"{picture.stem}.png")
    return root


def cvat_masks(root: Path) -> Path:
    """CVAT's "Segmentation mask 1.1": coloured masks, one list for all."""
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "default.txt").write_text("\n".join(picture.stem for picture in ALL) + "\n")
    rows = [f"{name}:{','.join(map(str, color))}::" for name, color in COLORS.items()]
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(rows) + "\n")
    write_pictures(root / "JPEGImages", ALL)
    for picture in ALL:
        save(coloured(picture), root / "SegmentationClass" / f"{picture.stem}.png")
        objects = np.asarray(voc_colors(256), np.uint8)[label_map(picture, None)]
        save(Image.fromarray(objects), root / "SegmentationObject" / f"{picture.stem}.png")
    return root


def roboflow_masks(root: Path) -> Path:
    """Roboflow's semantic masks beside the images."""
    for split, name in {"train": "train", "tune": "valid", "val": "test"}.items():
        write_pictures(root / name, SPLITS[split])
        for picture in SPLITS[split]:
            save(Image.fromarray(label_map(picture)), root / name / f"{picture.stem}_mask.png")
        rows = [f"{value}, {label}" for value, label in enumerate(["background", *NAMES])]
        (root / name / "_classes.csv").write_text("Pixel Value, Class\n" + "\n".join(rows) + "\n")
    return root


def camvid_masks(root: Path) -> Path:
    """CamVid as it is on Kaggle: coloured masks and a table."""
    for split, name in {"train": "train", "tune": "val", "val": "test"}.items():
        write_pictures(root / name, SPLITS[split])
        for picture in SPLITS[split]:
            save(coloured(picture), root / f"{name}_labels" / f"{picture.stem}_L.png")
    rows = [f"{name},{','.join(map(str, color))}" for name, color in COLORS.items()]
    (root / "class_dict.csv").write_text("name,r,g,b\n" + "\n".join(rows) + "\n")
    return root


def label_maps(root: Path) -> Path:
    """Images and masks with splits in them, and a list of names."""
    for split, name in {"train": "train", "val": "val"}.items():
        write_pictures(root / "images" / name, SPLITS[split])
        for picture in SPLITS[split]:
            save(Image.fromarray(label_map(picture)), root / "masks" / name / f"{picture.stem}.png")
    (root / "classes.txt").write_text("\n".join(["background", *NAMES]) + "\n")
    return root


def label_map(picture: Picture, labels: dict[str, int] | None = LABELS) -> np.ndarray:
    """(H, W) uint8, 0 where nothing is; without labels, the number of each object, and 255 in a corner."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, (category, x, y, width, height) in enumerate(picture.boxes, start=1):
        found[y : y + height, x : x + width] = number if labels is None else labels[category]
    if labels in (None, VOC_LABELS):
        found[:2, :2] = 255
    return found


def coloured(picture: Picture) -> Image.Image:
    """The label map in colours."""
    return Image.fromarray(np.asarray(list(COLORS.values()), np.uint8)[label_map(picture)])


def save(image: Image.Image, path: Path) -> None:
    """Save an image; parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


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


MASKS: dict[str, Callable[[Path], Path]] = {
    "VOC": voc,
    "CVAT, segmentation masks": cvat_masks,
    "Roboflow, semantic masks": roboflow_masks,
    "CamVid, coloured": camvid_masks,
    "label maps": label_maps,
}
"""By the name of a layout of masks, its writer."""
