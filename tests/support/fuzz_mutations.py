"""Mutations of files: of any bytes, and of what JSON, YAML, text, tensors, archives and PNG are made of."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
import yaml
from special_files import SPECIAL, replace_by

DEEP = 3_000
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 255, 256, 65_536, 2**31, 2**31 - 1, 2**63, -(2**63), 10**400),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", " ", "x", "1", "nan", "é", "\ud800", "\0", "a\nb", "../..", "/", "C:\\x", "${a}", "x" * 5_000, "汽车" * 200),
    *([], {}, [[]], [None], {"": 0}, [0] * 1_000, {"a": {"a": {"a": []}}}, ["x", 1, None, [], {}]),
)
WORDS = ("nan", "inf", "-1", "1e999", "0", "7" * 5_000, "\0", "\t", ",", "#", "é", "\ufeff", "x" * 10_000, "\u2028")
DTYPES = ("bool", "int64", "int8", "float64", "float16", "bfloat16", "complex64", "float8_e4m3fn", "uint8")


def mutate(path: Path, kind: str, rng: random.Random) -> None:
    """Spoil a file in place, as one of its kind or of any."""
    if rng.random() < 0.02:
        replace_by(rng.choice(sorted(SPECIAL)), path)
        return
    content = path.read_bytes()
    content = _OF_KIND[kind](content, rng) if kind in _OF_KIND and rng.random() < 0.7 else any_bytes(content, rng)
    if rng.random() < 0.2:
        content = any_bytes(content, rng)
    path.write_bytes(content)


def any_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, insert or move bytes, mostly near the ends, where headers are."""
    data, size = bytearray(content), len(content)
    if not size:
        return rng.randbytes(rng.randrange(64))

    def place() -> int:
        near = min(size, 512)
        return rng.choice((rng.randrange(size), rng.randrange(near), size - 1 - rng.randrange(near)))

    start = place()
    end = min(size, start + rng.choice((1, 2, 4, 16, 256)))
    action = rng.randrange(8)
    if action == 0:
        for _ in range(rng.choice((1, 1, 4, 32))):
            data[place()] ^= 1 << rng.randrange(8)
    elif action == 1:
        del data[start:]
    elif action == 2:
        del data[start:end]
    elif action == 3:
        data[start:start] = data[start:end] * rng.choice((1, 3, 100))
    elif action == 4:
        data[start:start] = rng.randbytes(rng.choice((1, 4, 64)))
    elif action == 5:
        data[start:end] = rng.choice((b"\xff", b"\0", b"\x80", b" ")) * (end - start)
    elif action == 6:
        data[start:end] = rng.choice(_NUMBERS)
    else:
        data[start:end] = content[(other := place()) : other + end - start]
    return bytes(data)


_NUMBERS = tuple(struct.pack(f, n) for n in (-1, 0, 1, 2**31 - 1, -(2**31)) for f in ("<i", ">i", "<q", ">q"))


def any_value(value: Any, rng: random.Random) -> Any:
    """Change one place in nested lists and mappings."""
    places: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, list | dict):
            places += [(one, key) for key in (one if isinstance(one, dict) else range(len(one)))]
            stack += list(one.values() if isinstance(one, dict) else one)
    if not places or rng.random() < 0.02:
        return rng.choice(ODD)
    owner, key = rng.choice(places)
    action = rng.randrange(6)
    if action == 0:
        del owner[key]
    elif action == 1:
        other, place = rng.choice(places)
        owner[key] = json.loads(json.dumps(other[place])) if place in other or isinstance(other, list) else None
    elif action == 2 and isinstance(owner, dict):
        owner[rng.choice(("", "id", "name", "size", "é", "x" * 300))] = owner.pop(key)
    elif action == 3 and isinstance(owner, list):
        owner.insert(key, owner[key])
    else:
        owner[key] = rng.choice(ODD)
    return value


def of_json(content: bytes, rng: random.Random) -> bytes:
    """Another value in a place, a key twice, brackets too deep, digits without end, another encoding."""
    action = rng.randrange(12)
    text = content.decode()
    if action == 0 and text.startswith("{"):
        text = "{" + rng.choice(('"images": [], ', '"name": 1, ', '"id": 0, ')) + text[1:]
    elif action == 1:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(("[" * DEEP, '{"a":' * DEEP, "9" * 5_000, "NaN", "\ufeff", "//")) + text[at:]
    elif action == 2:
        return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")))
    else:
        text = json.dumps(any_value(json.loads(text), rng))
    return text.encode()


def of_lines(content: bytes, rng: random.Random) -> bytes:
    """Another word, a line again, without its end, or at another place."""
    lines = [line.split(" ") for line in content.decode().split("\n")]
    line = rng.choice(lines)
    action = rng.randrange(4)
    if action == 0:
        line[rng.randrange(len(line))] = rng.choice(WORDS)
    elif action == 1:
        lines.insert(rng.randrange(len(lines)), list(line))
    elif action == 2:
        del line[rng.randrange(len(line)) :]
    else:
        line += [rng.choice(WORDS)] * rng.choice((1, 2, 1_000))
    return "\n".join(map(" ".join, lines)).encode()


def of_yaml(content: bytes, rng: random.Random) -> bytes:
    """Another value in a place, aliases that grow, tags, or what is done to lines."""
    action = rng.randrange(8)
    if action == 0:
        return of_lines(content, rng)
    if action == 1:
        grow = "".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9)}]\n" for n in range(1, 12))
        return content + b"\nk0: &k0 [x]\n" + grow.encode()
    if action == 2:
        tag = rng.choice(
            ("!!python/object/apply:os.getcwd []", "!!binary x", "!!timestamp 2026-99-99", "!!int x", "*z")
        )
        return content.replace(b": ", b": " + tag.encode() + b" ", 1)
    return json.dumps(any_value(yaml.safe_load(content), rng)).encode()  # YAML takes it


def of_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Another value in the header, or in the JSON texts of its metadata."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header.get("__metadata__", {})
    if "config" in metadata and rng.random() < 0.6:
        metadata["config"] = of_json(metadata["config"].encode(), rng).decode(errors="ignore")
    else:
        header = any_value(header, rng)
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + content[8 + length :]


def of_torch(content: bytes, rng: random.Random) -> bytes:
    """Another tensor, key or nesting, or other bytes in the pickle of the archive."""
    if rng.random() < 0.4:
        return of_zip(content, rng)
    state = torch.load(io.BytesIO(content), weights_only=True)
    state = odd_tensors(state, rng)
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=rng.random() < 0.7)
    return buffer.getvalue()


def odd_tensors(state: Any, rng: random.Random) -> Any:
    """A mapping with one entry changed, or below another name."""
    key = rng.choice(list(state))
    value, action = state[key], rng.randrange(6)
    if action == 0:
        del state[key]
    elif action == 1:
        state[rng.choice((0, ("a", 1), "", f"model.{key}", f"module.{key}"))] = value
    elif action == 2:
        return {rng.choice(("model", "state_dict", "ema")): state}
    elif action == 3 or not isinstance(value, torch.Tensor):
        state[key] = rng.choice(ODD)
    elif action == 4:
        state[key] = value.to(getattr(torch, rng.choice(DTYPES)))
    else:
        odd = (lambda t: t.to("meta"), lambda t: t.to_sparse(), lambda t: t[..., :0], lambda t: t.expand(3, *t.shape))
        more = (
            lambda t: t * float("nan"),
            lambda t: t.flatten()[:1].expand(2**40),
            lambda t: t.mT if t.ndim > 1 else t,
        )
        state[key] = rng.choice(odd + more)(value)
    return state


def of_zip(content: bytes, rng: random.Random) -> bytes:
    """Other bytes in an entry, an entry less or twice, or all of them compressed."""
    buffer, action = io.BytesIO(), rng.randrange(8)
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(buffer, "w") as after:
        names = before.namelist()
        chosen = rng.choice(names[:3])
        for name in names:
            data = before.read(name)
            if name == chosen and action == 0:
                continue
            if name == chosen and action > 2:
                data = any_bytes(data, rng)
            after.writestr(name, data, zipfile.ZIP_DEFLATED if action == 1 else zipfile.ZIP_STORED)
    return buffer.getvalue()


def of_png(content: bytes, rng: random.Random) -> bytes:
    """Other bytes in a chunk whose checksum is right, another order of chunks, or another size."""
    chunks, at = [], 8
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    where, action = rng.randrange(len(chunks)), rng.randrange(4)
    if action == 0:
        size = struct.pack(">II", *rng.choices((0, 1, 3, 9_000, 70_000, 2**31), k=2))
        chunks[0] = (b"IHDR", size + chunks[0][1][8:])
    elif action == 1:
        chunks.insert(where, rng.choice(chunks))
    elif action == 2:
        bomb = rng.choice((b"tEXtx\0", b"zTXtx\0\0", b"iCCPx\0\0", b"eXIf", b"acTL", b"tRNS", b"PLTE", b"gAMA"))
        chunks.insert(1, (bomb[:4], bomb[4:] + zlib.compress(b"x" * 10**6)))
    else:
        chunks[where] = (chunks[where][0], any_bytes(chunks[where][1], rng))
    parts = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return content[:8] + b"".join(parts)


_OF_KIND = {
    "json": of_json,
    "jsonl": of_lines,
    "yaml": of_yaml,
    "txt": of_lines,
    "csv": of_lines,
    "safetensors": of_safetensors,
    "pt": of_torch,
    "npz": of_zip,
    "png": of_png,
}


def restore(path: Path, content: bytes) -> None:
    """Put a file back that `mutate` spoiled."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    elif os.path.lexists(path):
        path.unlink()
    path.write_bytes(content)
