"""Images and label maps as files: the right colours, one frame, exact labels, sizes before pixels, clear refusals."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin
from special_files import SPECIAL, replace_by

import sam3_hyperet
from sam3_hyperet.cli.predict_inputs import find_images
from sam3_hyperet.data import image_files
from sam3_hyperet.data.annotations import AnnotatedImages, Category, ImageInfo
from sam3_hyperet.data.finding import find_files
from sam3_hyperet.data.image_files import image_size, read_image
from sam3_hyperet.data.label_maps import read_label_values
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import read_split
from sam3_hyperet.errors import DataError

RED, GREEN = (200, 30, 40), (20, 180, 60)
PIXELS = np.zeros((16, 24, 3), np.uint8)
PIXELS[:, :12], PIXELS[:, 12:] = RED, GREEN


def picture():
    return Image.fromarray(PIXELS)


def alpha(image):
    """The same colours behind another opacity in each half."""
    image.putalpha(Image.fromarray(np.tile(np.repeat(np.uint8([0, 90]), 12), (16, 1))))
    return image


def palette():
    image = picture().quantize(4)
    image.info["transparency"] = 0
    return image


def deep_png(path, scale=257, kind=2):
    """A PNG of 16 bits a channel: grey (0), RGB (2), grey with opacity (4) or RGBA (6)."""
    channels = PIXELS[..., [[0], [], [0, 1, 2], [], [0, 1], [], [0, 1, 2, 0]][kind]]
    rows = b"".join(b"\0" + (row.astype(">u2") * scale).tobytes() for row in channels)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 24, 16, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    parts = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def deep_tiff(path, channels, compression=1):
    values = np.concatenate([PIXELS, PIXELS[..., :1]], 2)[..., :channels].astype(np.uint16) * 4
    written, data = cv2.imencode(".tif", values, [cv2.IMWRITE_TIFF_COMPRESSION, compression])
    assert written
    path.write_bytes(data.tobytes())


def with_preview(path):
    """What phones write: a photo and a smaller copy of it."""
    picture().save(path, "MPO", save_all=True, append_images=[picture().resize((6, 4))], quality=95, subsampling=0)


def two_pages(second, kind):
    """A TIFF of the picture and a second page of this kind of subfile."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[254] = kind
    content = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(content, True) as file:
        picture().save(file, "TIFF")
        file.newFrame()
        second.save(file, "TIFF", tiffinfo=info)
        file.newFrame()
    return content.getvalue()


def pyramid(path):
    """What slide scanners and GDAL write: an image and smaller copies of it."""
    path.write_bytes(two_pages(picture().resize((12, 8)), kind=1))


def with_mask(path):
    """What GDAL writes with GDAL_TIFF_INTERNAL_MASK: an image, and where it has data, in a page that is no image."""
    data = bytearray(two_pages(Image.new("1", (24, 16)), kind=4))
    (first,) = struct.unpack_from("<I", data, 4)
    (second,) = struct.unpack_from("<I", data, first + 2 + 12 * struct.unpack_from("<H", data, first)[0])
    tags = range(second + 2, second + 2 + 12 * struct.unpack_from("<H", data, second)[0], 12)
    (photometric,) = (at for at in tags if struct.unpack_from("<H", data, at)[0] == 262)
    struct.pack_into("<H", data, photometric + 8, 4)  # a transparency mask, which Pillow does not write
    path.write_bytes(data)


def bmp_of_16_bits(path):
    """5, 6 and 5 bits a channel, 16 a pixel, from the last row up."""
    red, green, blue = np.moveaxis(PIXELS[::-1].astype("<u2"), 2, 0)
    pixels = (red >> 3 << 11 | green >> 2 << 5 | blue >> 3).astype("<u2").tobytes()
    height, width = PIXELS.shape[:2]
    header = struct.pack("<2sIHHI", b"BM", 66 + len(pixels), 0, 0, 66)
    header += struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 3, len(pixels), 0, 0, 0, 0)
    path.write_bytes(header + struct.pack("<III", 0xF800, 0x07E0, 0x001F) + pixels)


COLOURS = {
    "RGB.png": (lambda p: picture().save(p), 0),
    "RGBA.png": (lambda p: alpha(picture()).save(p), 0),
    "palette.png": (lambda p: palette().save(p, transparency=0), 0),
    "palette.gif": (lambda p: picture().quantize(4).save(p), 0),
    "RGB.webp": (lambda p: picture().save(p, lossless=True), 0),
    "CMYK.tif": (lambda p: picture().convert("CMYK").save(p), 1),
    "CMYK.jpg": (lambda p: picture().convert("CMYK").save(p, quality=95, subsampling=0), 12),
    "RGB.jpg": (lambda p: picture().save(p, quality=95, subsampling=0), 12),
    "jpeg-in.png": (lambda p: picture().save(p, "JPEG", quality=95, subsampling=0), 12),
    "preview.jpg": (with_preview, 12),
    "pyramid.tif": (pyramid, 0),
    "mask.tif": (with_mask, 0),
    "565.bmp": (bmp_of_16_bits, 8),
    "RGB.jp2": (lambda p: picture().save(p, num_resolutions=1), 12),
}


@pytest.mark.parametrize("name", COLOURS)
def test_the_colours_are_right(tmp_path, name):
    write, tolerance = COLOURS[name]
    write(tmp_path / name)
    found = read_image(tmp_path / name)
    assert (found.mode, found.size, image_size(tmp_path / name)) == ("RGB", (24, 16), (24, 16))
    inside = np.asarray(found).astype(int)[4:12, [2, 3, 4, 18, 19, 20]]  # off the edge, where JPEG rings
    assert np.abs(inside - PIXELS[4:12, [2, 3, 4, 18, 19, 20]]).max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_greys_are_grey(tmp_path, mode):
    grey = Image.fromarray(np.where(PIXELS[..., 0] > 100, np.uint8(255), np.uint8(0)))
    (alpha(grey.copy()) if mode == "LA" else grey.convert(mode)).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png")), np.repeat(np.asarray(grey)[..., None], 3, 2))


def frames(path, name):
    others = [Image.fromarray(255 - PIXELS), picture()]
    picture().save(path, name, save_all=True, append_images=others)


def text_bomb(path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 5_000_000, zip=True)
    picture().save(path, "PNG", pnginfo=info)


def cut(path):
    picture().save(path, "PNG", compress_level=0)
    path.write_bytes(path.read_bytes()[:700])


DEEP = "of 16 bits a channel, expected 8 bits a channel; convert all images alike"
REFUSED = {
    "GIF": (lambda p: frames(p, "GIF"), "it has 3 pages or frames, expected one image"),
    "animated PNG": (lambda p: frames(p, "PNG"), "it has 3 pages or frames"),
    "animated WebP": (lambda p: frames(p, "WEBP"), "it has 3 pages or frames"),
    "pages": (lambda p: frames(p, "TIFF"), "it has 3 pages or frames"),
    "text bomb": (text_bomb, "not a readable image .*too large"),
    "cut": (cut, "not a readable image .*(truncated|broken)"),
    "empty": (lambda p: p.write_bytes(b""), "not a readable image .it is empty"),
    "HTML": (lambda p: p.write_bytes(b"<!doctype html>"), "it is a web page"),
    "LFS": (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
    "text": (lambda p: p.write_bytes(b"hello"), "it is none of PNG, JPEG"),
    "PostScript": (lambda p: picture().save(p, "EPS"), "it is none of PNG, JPEG"),
    "deep greys": (lambda p: deep_png(p, kind=0), DEEP),
    "deep greys with opacity": (lambda p: deep_png(p, kind=4), DEEP),
    "deep colours": (lambda p: deep_png(p, scale=4), DEEP),
    "deep colours of the full range": (deep_png, DEEP),
    "deep colours with opacity": (lambda p: deep_png(p, kind=6), DEEP),
    "deep TIFF": (lambda p: deep_tiff(p, 3), DEEP),
    "deep TIFF with opacity": (lambda p: deep_tiff(p, 4), DEEP),
    "deep compressed TIFF": (lambda p: deep_tiff(p, 3, compression=5), DEEP),
    "deep JPEG 2000": (
        lambda p: p.write_bytes(cv2.imencode(".jp2", PIXELS.repeat(8, 0).repeat(8, 1).astype(np.uint16))[1].tobytes()),
        DEEP,
    ),
    "deep PPM": (lambda p: p.write_bytes(b"P6 24 16 65535 " + PIXELS.astype(">u2").tobytes()), DEEP),
    "floats": (
        lambda p: Image.fromarray(PIXELS[..., 0].astype(np.float32)).save(p, "TIFF"),
        "expected 8 bits a channel",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_image_is_refused(tmp_path, case):
    write, message = REFUSED[case]
    path = tmp_path / "a.png"
    write(path)
    for upright in (False, True):
        with pytest.raises(DataError, match=message) as raised:
            read_image(path, upright=upright)
        assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("read", [read_image, read_label_values, image_size])
def test_nothing_but_files_is_opened(tmp_path, read, kind):
    with pytest.raises(DataError, match=f"cannot be read .it is a {kind}"):
        read(replace_by(kind, tmp_path / "a.png"))


class One(AnnotatedImages):
    """One image, annotated at 24 × 16."""

    def __init__(self, path):
        super().__init__("one", [Category(0, "car")])
        self.path = path

    def __len__(self):
        return 1

    def image(self, i):
        return ImageInfo(7, self.path, 16, 24)


def test_a_size_that_is_not_the_annotations_is_refused_before_a_pixel_is_decoded(tmp_path, monkeypatch):
    """13,000 × 13,000 pixels of one colour are 164 KB in a file, and gigabytes in memory."""
    path = tmp_path / "a.png"
    picture().save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 9_000, 9_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    monkeypatch.setattr(Image.Image, "convert", lambda *args: pytest.fail("decoded"))
    with pytest.raises(DataError, match="image 7 is 9000x9000 pixels, its annotations are for 24x16"):
        One(path).load_image(0)


def lossy(name, **options):
    labels = np.zeros((16, 24), np.uint8)
    labels[3:9, 5:17] = 1
    return lambda path: Image.fromarray(labels).save(path, name, **options)


LOSSY = {
    "JPEG": (lossy("JPEG"), "it is JPEG, which changes labels"),
    "JPEG 2000": (lossy("JPEG2000"), "it is JPEG2000, which"),
    "WebP": (lossy("WEBP"), "it is WEBP, which"),
    "TIFF of JPEG": (lossy("TIFF", compression="jpeg"), "it is TIFF with jpeg, which"),
}


@pytest.mark.parametrize("case", LOSSY)
def test_labels_in_a_lossy_format_are_refused_by_content(tmp_path, case):
    write, message = LOSSY[case]
    write(tmp_path / "a.png")
    with pytest.raises(DataError, match=message):
        read_label_values(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_exact_labels_are_read(tmp_path, name):
    lossy(None, **({"compression": "tiff_lzw"} if name == "a.tif" else {}))(tmp_path / name)
    assert np.unique(read_label_values(tmp_path / name)).tolist() == [0, 1]


def test_a_name_that_is_no_text_is_refused_before_a_model_is_built(tmp_path):
    """As archives from another system leave it; no result could name it."""
    (tmp_path / "caf\udce9.png").touch()
    for find in (lambda: find_files(tmp_path, [".png"]), lambda: find_images(str(tmp_path))):
        with pytest.raises(DataError, match=r"caf\\udce9\.png: its name is not UTF-8"):
            find()


def test_pillow_opens_images_in_one_place():
    package = Path(sam3_hyperet.__file__).parent
    assert [p.name for p in package.rglob("*.py") if "Image.open(" in p.read_text()] == ["image_files.py"]


def test_a_link_to_a_folder_around_it_is_named(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "1.png").touch()
    (tmp_path / "other").symlink_to(tmp_path / "a" / "b")  # another one may be linked, also twice
    assert set(find_files(tmp_path, [".png"])) == {"a/b/1.png", "other/1.png"}
    (tmp_path / "a" / "b" / "again").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match=r"/again.*: links to a folder that it lies in"):
        find_files(tmp_path, [".png"])


@pytest.fixture
def limit():
    before = Image.MAX_IMAGE_PIXELS, image_files._max_pixels
    yield image_files.limit_megapixels
    Image.MAX_IMAGE_PIXELS, image_files._max_pixels = before


@pytest.mark.parametrize("megapixels", [0.004, 0.006])
def test_a_larger_image_than_allowed_is_named_with_the_option(megapixels, tmp_path, limit):
    """Pillow raises where an image has twice its limit, and else warns, which is an error here."""
    Image.new("RGB", (100, 90)).save(tmp_path / "a.png")
    limit(megapixels)
    with pytest.raises(DataError, match=r"a.png: it has 0.0 million pixels, .*data.max_megapixels=1 opens it"):
        read_image(tmp_path / "a.png")
    limit(0.01)
    assert read_image(tmp_path / "a.png").size == (100, 90)


def test_the_limit_of_a_data_set_is_an_option(tmp_path, limit):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9")
    options = {"name": "s", "format": "yolo", "root": str(tmp_path), "splits": {"val": "images"}, "names": ("car",)}
    with pytest.raises(DataError, match=r"data\.max_megapixels=1"):
        read_split(DataOptions(**options, max_megapixels=0.001), "val")
    assert len(read_split(DataOptions(**options), "val").images) == 1
