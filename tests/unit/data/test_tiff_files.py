"""TIFFs, of which Pillow reads some otherwise than other images: turned, band by band, of many bands."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from sam3_hyperet.data.image_files import image_size, read_image
from sam3_hyperet.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 5))


def write_tiff(path, values, *, planar):
    """(H, W, bands) as the simplest TIFF, grey with further bands where there are more than three; little-endian."""
    height, width, bands = values.shape
    bits = values.dtype.itemsize * 8
    data = (np.moveaxis(values, 2, 0) if planar else values).tobytes()
    offsets = [8 + len(data) // bands * n for n in range(bands if planar else 1)]
    length = len(data) // len(offsets)
    tags = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * bands),
        259: (3, [1]),
        262: (3, [2 if bands == 3 else 1]),
        273: (4, offsets),
        277: (3, [bands]),
        278: (4, [height]),
        279: (4, [length] * len(offsets)),
        284: (3, [2 if planar else 1]),
    }
    if bands > 3:
        tags[338] = (3, [0] * (bands - 1))
    entries, behind = b"", b""
    start = 8 + len(data)
    end = start + 2 + 12 * len(tags) + 4
    for tag, (kind, numbers) in sorted(tags.items()):
        packed = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        place = packed.ljust(4, b"\0")
        if len(packed) > 4:
            place, behind = struct.pack("<I", end + len(behind)), behind + packed
        entries += struct.pack("<HHI", tag, kind, len(numbers)) + place
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, start) + data + struct.pack("<H", len(tags)) + entries + bytes(4) + behind
    )
    return path


@pytest.mark.parametrize("planar", [False, True])
def test_eight_bits_are_read_whether_bands_are_stored_apart_or_not(planar, tmp_path):
    path = write_tiff(tmp_path / "a.tif", PIXELS[..., :3].astype(np.uint8), planar=planar)
    assert np.array_equal(np.asarray(read_image(path)), PIXELS[..., :3])


@pytest.mark.parametrize("planar", [False, True])
def test_sixteen_bits_are_refused_whether_bands_are_stored_apart_or_not(planar, tmp_path):
    path = write_tiff(tmp_path / "a.tif", PIXELS[..., :3].astype("<u2") * 257, planar=planar)
    with pytest.raises(DataError, match=r"a\.tif: found RGB pixels of 16 bits a channel, .*-scale LOW HIGH 0 255"):
        read_image(path)


@pytest.mark.parametrize("bits", [8, 16])
def test_many_bands_are_said_to_be_many_bands(bits, tmp_path):
    path = write_tiff(tmp_path / "a.tif", PIXELS.astype(f"<u{bits // 8}"), planar=False)
    with pytest.raises(DataError, match=rf"a TIFF of 5 bands of {bits} bits that are no colours; .*-b 3 -b 2 -b 1"):
        read_image(path)


def test_a_damaged_tiff_is_said_to_be_damaged(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(20))
    with pytest.raises(DataError, match="or damaged"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_followed_or_ignored_as_in_any_image(orientation, upright, compression, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(PIXELS[..., :3].astype(np.uint8))
    stored.save(tmp_path / "a.tif", exif=exif, compression=compression)
    stored.save(tmp_path / "a.png", exif=exif)
    expected = read_image(tmp_path / "a.png", upright=upright)
    seen: list[tuple[int, int]] = []
    found = read_image(tmp_path / "a.tif", upright=upright, check=lambda *size: seen.append(size))
    assert np.array_equal(np.asarray(found), np.asarray(expected))
    assert image_size(tmp_path / "a.tif", upright=upright) == expected.size == seen[0]
