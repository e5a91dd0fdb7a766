"""Digests of large files, which are never held in memory as a whole."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_END = 1 << 16


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for block in blocks(file):
            digest.update(block)
    return digest.hexdigest()


def tensors_sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of the tensors of a safetensors file, without its header: an adapter's at every dial."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        for block in blocks(file):
            digest.update(block)
    return digest.hexdigest()


def ends_digest(path: str | Path) -> str:
    """Hexadecimal BLAKE2 of the first and the last 64 KiB of a file, which tell most files apart."""
    with Path(path).open("rb") as file:
        digest = hashlib.blake2b(file.read(_END), digest_size=16)
        file.seek(max(0, file.seek(0, 2) - _END))
        digest.update(file.read(_END))
    return digest.hexdigest()


def blocks(file: BinaryIO) -> Iterator[memoryview]:
    """The rest of a file by the mebibyte, each to be used before the next is read into the same memory."""
    memory = memoryview(bytearray(2**20))
    while count := file.readinto(memory):  # type: ignore[attr-defined]
        yield memory[:count]
