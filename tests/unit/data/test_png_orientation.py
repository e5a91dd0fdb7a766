"""The orientation of a PNG, wherever it is stated, without decoding its pixels where it is not behind them."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin

from sam3_hyperet.data.image_files import has_orientation, image_size
from sam3_hyperet.errors import DataError

EXIF = Image.Exif()
EXIF[0x0112] = 6
TURNED = EXIF.tobytes().removeprefix(b"Exif\0\0")
RAW = b"Raw profile type exif\0\nexif\n      %d\n%s" % (6 + len(TURNED), (b"Exif\0\0" + TURNED).hex().encode())
XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="8"/>'
PIXELS = zlib.compress(b"".join(b"\0" + bytes(range(n, n + 24)) for n in range(16)))
HEAD, DATA, END = (b"IHDR", struct.pack(">IIBBBBB", 24, 16, 8, 0, 0, 0, 0)), (b"IDAT", PIXELS), (b"IEND", b"")
PARTS = [(b"IDAT", PIXELS[:9]), (b"IDAT", b""), (b"IDAT", PIXELS[9:])]
DATE = (b"tEXt", b"date:create\x002026")  # as ImageMagick ends its files
RAW_TEXT = (b"tEXt", RAW)
KEY, _, PROFILE = RAW.partition(b"\0")
SIDES = {
    "exif": (b"eXIf", TURNED),
    "raw profile": RAW_TEXT,
    "packed raw profile": (b"zTXt", KEY + b"\0\0" + zlib.compress(PROFILE)),
    "XMP": (b"iTXt", XMP),
    "text called exif": (b"tEXt", b"exif\0" + TURNED),
}
BEFORE = {
    "none": (HEAD, DATA, END),
    "several pieces": (HEAD, *PARTS, DATE, (b"prVt", b"exif"), END),
    "a title": (HEAD, (b"tEXt", b"Title\0exif"), DATA, END),
    **{f"{name} before": (HEAD, one, DATA, DATE, END) for name, one in SIDES.items()},
}
AFTER = {f"{name} after": (HEAD, *PARTS, DATE, one, END) for name, one in SIDES.items()} | {
    "raw profile before, exif after": (HEAD, RAW_TEXT, DATA, (b"eXIf", TURNED), END),
    "no pixels": (HEAD, END),
    "no end": (HEAD, DATA, DATE),
    "exif after the end": (HEAD, DATA, END, (b"eXIf", TURNED)),
}


def png(chunks):
    parts = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def by_pillow(content):
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.getexif().get(0x0112, 1)
    except (OSError, SyntaxError, ValueError):
        return None


def found(path, content):
    path.write_bytes(content)
    try:
        size = image_size(path, upright=True)
    except DataError:
        return None
    assert (size == (16, 24)) is has_orientation(path)
    return size


def assert_as_pillow(path, content):
    expected = by_pillow(content)
    size = None if expected is None else (16, 24) if expected in (6, 8) else (24, 16)
    assert found(path, content) == size


@pytest.mark.parametrize("case", BEFORE | AFTER)
def test_the_orientation_is_pillows(tmp_path, case):
    content = png((BEFORE | AFTER)[case])
    assert_as_pillow(tmp_path / "a.png", content)
    if case.removesuffix(" before").removesuffix(" after") in SIDES:
        assert found(tmp_path / "a.png", content) == (16, 24)


@pytest.mark.parametrize("case", ["several pieces", "exif after"])
def test_so_it_is_of_a_file_that_breaks_off_anywhere(tmp_path, case):
    content = png((BEFORE | AFTER)[case])
    for length in range(8, len(content)):
        assert_as_pillow(tmp_path / "a.png", content[:length])


@pytest.mark.parametrize("case", BEFORE)
def test_no_pixel_is_decoded_for_what_is_not_behind_it(tmp_path, monkeypatch, case):
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image: pytest.fail("decoded"))
    assert found(tmp_path / "a.png", png(BEFORE[case])) == ((16, 24) if "before" in case else (24, 16))
