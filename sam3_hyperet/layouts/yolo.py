"""Ultralytics' layout, as YOLO, Roboflow and CVAT export it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from sam3_hyperet.data.annotations import some
from sam3_hyperet.data.finding import below, is_hidden, split_of, subfolders
from sam3_hyperet.data.options import SPLITS
from sam3_hyperet.data.yolo import label_file, path_below, read_yolo_file
from sam3_hyperet.errors import DataError
from sam3_hyperet.layouts.layout import Found, Layout
from sam3_hyperet.override import override
from sam3_hyperet.reading import read_text

_THREE = "three splits: the best step is chosen on val, the model is scored on test"
_BOX = 5  # words of a row that is a class and a box
_MOST = 64  # label files of a folder that are looked at
_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


def recognise_yolo(root: Path) -> Sequence[Found]:
    """A folder with a data.yaml that names classes and splits.

    Raises DataError for one of another task, and for several that differ.
    """
    files = [root / name for name in _NAMES if (root / name).is_file()]
    if not files:
        files = [file for file in sorted(root.glob("*.y*ml")) if not is_hidden(file.name) and _is_dataset(file)]
    if not files:
        return _without_yaml(root)
    found = _of_file(root, files[0])
    if len(files) == 1 or found is None:
        return [found] if found else []
    others = [file.name for file in files[1:]]
    if any(not _is_dataset(file) or read_yolo_file(file) != read_yolo_file(files[0]) for file in files[1:]):
        options = {"root": str(root), "name": root.resolve().name, **found.options}
        example = " ".join(override(f"data.{key}", value) for key, value in options.items())
        raise DataError(
            f"{root}: {len(files)} YOLO files that differ: {some([files[0].name, *others])}; expected one, or that you "
            f"name it, such as {files[0].name}: data=auto {example}"
        )
    return [replace(found, notes=(*found.notes, f"left aside, as it says the same: {some(others)}"))]


def _of_file(root: Path, file: Path) -> Found | None:
    """The set of a data.yaml; None where none of its splits is there. Raises DataError."""
    content = read_yolo_file(file)
    if not content.splits:
        raise DataError(f"{file}: it has none of train, val and test; expected folders or lists of images by them")
    splits: dict[str, list[str]] = {}
    notes = []
    for split, entries in content.splits.items():
        found = [_below(root, content.path, entry) for entry in entries]
        if None in found:
            missing = entries[found.index(None)]
            if split == "train":
                raise DataError(f"{file}: {split} is {missing}, which is not below {root}")
            notes.append(f"{file.name} names {missing} for {split}, which is not there")
        else:
            splits[split] = [one for one in found if one is not None]
            if split != "train" and not any(_has_labels(root / one) for one in splits[split]):
                notes.append(f"left aside, without labels: {some(splits.pop(split))}")
    if "test" in splits and "val" in splits:
        splits["tune"], splits["val"] = splits["val"], splits.pop("test")
        notes.append(_THREE)
    elif "test" in splits:
        splits["val"] = splits.pop("test")
    return _found("YOLO (Ultralytics)", root, splits, file.name, notes) if splits else None


def _has_labels(source: Path) -> bool:
    """Whether there is a label file for images of a folder; of a list of images it is not known."""
    folders = Path(label_file(source / "0.jpg")).parent, source  # images/val/images has images/val/labels
    return source.is_file() or any(next(folder.rglob("*.txt"), None) is not None for folder in folders)


def _found(layout: str, root: Path, splits: Mapping[str, list[str]], names: str, notes: Sequence[str]) -> Found:
    splits = {split: splits[split] for split in SPLITS if split in splits}
    options: dict[str, object] = {"format": "yolo", "splits": splits, "names": names}
    folders = {Path(label_file(root / source / "0.jpg")).parent for listed in splits.values() for source in listed}
    looked_at = [file for folder in sorted(folders) for file in sorted(folder.rglob("*.txt"))[:_MOST]]
    if _are_boxes(looked_at):
        options["boxes"] = "instances"
        boxes = f"{len(looked_at)} label files looked at have boxes and no masks"
        notes = (*notes, f"{boxes}: boxes alone are learnt and scored, and mask AP means nothing")
    return Found(layout, options, tuple(notes))


def _are_boxes(files: Sequence[Path]) -> bool:
    """Whether each row of some label files is a class and a box."""
    texts = (read_text(file) for file in files if file.name != "classes.txt")
    return {len(line.split()) for text in texts for line in text.splitlines() if line.strip()} == {_BOX}


def _without_yaml(root: Path) -> Sequence[Found]:
    """Label Studio's and X-AnyLabeling's export: names in classes.txt, and labels/ beside images/."""
    images, labels = root / "images", root / "labels"
    if not ((root / "classes.txt").is_file() and images.is_dir() and next(labels.rglob("*.txt"), None)):
        return []
    folders, left = dict[str, list[str]](), list[str]()
    for folder in subfolders(images):
        split = split_of(folder.name)
        if split and split not in folders:
            folders[split] = [below(root, folder)]
        else:
            left.append(below(root, folder))
    notes: tuple[str, ...] = (_THREE,) if {"val", "test"} <= folders.keys() else ()
    if folders and left:
        notes = (*notes, f"left aside, of no split: {some(left)}")
    if _THREE in notes:
        folders["tune"] = folders["val"]
    folders |= {"val": folders.pop("test")} if "test" in folders else {}
    return [_found("YOLO (classes.txt)", root, folders or {"train": ["images"]}, "classes.txt", notes)]


def _below(root: Path, path: str, entry: str) -> str | None:
    for text in (f"{path}/{entry}", entry):
        if found := path_below(root, text, by_end=bool(PurePosixPath(text).root or PureWindowsPath(text).drive)):
            return below(root, found)
    return None


def _is_dataset(file: Path) -> bool:
    try:
        content = read_yolo_file(file)
    except DataError:
        return False
    return bool(content.splits)


LAYOUT = Layout(
    {
        "YOLO (Ultralytics)": "data.yaml with names and train; images/… beside labels/….txt",
        "YOLO (classes.txt)": "classes.txt, images/ and labels/, as Label Studio and X-AnyLabeling export it",
    },
    recognise_yolo,
)
