"""All layouts that are known, and `data.format=auto` made explicit by them."""

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path, PurePosixPath

from sam3_hyperet.data.annotations import some
from sam3_hyperet.data.finding import subfolders
from sam3_hyperet.data.options import RESERVED_NAMES, DataOptions
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.layouts import coco, masks, yolo
from sam3_hyperet.layouts.layout import Found, Layout
from sam3_hyperet.layouts.unread import unread_format
from sam3_hyperet.override import override

LAYOUTS: tuple[Layout, ...] = (coco.LAYOUT, yolo.LAYOUT, masks.LAYOUT)
_OF_A_SET = ("annotations", "images", "train", "val", "valid", "test")  # names of folders that are part of a set
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")
_SHOWN = 12  # entries of a folder, in a message
_MOST = 200  # folders within the root that are looked into
AS_OPTIONS = "as options: "
_ALTERNATIVES = {"names": ("colors", "offset"), "colors": ("names", "offset", "ignore")}
"""Of an option that was set, those that would take its place or belong to another value of it."""
_DEFAULTS = {field.name: field.default for field in fields(DataOptions)}


def explicit(options: DataOptions, key: str = "data") -> tuple[DataOptions, list[str]]:
    """The same options with `format: auto` replaced by what is recognised at their root, and lines that say so.

    An option that was given keeps its value, and what would take its place is left out. The last line has the others as
    arguments of a command line, below `key`.
    Raises ConfigError or DataError where nothing, or more than one layout, is recognised.
    """
    if options.format != "auto":
        return options, []
    folder, found = recognise(Path(options.root))
    if not found.options["splits"]:
        raise DataError(f"{folder}: {found.layout}, but none of it is for training or scoring; expected data.splits=")
    values, lines = _beside_given(options, found.options, key)
    values = {"root": str(folder), **values}
    if not options.name:
        values["name"] = _name(folder)
    made = replace(options, given=(), **values)  # type: ignore[arg-type]
    lines = [f"{folder}: recognised as {found.layout}", *found.notes, *lines]
    stated = [override(f"{key}.{name}", value) for name, value in values.items() if name != "root"]
    lines.append(f"{AS_OPTIONS}{' '.join(stated)}")
    return made, lines


def _beside_given(options: DataOptions, found: Mapping[str, object], key: str) -> tuple[dict[str, object], list[str]]:
    """What was recognised but what the options say themselves, and a line for each of these."""
    given = {name: override(f"{key}.{name}", getattr(options, name)) for name in found if _is_given(options, name)}
    for name, others in _ALTERNATIVES.items():
        if _is_set(options, name):
            said = override(f"{key}.{name}", getattr(options, name))
            given |= dict.fromkeys([other for other in others if other in found and other not in given], said)
    lines = [f"{said} as given; the files say {override(f'{key}.{name}', found[name])}" for name, said in given.items()]
    return {name: value for name, value in found.items() if name not in given}, lines


def recognise(root: Path) -> tuple[Path, Found]:
    """The layout of a folder, or of the one folder in it that has one; with that folder. Raises DataError.

    Where there is a single folder, those in it are looked into as well.
    """
    folder = root.expanduser()
    if folder.is_file():
        raise DataError(
            f"{root}: it is a file; expected the folder of a data set as data.root: unpack an archive first"
        )
    if not folder.is_dir():
        raise DataError(f"{root}: no such folder; expected the folder of a data set as data.root")
    found = [(folder, one) for one in _found_in(folder)]
    below = subfolders(folder)[:_MOST]
    if not found or (len(found) == 1 and _lies_within(found[0][1])):
        found = [(path, one) for path in below for one in _found_in(path)] or found
    if not found and len(below) == 1:  # an archive's folder around it, and VOCdevkit/VOC2012/
        found = [(path, one) for path in subfolders(below[0])[:_MOST] for one in _found_in(path)]
    if len(found) == 1:
        return found[0]
    if not found:
        entries = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in os.scandir(folder))
        listed = some(entries, _SHOWN)
        packed = [f"{name} has to be unpacked first" for name in entries if name.lower().endswith(_ARCHIVES)]
        other = [one for one in (unread_format(folder), *packed[:1]) if one]
        expected = "docs/data.md has the layouts that are read"
        if not other:
            known = "; ".join(f"{name} ({tree})" for layout in LAYOUTS for name, tree in layout.trees.items())
            expected = (
                f"expected one of: {known}; or a file of options that names its parts, data=own.yaml (docs/data.md)"
            )
        said = "; ".join(["no known layout of a data set", *other, f"found {listed or 'nothing'}", expected])
        raise DataError(f"{root}: {said}")
    folders = {str(path) for path, _ in found}
    several = some((f"{one.layout} in {os.path.relpath(path, folder)}" for path, one in found), most=6)
    if len(folders) > 1:
        raise DataError(f"{root}: {len(found)} data sets: {several}; expected one of these folders as data.root")
    raise DataError(
        f"{root}: {len(found)} layouts at once: {several}; expected one, or a file of options that names its parts, "
        "data=own.yaml (docs/data.md)"
    )


def _lies_within(found: Found) -> bool:
    """Whether all of a data set of COCO files is in one folder, which is then its root, beside which may be others."""
    if found.options["format"] != "coco":
        return False
    splits = found.options["splits"].values()  # type: ignore[attr-defined]
    folders = {PurePosixPath(path).parts[:1] for pair in splits for path in pair}
    return len(folders) == 1 and folders.isdisjoint({(), *((name,) for name in _OF_A_SET)})


def _found_in(folder: Path) -> list[Found]:
    return [one for layout in LAYOUTS for one in layout.recognise(folder)]


def _is_given(options: DataOptions, name: str) -> bool:
    return name != "format" and (_is_set(options, name) or (name in options.given and name != "splits"))


def _is_set(options: DataOptions, name: str) -> bool:
    if name not in _DEFAULTS:
        raise ConfigError(f"a recogniser returned data.{name}, which is no option")
    return bool(options.splits) if name == "splits" else getattr(options, name) != _DEFAULTS[name]


def _name(folder: Path) -> str:
    """A data set's name, of its folder."""
    name = folder.resolve().name.strip() or "data"
    return f"{name}-data" if name in RESERVED_NAMES else name
