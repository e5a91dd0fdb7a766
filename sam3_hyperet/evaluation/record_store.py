"""The records of one model on disk, from which a killed evaluation goes on."""

import json
import shutil
import struct
import time
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.metrics.evaluator import Record
from sam3_hyperet.files import remove_leftovers, replacing
from sam3_hyperet.reading import read_json, regular_file

FINGERPRINT = "fingerprint.json"
_LATE_SECONDS, _PAUSE_SECONDS = 60.0, 3.0  # NFS remembers for half a minute that there was no file
_BROKEN = (  # what numpy and zipfile raise on damaged files
    *(OSError, ValueError, EOFError, LookupError, RuntimeError, ArithmeticError, MemoryError, SyntaxError, TypeError),
    *(AttributeError, AssertionError, struct.error, zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)


class RecordStore:
    """One file an image, `<folder>/<position>.npz`, and beside them a description of what they depend on.

    Files are replaced as a whole, so a kill leaves none that is half written. Nothing is forced to the disk: what a
    power cut damages fails its checksum, and counts as missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self, fingerprint: Mapping[str, object], resume: bool = True) -> str:
        """Make the folder ready, in one process before any reads: records that other facts decided, or all with
        resume=False, are removed. Returns why they were, in one line, or "".
        """
        wanted, said = json.loads(json.dumps(fingerprint)), ""
        why = self._mismatch(wanted) if resume else "resume=never"
        if why and self.folder.exists():
            removed = self.count()
            shutil.rmtree(self.folder)
            said = f"{self.folder}: {removed} records start over: {why}" if removed else ""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        with replacing(self.folder / FINGERPRINT) as temporary:
            temporary.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        return said

    def other_facts(self, fingerprint: Mapping[str, object]) -> str:
        """The first fact by which the records on disk differ, in words; "" where none does, and without records."""
        is_known = self.count() and (self.folder / FINGERPRINT).is_file()
        return self._mismatch(json.loads(json.dumps(fingerprint))) if is_known else ""

    def has(self, position: int) -> bool:
        """Whether the image at `position` has a record, which may be damaged."""
        return self._file(position).exists()

    def count(self) -> int:
        """How many records are there, damaged ones included."""
        return len(list(self.folder.glob("*.npz")))

    def remove(self) -> None:
        """Remove the folder: a kill meanwhile leaves records that nothing goes on from."""
        (self.folder / FINGERPRINT).unlink(missing_ok=True)
        shutil.rmtree(self.folder)

    def write(self, position: int, record: Record) -> None:
        """Keep the record of the image at `position`, whole or not at all."""
        with replacing(self._file(position)) as temporary, temporary.open("wb") as file:
            arrays: dict[str, Any] = dict(record)  # one of NumPy's keywords, allow_pickle, is no array
            np.savez_compressed(file, **arrays)

    def read(self, position: int) -> dict[str, np.ndarray] | None:
        """The record of an image; None where there is none, or where it is damaged."""
        try:
            with regular_file(self._file(position)).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except _BROKEN:
            return None

    def missing(self, positions: Sequence[int]) -> tuple[list[int], int]:
        """Those of `positions` without a usable record, and how many of them have a damaged one."""
        wanted = [position for position in positions if self.read(position) is None]
        return wanted, sum(map(self.has, wanted))

    def read_all(self, positions: Sequence[int]) -> list[dict[str, np.ndarray]]:
        """The records of `positions`, each once and in their order. Raises DataError where one is not there.

        Those of other machines may become visible late: lacking ones are looked for again for a minute.
        """
        found: dict[int, dict[str, np.ndarray] | None] = {}
        lacking, deadline = list(positions), time.monotonic() + _LATE_SECONDS
        while True:
            found |= {position: self.read(position) for position in lacking}
            lacking = [position for position, record in found.items() if record is None]
            if not lacking or time.monotonic() >= deadline:
                break
            time.sleep(_PAUSE_SECONDS)
        if lacking:
            raise DataError(
                f"{self.folder}: {len(lacking)} of {len(found)} records are missing, the first that of image "
                f"{lacking[0]}; expected all of them, and one folder that every process shares"
            )
        return [record for record in found.values() if record is not None]

    def _file(self, position: int) -> Path:
        return self.folder / f"{position:06d}.npz"

    def _mismatch(self, wanted: dict[str, object]) -> str:
        """The first fact by which the records on disk differ from the wanted ones; "" where they fit."""
        try:
            found = read_json(self.folder / FINGERPRINT)
        except DataError:
            return "their fingerprint is missing"
        if not isinstance(found, dict):
            return f"{FINGERPRINT} is not what it was written as"
        for key in {**wanted, **found}:
            if found.get(key) != wanted.get(key):
                was, now = _where_they_differ(found.get(key), wanted.get(key))
                return f"{key} was {was}, now it is {now}"
        return ""


def _where_they_differ(one: object, other: object) -> tuple[str, str]:
    """Two values in short texts; long ones from shortly before the first difference on."""
    texts = str(one), str(other)
    differ = (k for k, characters in enumerate(zip(*texts, strict=False)) if len(set(characters)) > 1)
    start = max(0, next(differ, len(min(texts, key=len))) - 20) if len(max(texts, key=len)) > 60 else 0
    first, second = (f"{'…' if start else ''}{text[start:]}" for text in texts)
    return _short(first), _short(second)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}…"
