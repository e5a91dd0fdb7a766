"""COCO files, as COCO itself and as annotation tools lay them out.

A file's split is told by its name or its folder's, the folder of its images by where some of them are.
"""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from sam3_hyperet.data.annotations import some
from sam3_hyperet.data.finding import (
    IMAGE_ENDINGS,
    SPLIT_WORDS,
    Listing,
    below,
    is_hidden,
    leaves_folder,
    split_of,
    subfolders,
)
from sam3_hyperet.data.options import SPLITS
from sam3_hyperet.errors import DataError
from sam3_hyperet.layouts.layout import Found, Layout
from sam3_hyperet.layouts.look import CocoLook, damage, look_at
from sam3_hyperet.override import override

_OTHERS = re.compile(
    r"(captions|person_keypoints|panoptic|stuff|image_info|fewshot)_|prepared\.json$|annotations_with_background"
)
"""COCO's files of other tasks, ODinW's drawn few-shot sets, and its files in which the background is a category."""
_IMAGE_FOLDERS = ("", "images", "imgs", "img", "JPEGImages", "data")
_LOWER = frozenset({"image", "photos", *(name.lower() for name in _IMAGE_FOLDERS if name)})
_NO_IMAGES = re.compile("mask|thumb|preview|label|annot", re.IGNORECASE)
"""Of folders with files called as images are."""
_MOST = 64  # JSON files of a folder that are looked at


@dataclass(frozen=True)
class _File:
    """A COCO file below the root: its split, "" where that is not told, and the word that tells it."""

    path: Path
    look: CocoLook
    split: str
    word: str


def recognise_coco(root: Path) -> Sequence[Found]:
    """The COCO files of a folder as one data set. Raises DataError for files of which it is not clear what they are."""
    files, others = list[_File](), list[Path]()
    for path in _json_files(root):
        split, word = _split(path, root)
        if look := look_at(path):
            files.append(_File(path, look, split, word))
        elif split and (fault := damage(path)):
            raise DataError(f"{path}: not a readable COCO file ({fault}), but named as one of {split}")
        elif split:
            others.append(path)
    if not files:
        return []
    notes: list[str] = []
    if others:
        passed = some(below(root, path) for path in others)
        notes.append(f"passed over, for it has no images, annotations and categories as COCO's files have: {passed}")
    by_split = _by_split(root, files, notes)
    splits = {ours: [_folder(root, file, notes), below(root, file.path)] for ours, file in by_split.items()}
    name = _layout(root, list(by_split.values()))
    if any(file.look.has_pairs for file in by_split.values()):
        notes.append("images are paired with phrases: of others than it is paired with, nothing is known in an image")
    options: dict[str, object] = {"format": "coco", "splits": splits}
    if not any(file.look.has_masks for file in by_split.values()):
        options["boxes"] = "instances"
        notes.append("there are boxes and no masks: boxes alone are learnt and scored, and mask AP means nothing")
    return [Found(name, options, tuple(notes))]


def _json_files(root: Path) -> Iterator[Path]:
    """The JSON files of a folder and of its folders, but those of single images."""
    for folder in (root, *subfolders(root)):
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not is_hidden(entry.name))
        images = {name.rpartition(".")[0] for name in names if name.lower().endswith(IMAGE_ENDINGS)}
        found = [name for name in names if name.lower().endswith(".json") and name.rpartition(".")[0] not in images]
        yield from (folder / name for name in [one for one in found if not _OTHERS.match(one)][:_MOST])


def _split(path: Path, root: Path) -> tuple[str, str]:
    """COCO's name of the split that a file is of, and the word that tells it, by the file's name or its folder's."""
    stem = _told(path.stem)
    return stem if stem[0] or path.parent == root else _told(path.parent.name)


def _told(name: str) -> tuple[str, str]:
    """The split that a name tells of, and the last word of it that does."""
    for word in reversed(re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)):
        if split := split_of(word):
            return split, word
    return "", ""


def _by_split(root: Path, files: list[_File], notes: list[str]) -> dict[str, _File]:
    """The file of each of our splits. Raises DataError where there are several for one."""
    named = defaultdict[str, list[_File]](list)
    for file in files:
        named[file.split].append(file)
    for split, listed in named.items():
        for is_preferred in (_is_odinw, _is_plain) if len(listed) > 1 else ():
            if len(chosen := [one for one in listed if is_preferred(one)]) == 1:
                others = some(below(root, one.path) for one in listed if one not in chosen)
                notes.append(f"left aside beside {below(root, chosen[0].path)}: {others}")
                named[split] = chosen
                break
    untold = named.get("", [])
    # beside val it may contain that, as trainval and minival do
    if len(untold) == 1 and named.keys() == {"", "test"} and untold[0].look.is_annotated:
        named["train"] = named.pop("")
        notes.append(f"taken for training, as no other file is by its name: {below(root, untold[0].path)}")
    if "" in named and len(named) > 1:
        notes.append(f"left aside, of no split: {some(below(root, one.path) for one in named.pop(''))}")
    for split, listed in named.items():
        if len(listed) > 1:
            raise DataError(f"{root}: {len(listed)} COCO files {_several(root, split, listed)}")
    single = {split: listed[0] for split, listed in named.items()}
    for split in [split for split, file in single.items() if split != "train" and not file.look.is_annotated]:
        notes.append(f"left aside, without annotations: {below(root, single.pop(split).path)}")
    if {"val", "test"} <= single.keys():
        notes.append("three splits: the best step is chosen on the second, the model is scored on the third")
        ours = {"train": "train", "val": "tune", "test": "val"}
    else:
        ours = {"": "train", "train": "train", "val": "val", "test": "val"}
    if not single:
        raise DataError(f"{root}: COCO files without any annotation: {some(below(root, file.path) for file in files)}")
    if not {"", "train"} & single.keys():
        (file, *_) = single.values()
        example = override("data.splits", {"train": [_folder(root, file, []), below(root, file.path)]})
        notes.append(
            f"no training images: {below(root, file.path)} is for scores by its name; to train on it, {example}"
        )
    found = {ours[split]: file for split, file in single.items()}
    return {split: found[split] for split in SPLITS if split in found}


def _several(root: Path, split: str, files: list[_File]) -> str:
    """What to do about several files for one split."""
    paths = some((below(root, one.path) for one in files), most=6)
    try:
        folder = _folder(root, files[0], [])
    except DataError:
        folder = "FOLDER"
    return (
        f"{f'for {split}' if split else 'whose splits are not told'}: {paths}; expected one of each split; name them: "
        f"{_stated(root, split, folder, files[0])}"
    )


def _stated(root: Path, split: str, folder: str, file: _File) -> str:
    """The options that name the images and the file of a split, in place of what is recognised."""
    ours = "val" if split in ("val", "test") else "train"
    name = override("data.name", root.resolve().name or "data")  # as `coco` it would be taken for COCO itself
    splits = override("data.splits", {ours: [folder, below(root, file.path)]})
    return f"data=coco {name} {override('data.root', str(root))} {splits}"


def _is_odinw(file: _File) -> bool:
    return file.path.name == "annotations_without_background.json"


def _is_plain(file: _File) -> bool:
    """Whether the word of a split is all that the file's or its folder's name tells of it: `valid`, not `mini_val`."""
    names = (file.path.parent.name, file.path.stem.rpartition("_")[2])
    return any(re.fullmatch(rf"{file.word}\d*", name) for name in names if file.word)


def _folder(root: Path, file: _File, notes: list[str]) -> str:
    """The folder, below root, that most of a few of the file's images are in; says so where not all of them are."""
    stem, parent = file.path.stem, file.path.parent
    ends = [stem.removeprefix("instances_"), *(re.findall(rf"{file.word}\d*", stem) if file.word else ())]
    ends += [parent.name] if parent != root else []
    names = dict.fromkeys([*ends, *SPLIT_WORDS.get(file.split, ()), "default"])
    tried = [root / base / name for name in names for base in _IMAGE_FOLDERS]
    tried += [root / name / base for name in names for base in _IMAGE_FOLDERS]
    tried += [parent / base for base in _IMAGE_FOLDERS]
    own = {path for path in tried if path != root}  # named after the split, or the file's own
    tried += [*(root / base for base in _IMAGE_FOLDERS), *subfolders(root)]
    folders = [Listing(folder) for folder in dict.fromkeys(tried) if folder.is_dir()]
    counts = [_found(folder, file.look.names) for folder in folders]
    if not any(counts):  # paths of another machine: the reader finds files by their ends
        ends = [unquote(re.split(r"[/\\=]", name)[-1].partition("?")[0]) for name in file.look.names]
        counts = [_found(folder, ends) for folder in folders]
    best = [one.folder for one, count in zip(folders, counts, strict=True) if count == max(counts)]
    likely = _of_split(root, file, best, own) if any(counts) else root
    found = below(root, likely)
    if missing := len(file.look.names) - max(counts):
        first = f"the first {len(file.look.names)} images of {below(root, file.path)} ({some(file.look.names)})"
        notes.append(f"{missing} of {first} are not at their paths in {found}/; their names are looked for below it")
    return found


def _of_split(root: Path, file: _File, folders: list[Path], own: Collection[Path]) -> Path:
    """Which of some folders, all with a file's images, is meant: the one whose name tells of the file's split.

    Raises DataError where nothing decides: names such as 0001.jpg are those of other images elsewhere.
    """
    folders = [folder for folder in folders if not _NO_IMAGES.search(folder.name)] or folders
    if len(folders) == 1 or folders[0] in {*own, root} or folders[0].name.lower() in _LOWER:
        return folders[0]
    named = [folder for folder in folders if file.split and _told(folder.name)[0] == file.split]
    named = [one for one in named if re.fullmatch(r"[a-zA-Z]+\d*", one.name)] or named  # train2017, not train_aug
    left = named or [folder for folder in folders if not _told(folder.name)[0]]
    if len(left) != 1:
        found = f"its images are in several folders, {some(below(root, folder) for folder in folders)}"
        raise DataError(
            f"{file.path}: {found}; expected one that bears the split's name, or that you name it: "
            f"{_stated(root, file.split, 'FOLDER', file)}"
        )
    return left[0]


def _found(folder: Listing, names: Sequence[str]) -> int:
    """How many of these files are in a folder."""
    return sum(not leaves_folder(name) and folder.find(name) is not None for name in names)


def _layout(root: Path, files: list[_File]) -> str:
    """What the layout of some files is called."""
    paths = [below(root, file.path) for file in files]
    if any(file.look.has_pairs for file in files):
        return "SA-Co"
    if all(path.endswith("_annotations.coco.json") for path in paths):
        return "Roboflow, COCO format"
    if all(path.endswith("annotations_without_background.json") for path in paths):
        return "ODinW"
    if paths == ["annotations/instances_default.json"]:
        return "CVAT, COCO format"
    if paths == ["result.json"]:
        return "Label Studio, COCO format"
    if any(file.look.has_urls or "lvis" in file.path.stem for file in files):
        return "LVIS"
    return "COCO"


LAYOUT = Layout(
    {
        "COCO": "annotations/instances_train.json, instances_val.json, images in train/, images/train/ …; or one file",
        "Roboflow, COCO format": "train/_annotations.coco.json, and valid/, test/, as RF100-VL has it, too",
        "ODinW": "train/annotations_without_background.json, and valid/, test/",
        "CVAT, COCO format": "annotations/instances_default.json and images/",
        "Label Studio, COCO format": "result.json and images/",
        "LVIS": "lvis_v1_train.json and lvis_v1_val.json beside COCO's train2017/ and val2017/",
        "SA-Co": "a COCO file whose images have a text_input",
    },
    recognise_coco,
)
