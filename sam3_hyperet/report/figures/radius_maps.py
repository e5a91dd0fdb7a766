"""The normalised radius of a site's features over an image, in front of and behind the adjustment."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import matplotlib
import numpy as np

from sam3_hyperet.overlays.addresses import data_uri
from sam3_hyperet.overlays.colors import Pixels
from sam3_hyperet.overlays.resizing import enlarge
from sam3_hyperet.report.figures.images import SIDE, Panel
from sam3_hyperet.report.tables import number, signed

_MAP = "cividis"  # as good for the colour-blind as for others
_CHANGE = "PuOr_r"
_OPACITY = 0.78  # of the map over the greyed image
_STOPS = 9  # of a colour bar's gradient


@dataclass(frozen=True)
class RadiusMap:
    """Normalised radii (h, w) at a site for one image (H, W, 3) uint8, before and after the adjustment there."""

    image: Pixels
    site: str
    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True)
class ColorBar:
    """The colours from `low` to `high` as a CSS gradient, and what they stand for."""

    low: float
    high: float
    gradient: str
    meaning: str


@dataclass(frozen=True)
class SiteMaps:
    """The rows of panels of one site, and the two colour bars that hold for all of them."""

    site: str
    rows: tuple[tuple[Panel, ...], ...]
    bars: tuple[ColorBar, ColorBar]


def site_maps(maps: Sequence[RadiusMap]) -> list[SiteMaps]:
    """Image, radius before, after, and the difference; one scale of colours for all images of a site.

    Maps without a finite value are left out.
    """
    shown: dict[str, list[RadiusMap]] = {}
    for one in maps:
        if one.before.size and np.isfinite(one.before).all() and np.isfinite(one.after).all():
            shown.setdefault(one.site, []).append(one)
    return [_site(site, found) for site, found in shown.items()]


def _site(site: str, maps: Sequence[RadiusMap]) -> SiteMaps:
    values = np.concatenate([side.ravel() for one in maps for side in (one.before, one.after)])
    low, high = float(values.min()), float(values.max())
    changes = np.concatenate([(one.after - one.before).ravel() for one in maps])
    reach = max(float(np.quantile(np.abs(changes), 0.99)), 1e-6)  # a few positions must not pale all others
    rows = []
    for one in maps:
        panels = [Panel("Image", data_uri(enlarge(one.image, SIDE)))]
        for title, values in (("Before", one.before), ("After", one.after)):
            address = _laid_over(one.image, (values - low) / max(high - low, 1e-6), _MAP)
            panels.append(Panel(title, address, f"mean {number(float(values.mean()), 3)}"))
        change = one.after - one.before
        address = _laid_over(one.image, 0.5 + 0.5 * change / reach, _CHANGE)
        rows.append((*panels, Panel("After − before", address, f"mean {signed(float(change.mean()))}")))
    radius = ColorBar(low, high, _gradient(_MAP), "normalised radius: near the root → far out")
    difference = ColorBar(-reach, reach, _gradient(_CHANGE), "difference: nearer ← → farther out")
    return SiteMaps(site, tuple(rows), (radius, difference))


def _laid_over(image: Pixels, fractions: np.ndarray, colors: str) -> str:
    """Address of fractions (h, w), clipped to [0, 1], smoothly enlarged and coloured over the image in grey."""
    grey = enlarge(image, SIDE).astype(np.float32).mean(axis=2, keepdims=True)
    large = cv2.resize(fractions.astype(np.float32), grey.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    tint = matplotlib.colormaps[colors](np.clip(large, 0, 1))[..., :3] * 255
    return data_uri(np.rint(_OPACITY * tint + (1 - _OPACITY) * grey).astype(np.uint8))


def _gradient(colors: str) -> str:
    stops = matplotlib.colormaps[colors](np.linspace(0, 1, _STOPS))
    return f"linear-gradient(to right, {', '.join(matplotlib.colors.to_hex(stop) for stop in stops)})"
