"""Images as addresses within a page, and masks as PNG files."""

import base64
import io

import numpy as np
from PIL import Image

from sam3_hyperet.masks import Rle, decode
from sam3_hyperet.overlays.colors import Pixels


def data_uri(image: Pixels, *, lossless: bool = False) -> str:
    """An image (H, W, 3) as a `data:` address: PNG where `lossless`, else WebP."""
    buffer, drawn, kind = io.BytesIO(), Image.fromarray(image), "png" if lossless else "webp"
    if lossless:
        drawn.quantize(256, dither=Image.Dither.NONE).save(buffer, kind, optimize=True)
    else:
        drawn.save(buffer, kind, quality=86, method=5)
    return data_address(buffer.getvalue(), kind)


def data_address(encoded: bytes, kind: str) -> str:
    """An encoded image as a `data:` address; kind: "png", "jpeg" or "webp"."""
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode('ascii')}"


def mask_png(mask: np.ndarray | Rle) -> bytes:
    """A mask, bool (H, W) or COCO run lengths, as a PNG of one bit a pixel: white is what it covers."""
    binary = decode(mask).astype(bool) if isinstance(mask, dict) else np.asarray(mask, dtype=bool)
    buffer = io.BytesIO()
    Image.fromarray(binary).save(buffer, "png")  # one bit a pixel, for it is bool
    return buffer.getvalue()
