"""Label maps and coloured masks: VOC, CVAT's and Roboflow's exports, ADE20K, Cityscapes, two folders and names."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

from sam3_hyperet.data.annotations import some
from sam3_hyperet.data.finding import IMAGE_ENDINGS, LABEL_ENDINGS, SPLIT_WORDS, below, walk
from sam3_hyperet.data.image_files import open_image
from sam3_hyperet.data.label_maps import read_label_values
from sam3_hyperet.data.options import SPLITS
from sam3_hyperet.errors import DataError
from sam3_hyperet.layouts.layout import Found, Layout

VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor"),
)
_WORDS = {
    split: tuple(form for word in words for form in (word, word.capitalize(), word.upper()))
    for split, words in SPLIT_WORDS.items()
} | {"": ("", "default", "trainval", "all")}
_IMAGES = (
    "images",
    "image",
    "imgs",
    "img",
    "JPEGImages",
    "leftImg8bit",
    "rgb",
    "img_dir",
    "CamVid_RGB",
    "701_StillsRaw_full",
)
_MASKS = (
    *(
        "masks",
        "mask",
        "labels",
        "label",
        "annotations",
        "annotation",
        "annots",
        "ann",
        "gt",
        "segmentation",
        "ann_dir",
    ),
    *(
        "SegmentationClass",
        "SegmentationClassPNG",
        "masks_machine",
        "ground_truth",
        "labelmaps",
        "LabeledApproved_full",
    ),
)
_SUFFIXES = ("annot", "_annot", "_labels", "labels", "_masks", "masks", "_mask", "_gt")
_NAMES = (
    *("classes.txt", "names.txt", "labels.txt", "class_names.txt", "label_names.txt", "categories.txt"),
    *("classes.json", "names.json", "labels.json", "label_map.json", "label_classes.json", "_classes.csv"),
)
_COLORS = ("labelmap.txt", "label_colors.txt", "class_dict.csv", "colors.txt", "obj_class_to_machine_color.json")
_BRUSH = re.compile(r"task-\d+.*-tag-.*-\d+\.png")
_LOOKED_AT = 200


def recognise_masks(root: Path) -> Sequence[Found]:
    """The label maps of a folder. Raises DataError for what is known and cannot be read."""
    if _is_brush(root):
        raise DataError(
            f"{root}: Label Studio's brush masks as PNG do not say which image they are of; export as COCO, with images"
        )
    for recognise in (_voc, _ade20k, _cityscapes, _roboflow, _folders_and_names):
        if found := recognise(root):
            return [found]
    return []


def _voc(root: Path) -> Found | None:
    maps = root / "SegmentationClass"
    if not maps.is_dir() or (file := _first(maps, LABEL_ENDINGS)) is None:
        return None
    images = next((name for name in (*_IMAGES, "Images") if (root / name).is_dir()), None)
    if images is None:
        raise DataError(
            f"{root}: it has SegmentationClass/ and no folder of images; export with images, to JPEGImages/"
        )
    lists = sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))
    splits: Mapping[str, object] = {"train": [images, "SegmentationClass"]}
    notes: tuple[str, ...] = ()
    if lists:
        splits, notes = _ours({path.stem: [images, "SegmentationClass", below(root, path)] for path in lists})
    options: dict[str, object] = {"format": "label_maps", "splits": splits}
    if (root / "labelmap.txt").is_file():
        options["colors"] = "labelmap.txt"
    elif _mode(file) == "RGB":
        options["colors"] = dict(zip(VOC_NAMES, voc_colors(len(VOC_NAMES)), strict=True))
    else:
        own = next((name for name in _NAMES if (root / name).is_file()), None)  # labelme's class_names.txt
        options |= {"names": own or VOC_NAMES, "ignore": 255}
        if own is None:
            options["offset"] = 0
            notes = (
                *notes,
                "names: PASCAL VOC's own, as no file names the classes; if they are others, say data.names=",
            )
    if _first(root / "SegmentationObject", LABEL_ENDINGS):
        options["objects"] = "SegmentationObject"
    return Found("CVAT, segmentation masks" if "default" in {p.stem for p in lists} else "VOC", options, notes)


def voc_colors(count: int) -> list[tuple[int, int, int]]:
    """The first colours of VOC's palette: the bits of an index go to red, green and blue in turn, from the highest."""
    found = []
    for index in range(count):
        color = [0, 0, 0]
        for bit in range(8):
            color[bit % 3] |= (index >> bit & 1) << 7 - bit // 3
        found.append((color[0], color[1], color[2]))
    return found


def _ade20k(root: Path) -> Found | None:
    splits = {"train": "training", "val": "validation"}
    there = {ours: name for ours, name in splits.items() if (root / "annotations" / name).is_dir()}
    if not there or not (root / "objectInfo150.txt").is_file():
        return None
    return Found("ADE20K", {"format": "ade20k", "splits": there})


def _cityscapes(root: Path) -> Found | None:
    if not (root / "leftImg8bit").is_dir() or not (root / "gtFine").is_dir():
        return None
    ending = "_gtFine_labelTrainIds.png"
    folder = next((name for name in ("gtFine_trainIds", "gtFine") if _first(root / name, (ending,))), None)
    if folder is None:
        raise DataError(
            f"{root}: Cityscapes' label ids have to be converted to train ids once: sam3-hyperet prepare "
            f"data=cityscapes root={root} counts=null"
        )
    splits = {
        split: [f"leftImg8bit/{split}", f"{folder}/{split}"]
        for split in ("train", "val")
        if (root / "leftImg8bit" / split).is_dir() and (root / folder / split).is_dir()
    }
    names = (
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
        *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    )
    endings = {"image_ending": "_leftImg8bit.png", "label_ending": ending}
    options = {"format": "label_maps", "splits": splits, "names": names, "ignore": 255, "offset": 0, **endings}
    return Found("Cityscapes", options)


def _roboflow(root: Path) -> Found | None:
    tables = {name: root / name / "_classes.csv" for name in ("train", "valid", "test")}
    there = {name: [name, name] for name, table in tables.items() if table.is_file()}
    if not there:
        return None
    splits, notes = _ours(there)
    names = f"{next(iter(there))}/_classes.csv"
    options = {"format": "label_maps", "splits": splits, "names": names, "label_ending": "_mask.png"}
    return Found("Roboflow, semantic masks", options, notes)


def _folders_and_names(root: Path) -> Found | None:
    pairs = {}
    first = cache(_first)  # a folder of images is in many pairs
    for images, maps, word in _pairs_of_folders(root):
        if word in pairs or not (root / maps).is_dir():
            continue
        if first(root / maps, LABEL_ENDINGS) and first(root / images, IMAGE_ENDINGS):
            pairs[word] = images, maps
    if not pairs:
        return None
    if len(pairs) > 1:
        pairs.pop("", None)
    lists = sorted(path for path in root.glob("*.txt") if path.stem in sum(_WORDS.values(), ()))
    splits, notes = _ours({word: list(pair) for word, pair in pairs.items()})
    options: dict[str, object] = {"format": "label_maps", "splits": splits}
    images, maps = next(iter(pairs.values()))
    options |= _endings(root / images, root / maps)
    is_coloured = _is_coloured(_first(root / maps, LABEL_ENDINGS))
    folders = dict.fromkeys([root, (root / maps).parent, (root / images).parent, root / maps, root / images])
    named, coloured = (
        [below(root, folder / name) for folder in folders for name in names if (folder / name).is_file()]
        for names in (_NAMES, _COLORS)
    )
    is_coloured = is_coloured or (bool(coloured) and not named)
    files = coloured if is_coloured else named
    if not files:
        name = "colors" if is_coloured else "names"
        file = "labelmap.txt or class_dict.csv" if is_coloured else "classes.txt"
        notes = (*notes, f"no file such as {file} names the classes of {maps}/, so that data.{name}= has to")
        return Found("label maps", options, notes)
    options["colors" if is_coloured else "names"] = files[0]
    if len(files) > 1:
        notes = (*notes, f"left aside beside {files[0]}: {some(files[1:])}")
    if lists and set(pairs) == {""}:
        notes = (*notes, f"warning: lists beside the folders are not used: {some(path.name for path in lists)}")
    return Found("label maps", options, notes)


def _pairs_of_folders(root: Path) -> Iterator[tuple[str, str, str]]:
    """Folders of images and of label maps that may belong together, below `root`, and the word of their split."""
    words = [word for listed in _WORDS.values() for word in listed if word]
    for images in _IMAGES:
        for maps in _MASKS:
            yield from ((f"{images}/{word}", f"{maps}/{word}", word) for word in words)
            yield from ((f"{word}/{images}", f"{word}/{maps}", word) for word in words)
    yield from ((word, f"{word}{suffix}", word) for suffix in _SUFFIXES for word in words)
    yield from ((images, maps, "") for images in _IMAGES for maps in _MASKS)


def _ours(named: Mapping[str, object]) -> tuple[dict[str, object], tuple[str, ...]]:
    """Our splits of those by the words that tools name them with, and what is to be said of it."""
    known = {split: next((named[word] for word in words if word in named), None) for split, words in _WORDS.items()}
    if known["train"] is None:
        known["train"] = known[""]
    notes: tuple[str, ...] = ()
    if known["val"] is not None and known["test"] is not None:
        known = {"train": known["train"], "tune": known["val"], "val": known["test"]}
        notes = ("three splits: the best step is chosen on the second, the model is scored on the third",)
    elif known["val"] is None:
        known["val"] = known["test"]
    found = {split: known[split] for split in SPLITS if known.get(split) is not None}
    if found and (left := [name for name, one in named.items() if one not in found.values()]):
        notes = (*notes, f"left aside, of no split: {some(left)}")
    return found, notes


def _endings(images: Path, maps: Path) -> dict[str, str]:
    """The ending of label maps that are called as their images are, with something added."""
    stems = {path.relative_to(images).with_suffix("").as_posix() for path in _files(images, IMAGE_ENDINGS)}
    added = set[str]()
    for path in _files(maps, LABEL_ENDINGS):
        name = below(maps, path)
        stem = path.relative_to(maps).with_suffix("").as_posix()
        if stem in stems:
            return {}
        added |= {name[len(one) :] for one in stems if name.startswith(one) and not name[len(one)].isalnum()}
    return {"label_ending": added.pop()} if len(added) == 1 else {}


def _files(folder: Path, endings: Sequence[str]) -> list[Path]:
    return list(islice(_walk(folder, endings), _LOOKED_AT))


def _first(folder: Path, endings: Sequence[str]) -> Path | None:
    return next(_walk(folder, endings), None)


def _walk(folder: Path, endings: Sequence[str]) -> Iterator[Path]:
    lowered = tuple(ending.lower() for ending in endings)
    for parent, _, files in walk(folder):
        yield from (parent / name for name in files if name.lower().endswith(lowered))


def _mode(file: Path | None) -> str:
    """The mode of an image; "" if it cannot be read, which is for its reader to say."""
    if file is None:
        return ""
    try:
        with open_image(file) as image:
            return image.mode
    except DataError:
        return ""


def _is_coloured(file: Path | None) -> bool:
    """Whether a label map has colours: several channels that are not all the same."""
    if file is None or _mode(file) not in ("RGB", "RGBA"):
        return False
    try:
        read_label_values(file)
    except DataError:
        return True
    return False


def _is_brush(root: Path) -> bool:
    with os.scandir(root) as entries:
        return any(_BRUSH.fullmatch(entry.name) for entry in islice(entries, _LOOKED_AT))


LAYOUT = Layout(
    {
        "VOC": "JPEGImages/, SegmentationClass/, SegmentationObject/ and ImageSets/Segmentation/train.txt …",
        "CVAT, segmentation masks": "the same, with labelmap.txt",
        "Roboflow, semantic masks": "train/_classes.csv, and _mask.png beside the images",
        "ADE20K": "objectInfo150.txt, images/training and annotations/training",
        "Cityscapes": "leftImg8bit/ and gtFine/",
        "label maps": "images/ and masks/ (labels/, annotations/), with train/ and val/ in them, around them or not at "
        "all, or train/ and trainannot/; classes.txt, or labelmap.txt or class_dict.csv of colours",
    },
    recognise_masks,
)
