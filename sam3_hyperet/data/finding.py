"""The one finder of files: hidden entries skipped, linked folders followed, names in any case and Unicode form."""

import os
import posixpath
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from sam3_hyperet.errors import DataError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
UNREAD_ENDINGS = (".avif", ".dng", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe", ".mpo", ".pgm", ".ppm")
"""Of images in other formats, which are nowhere taken from a folder."""
LABEL_ENDINGS = (".png", ".tif", ".tiff", ".bmp")
SPLIT_WORDS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""In lower case, by which names of files, folders and keys tell of a split."""
_LEAVES = re.compile(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|\Z)")  # absolute, with a drive, or upwards


def split_of(word: str) -> str:
    """The split that a word tells of, in any case, as CVAT writes it with a capital; "" for none."""
    return next((split for split, words in SPLIT_WORDS.items() if word.lower() in words), "")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no data: `._a.png`, `.ipynb_checkpoints`, `__MACOSX`, a Synology's `@eaDir`."""
    return name.startswith((".", "@eaDir", "$RECYCLE")) or name == "__MACOSX"


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder from `folder` down, with its folders and files in order, hidden ones skipped, links followed.

    Raises DataError for a link to a folder around it, which would never end.
    """
    for text, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        parent = Path(text)
        for link in (path for path in map(parent.joinpath, folders) if path.is_symlink()):
            around = [folder, *(folder / above for above in parent.relative_to(folder).parents), parent]
            if link.resolve() in map(Path.resolve, around):
                raise DataError(f"{link}: links to a folder that it lies in; remove the link")
        yield parent, folders, sorted(name for name in files if not is_hidden(name))


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, in order, hidden ones skipped."""
    return sorted(Path(one.path) for one in os.scandir(folder) if one.is_dir() and not is_hidden(one.name))


def below(root: Path, path: Path) -> str:
    """A path below a folder, with "/"."""
    return path.relative_to(root).as_posix()


def find_files(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """The files below a folder that end in one of these, by their path there with "/". Raises DataError."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    lowered = tuple(ending.lower() for ending in endings)
    found: dict[str, Path] = {}
    for parent, folders, files in walk(folder):
        for file in (*files, *folders):  # a folder by a file's name is an error when it is opened
            if file.lower().endswith(lowered):
                path = with_readable_name(parent / file)
                found[below(folder, path)] = path
    return found


def with_readable_name(path: Path) -> Path:
    """`path`, if its name is text: no result could name it else. Raises DataError if it is not UTF-8."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        expected = "such as the archives of another system leave it; rename the file, for example with convmv"
        raise DataError(f"{path}: its name is not UTF-8, {expected}") from None
    return path


def find_by_stem(folder: Path, endings: Sequence[str], *, apart_from: Collection[Path] = ()) -> dict[str, Path]:
    """The same by their path without the ending, in composed Unicode, and without some files.

    Raises DataError for none or two of one stem.
    """
    found: dict[str, Path] = {}
    left_out = set(apart_from)
    for name, path in find_files(folder, endings).items():
        if path in left_out:
            continue
        ending = max((e for e in endings if name.lower().endswith(e.lower())), key=len)
        stem = composed(name[: -len(ending)])
        if stem in found:
            raise DataError(f"{path}: {found[stem].name} has the same name")
        found[stem] = path
    if not found:
        raise DataError(f"{folder}: no file ends in {' or '.join(endings)}")
    return found


def composed(name: str) -> str:
    """A name in composed Unicode (NFC): macOS writes é as two characters."""
    return unicodedata.normalize("NFC", name)


def leaves_folder(file_name: str) -> bool:
    """Whether a relative path, with either slash, leads out of its folder."""
    return _LEAVES.search(file_name) is not None


class Listing:
    """The files of some folders, each listed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed: dict[str, dict[str, str]] = {}
        self._any_case: dict[str, dict[str, str | None]] = {}

    def find(self, file_name: str) -> Path | None:
        """The file of a name below the folder; `name` says which."""
        found = self.name(file_name)
        return None if found is None else self.folder / found

    def name(self, file_name: str) -> str | None:
        """The actual name of a file below the folder: as it is, with "\\" as "/", or in the other Unicode form."""
        for name in dict.fromkeys((file_name, file_name.replace("\\", "/"))):
            parent, _, last = name.rpartition("/")
            for form in dict.fromkeys((parent, composed(parent), unicodedata.normalize("NFD", parent))):
                entries = self._entries(form)
                if actual := entries.get(last) or entries.get(composed(last)):
                    return posixpath.normpath(f"{form}/{actual}") if form else actual
        return None

    def others(self, names: Collection[str]) -> int:
        """Number of image files in the folders that were looked into, apart from those of these names below."""
        listed = {
            posixpath.normpath(f"{parent}/{name}").lstrip("/")
            for parent, entries in self._listed.items()
            for name in entries.values()
            if name.lower().endswith(IMAGE_ENDINGS) and not is_hidden(name)
        }
        return len(listed.difference(names))

    def find_by_end(self, path: str) -> Path | None:
        """The one file that a path of another machine, a URL or an encoded name can mean: by the longest end of the
        path that leads to a file here, in any case; else by its name alone, where one file below the folder has it."""
        text = composed(unquote(path)).replace("\\", "/")
        for whole in (text, text.partition("?")[0], text.partition("?d=")[2]):  # a query; Label Studio's local files
            parts = [part for part in whole.split("/") if part not in ("", ".", "..")]
            for first in range(len(parts)):
                parent, last = "/".join(parts[first:-1]), parts[-1]
                if found := self.find(f"{parent}/{last}") if parent else self.find(last):
                    return found
                if actual := self._of_any_case(parent).get(last.casefold()):
                    return self.folder / parent / actual
            if parts and (found := self._by_name.get(parts[-1])):
                return found
        return None

    def _of_any_case(self, parent: str) -> dict[str, str | None]:
        """Names in a folder by what they are without case, None where two are alike."""
        if parent not in self._any_case:
            names = self._any_case[parent] = {}
            for name in set(self._entries(parent).values()):
                names[composed(name).casefold()] = None if composed(name).casefold() in names else name
        return self._any_case[parent]

    @cached_property
    def _by_name(self) -> dict[str, Path | None]:
        """Files below the folder by their name alone, None where two have it."""
        found: dict[str, Path | None] = {}
        for path in find_files(self.folder, ("",)).values() if self.folder.is_dir() else ():
            name = composed(path.name)
            found[name] = None if name in found else path
        return found

    def _entries(self, parent: str) -> dict[str, str]:
        if parent not in self._listed:
            try:
                names: Collection[str] = [entry.name for entry in os.scandir(self.folder / parent)]
            except (OSError, ValueError):
                names = []
            self._listed[parent] = {composed(name): name for name in names} | {name: name for name in names}
        return self._listed[parent]
