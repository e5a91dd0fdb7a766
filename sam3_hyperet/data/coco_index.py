"""An index beside a large COCO file: what was read of it, in arrays that processes map into memory and share.

It is used only while the file's SHA-256, the reader's code and its own checksum are those it was written with.
"""

import contextlib
import functools
import hashlib
import json
import math
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import numpy as np

from sam3_hyperet.arrays.ragged import Ragged
from sam3_hyperet.data.coco_file import CocoFile
from sam3_hyperet.data.coco_json import is_large
from sam3_hyperet.digest import blocks, sha256
from sam3_hyperet.files import replacing
from sam3_hyperet.reading import regular_file
from sam3_hyperet.version import __version__

_MAGIC = b"sam3hyp\n"
_START = struct.Struct("<8sQQ")  # the magic word, the checksum of all behind it, the bytes of the header
_ALIGNED = 64  # bytes
_READERS = ("masks.py", "arrays/*.py", "data/coco*.py", "data/phrases.py", "data/annotations.py")
_HINTS = get_type_hints(CocoFile)


class CocoIndex:
    """The index of one COCO file, beside it or, where that folder cannot be written, in the user's cache.

    remarks: what a person should know of it, in lines.
    """

    def __init__(self, path: Path, *, boxes: bool = False) -> None:
        """boxes: of what is read with boxes that have no mask."""
        self.path, self.remarks = path, list[str]()
        self._key, self._ending = "", ".boxes.index" if boxes else ".index"
        with contextlib.suppress(OSError):  # said when the file itself is read
            if is_large(path):
                self._key = f"{_reader()} {sha256(path)}"

    def read(self) -> CocoFile | None:
        """What is stored, if it can be trusted."""
        faults = []
        for index in self._places() if self._key else ():
            try:
                return _read(index, self._key)
            except FileNotFoundError:
                continue
            except (OSError, ValueError, struct.error) as error:
                faults.append(f"{index}: not used: {error}")
        self.remarks += faults
        return None

    def write(self, content: CocoFile) -> CocoFile:
        """Store it, if the file is large; returns it from there, or as it is where nothing can be written."""
        faults = []
        for index in self._places() if self._key else ():
            try:
                with replacing(index) as temporary:
                    _write(temporary, self._key, content)
            except OSError as error:
                faults.append(str(error))
                continue
            size = math.ceil(index.stat().st_size / 2**20)
            self.remarks.append(f"what was read of {self.path} is kept in {index} ({size:,} MiB) for the next time")
            return self.read() or content
        if faults:
            self.remarks.append(f"{self.path}: is read anew each time; no index can be written: {'; '.join(faults)}")
        return content

    def _places(self) -> Iterator[Path]:
        name = f".{self.path.name}{self._ending}"
        yield self.path.with_name(name)
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        if cache.is_absolute():
            of_path = hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:16]
            yield cache / "sam3_hyperet" / f"{of_path}{name}"


@functools.cache
def _reader() -> str:
    """What identifies the code that decides what is read, so that no index outlives a change of it."""
    code = hashlib.sha256()
    for file in sorted(file for pattern in _READERS for file in Path(__file__).parents[1].glob(pattern)):
        code.update(file.read_bytes())
    return f"{__version__} {code.hexdigest()}"


def _write(file: Path, key: str, content: CocoFile) -> None:
    arrays, facts = dict[str, np.ndarray](), dict[str, Any]()
    for name, value in ((one.name, getattr(content, one.name)) for one in fields(content)):
        if isinstance(value, Ragged):
            arrays |= {f"{name}.values": value.values, f"{name}.starts": value.starts}
        elif isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            facts[name] = value
    facts["vocabulary"] = [asdict(category) for category in content.vocabulary]
    table, offset = {}, 0  # from the end of the header
    for name, value in arrays.items():
        table[name] = [value.dtype.str, value.shape, offset]
        offset += _aligned(value.nbytes)
    text = json.dumps({"key": key, "facts": facts, "arrays": table}).encode()
    header = text.ljust(_aligned(_START.size + len(text)) - _START.size)
    checksum = zlib.crc32(header)
    with file.open("wb") as out:
        out.write(_START.pack(_MAGIC, 0, len(header)) + header)
        for value in arrays.values():
            for part in (np.ascontiguousarray(value).reshape(-1).view(np.uint8).data, _padding(value.nbytes)):
                out.write(part)
                checksum = zlib.crc32(part, checksum)
        out.seek(0)
        out.write(_START.pack(_MAGIC, checksum, len(header)))


def _read(index: Path, key: str) -> CocoFile:
    """The content of an index. Raises ValueError or struct.error if it is not whole, or has another key."""
    if os.path.lexists(index):
        regular_file(index)
    with index.open("rb") as file:
        start = file.read(_START.size)
        magic, checksum, header_bytes = _START.unpack(start)
        found = 0
        for block in blocks(file):
            found = zlib.crc32(block, found)
        if magic != _MAGIC or checksum != found:
            raise ValueError("it is damaged")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header = json.loads(mapped[_START.size : _START.size + header_bytes])
    if header["key"] != key:
        raise ValueError("it was made of another content of the file, or by another version of this package")
    return _from_arrays(mapped, header)


def _from_arrays(mapped: mmap.mmap, header: dict[str, Any]) -> CocoFile:
    start = _START.unpack_from(mapped)[2] + _START.size
    arrays = {}
    for name, (dtype, shape, offset) in header["arrays"].items():
        found = (
            np.frombuffer(mapped, dtype, math.prod(shape), start + offset) if math.prod(shape) else np.empty(0, dtype)
        )
        arrays[name] = found.reshape(shape)
    values = {name: msgspec.convert(value, _HINTS[name]) for name, value in header["facts"].items()}
    for name, kind in _HINTS.items():
        if kind is Ragged:
            values[name] = Ragged(arrays[f"{name}.values"], arrays[f"{name}.starts"])
        elif kind is np.ndarray:
            values[name] = arrays[name]
    return CocoFile(**values)


def _aligned(count: int) -> int:
    return -(-count // _ALIGNED) * _ALIGNED


def _padding(count: int) -> bytes:
    return bytes(_aligned(count) - count)
