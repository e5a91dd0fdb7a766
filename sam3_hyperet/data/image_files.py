"""Images as files: known by their content, and by their size before a pixel is decoded."""

import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from sam3_hyperet.errors import DataError, UserError
from sam3_hyperet.reading import foreign_content, regular_file

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")
_EXACT = ("PNG", "TIFF", "BMP", "GIF", "PPM")
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp", "tiff_sgilog", "tiff_sgilog24")
_max_pixels = 178_000_000
_ORIENTATION, _ON_THEIR_SIDE = 0x0112, (5, 6, 7, 8)  # the tag of EXIF, and its values for which width is height
_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _BANDS = 254, 256, 257, 258, 277  # tags of TIFF
_SMALLER, _MASK = 1, 4  # its bits for a smaller copy of another page, and for where another page has data
_BIG_TIFF = 43
_TURNED_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What undoes an orientation; EXIF (CIPA DC-008), 4.6.4."""
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TO_8_BITS = "-ot Byte -scale LOW HIGH 0 255"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PNG_ORIENTING = (b"exif", b"Raw profile type exif", b"XML:com.adobe.xmp", b"xmp")  # texts in which Pillow looks for it
_BROKEN = (  # what Pillow's readers raise on damaged files
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(AssertionError, RuntimeError, MemoryError, struct.error, zlib.error),
)


def limit_megapixels(megapixels: float) -> None:
    """Open images of up to so many million pixels in this process, and its forks, from now on.

    Pillow's own limit, of the process as well, warns from 89 and raises from 179.
    """
    global _max_pixels
    _max_pixels = Image.MAX_IMAGE_PIXELS = round(megapixels * 1e6)


@contextmanager
def open_image(path: Path, kind: str = "image") -> Iterator[ImageFile.ImageFile]:
    """Open an image as it is stored; its pixels are decoded when they are asked for.

    Raises DataError naming the file: it is none, has several frames, or cannot be decoded within the context.
    """
    regular_file(path)
    Image.init()
    known = [name for name in _FORMATS if name in Image.OPEN]  # a build of Pillow may lack some
    try:
        with Image.open(path, formats=known) as image:
            if image.width * image.height > _max_pixels:
                raise _too_large(path, image.width * image.height)
            if (frames := _frames(image)) > 1:
                raise DataError(f"{path}: it has {frames} pages or frames, expected one {kind}")
            yield image
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, next(int(word) for word in re.findall(r"\d+", str(error)))) from None
    except _BROKEN as error:
        found = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            found = _of_bands(path) or f"it is none of {', '.join(known)}, or damaged"
        raise DataError(f"{path}: not a readable {kind} ({foreign_content(path) or found})") from None


@contextmanager
def open_label_image(path: Path) -> Iterator[Image.Image]:
    """`open_image` for what is exact to the pixel. Raises DataError also for a lossy format, whatever its name."""
    with open_image(path, "label map") as image:
        compression = str(image.info.get("compression")) if image.format == "TIFF" else ""
        if image.format not in _EXACT or compression in _LOSSY_TIFF:
            found = f"it is {' with '.join(filter(None, (image.format, compression)))}, which changes labels at edges"
            raise DataError(f"{path}: {found}; expected PNG from where the labels come from; converting is no remedy")
        yield image


def read_image(path: Path, *, upright: bool = False, check: Callable[[int, int], None] | None = None) -> Image.Image:
    """The image at `path` in RGB, as it is stored or, `upright`, as EXIF says. Raises DataError naming the file.

    `check` gets the width and height before a pixel is decoded, and may raise.
    """
    with open_image(path) as stored:
        if check is not None:
            check(*_size(stored, upright))
        if stored.mode.startswith(("I", "F")) or _has_16_bits(stored):
            found = f"found {stored.mode} pixels" + (" of 16 bits a channel" if _has_16_bits(stored) else "")
            remedy = "convert all images alike, with the values that become black and white (such as gdal_translate"
            raise DataError(f"{path}: {found}, expected 8 bits a channel; {remedy} {_TO_8_BITS})")
        file = ImageOps.exif_transpose(stored) if upright else _as_stored(stored)
        if file.mode == "P" and "transparency" in file.info:
            return file.convert("RGBA").convert("RGB")
        return file.convert("RGB")


def image_size(path: Path, *, upright: bool = False) -> tuple[int, int]:
    """Width and height of the image at `path`, by the beginning of the file. Raises DataError naming the file."""
    with open_image(path) as file:
        return _size(file, upright)


def has_orientation(path: Path) -> bool:
    """Whether EXIF turns or mirrors the image at `path`. Raises DataError naming the file."""
    return _orientation(path) not in (0, 1)


def has_hidden_orientation(path: Path) -> bool:
    """Whether EXIF turns or mirrors the image at `path`, and its size stays the same. Raises DataError."""
    found, (width, height) = _orientation(path), image_size(path)
    return found not in (0, 1) and (found not in _ON_THEIR_SIDE or width == height)


def _orientation(path: Path) -> int:
    with open_image(path) as file:
        return int(_exif(file).get(_ORIENTATION, 1))


def _has_16_bits(image: ImageFile.ImageFile) -> bool:
    """Whether a file has more than 8 bits a channel of a colour, of which Pillow would silently drop the lower ones."""
    if image.format == "BMP":  # 5 or 6 bits a channel, in 16 a pixel
        return False
    if image.format == "TIFF":  # whose mode does not tell where its bands are stored one after the other
        return bool(max(_tags(image).get(_BITS, (1,))) > 8)
    if image.format == "JPEG2000":
        return _bits_of_jpeg2000(_path(image)) > 8
    raw = image.tile[0].args if getattr(image, "tile", None) else ()
    mode, *more = (raw,) if isinstance(raw, str) else raw or ("",)
    return ";16" in str(mode) or (image.format == "PPM" and more[:1] > [255])


def _as_stored(image: ImageFile.ImageFile) -> Image.Image:
    """An image whose pixels are where the file has them: Pillow turns TIFFs by their orientation as it decodes them."""
    if image.format != "TIFF":
        return image
    orientation = _tags(image).get(_ORIENTATION, 1)
    image.load()
    is_turned = orientation in _TURNED_BACK and _ORIENTATION not in _tags(image)
    return image.transpose(_TURNED_BACK[orientation]) if is_turned else image


def _tags(image: Image.Image) -> TiffImagePlugin.ImageFileDirectory_v2:
    return image.tag_v2  # type: ignore[attr-defined,no-any-return]


def _of_bands(path: Path) -> str:
    """What to say of a TIFF that is well-formed and no picture, such as five bands of a satellite; "" for any other."""
    with path.open("rb") as file:
        if file.read(4) not in _TIFF_HEADS:
            return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about what is damaged
            page = next(_pages(path))
        bands, bits = page[_BANDS], max(page[_BITS])
    except (*_BROKEN, StopIteration):
        return ""
    picked = f"gdal_translate -b 3 -b 2 -b 1 {_TO_8_BITS} -co PHOTOMETRIC=RGB"
    return f"a TIFF of {bands} bands of {bits} bits that are no colours; choose those of red, green, blue: {picked}"


def _path(image: Image.Image) -> Path:
    return Path(os.fsdecode(image.filename))  # type: ignore[attr-defined]


def _bits_of_jpeg2000(path: Path) -> int:
    """Bits of the first channel, by the code stream's sizes (ISO/IEC 15444-1, A.5.1); 0 if it has none."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    start = head.find(b"\xff\x4f\xff\x51")
    depth = head[start + 42 : start + 43] if start >= 0 else b""
    return (depth[0] & 0x7F) + 1 if depth else 0


def _too_large(path: Path, pixels: int) -> DataError:
    return DataError(
        f"{path}: it has {pixels / 1e6:,.1f} million pixels, expected at most {_max_pixels / 1e6:,.0f} million; "
        f"data.max_megapixels={-(-pixels // 1_000_000)} opens it (predict: max_megapixels), with some GiB of memory a "
        "process"
    )


def _size(file: Image.Image, upright: bool) -> tuple[int, int]:
    width, height = file.size
    if file.format == "TIFF":  # of which Pillow has turned the size already
        width, height = _tags(file)[_WIDTH], _tags(file)[_HEIGHT]
    turned = upright and _exif(file).get(_ORIENTATION, 1) in _ON_THEIR_SIDE
    return (height, width) if turned else (width, height)


def _exif(file: Image.Image) -> Image.Exif:
    """`file.getexif()`, which decodes all of a PNG, in case EXIF follows the pixels; here only where it does."""
    if file.format == "PNG" and "exif" not in file.info and not _may_turn_after_pixels(_path(file)):
        return Image.Image.getexif(file)
    return file.getexif()


def _may_turn_after_pixels(path: Path) -> bool:
    """Whether an orientation may follow the pixels of a PNG, by the heads of its chunks, or it breaks off."""
    place, has_pixels = 8, False
    with path.open("rb", buffering=0) as file:
        while True:
            file.seek(place)
            head = file.read(8 + max(map(len, _PNG_ORIENTING)))
            length, kind, text = int.from_bytes(head[:4], "big"), head[4:8], head[8:]
            has_pixels |= kind in (b"IDAT", b"fdAT")
            if len(kind) < 4 or kind == b"IEND":
                return kind != b"IEND" or not has_pixels
            is_orienting = kind == b"eXIf" or (kind in _PNG_TEXTS and text.startswith(_PNG_ORIENTING))
            if has_pixels and is_orienting:
                return True
            place += 12 + length


def _frames(image: Image.Image) -> int:
    """Number of images in a file, without previews of a camera, smaller copies in a pyramid, and masks of no data."""
    frames = 1 if image.format == "MPO" else 0
    if image.format == "TIFF":
        _, *others = (int(page.get(_SUBFILE_TYPE, 0)) for page in _pages(_path(image)))
        frames = 1 + sum(not kind & (_SMALLER | _MASK) for kind in others)
    return frames or getattr(image, "n_frames", 1)


def _pages(path: Path) -> Iterator[TiffImagePlugin.ImageFileDirectory_v2]:
    """The tags of each page of a TIFF; Pillow cannot go to pages that it cannot decode, such as masks."""
    with path.open("rb") as file:
        head = file.read(8)
        pages = TiffImagePlugin.ImageFileDirectory_v2(head + (file.read(8) if head[2] == _BIG_TIFF else b""))
        known = set[int]()
        while pages.next and pages.next not in known:
            known.add(pages.next)
            file.seek(pages.next)
            pages.load(file)
            yield pages
