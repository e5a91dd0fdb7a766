"""The page of a folder of overlays: one HTML file beside them, without anything from elsewhere."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined

from sam3_hyperet.overlays.colors import css
from sam3_hyperet.overlays.labels import Box


@dataclass(frozen=True)
class Found:
    """What was found of a phrase: `count` instances, by the base `base` of them, or None where there is no base.

    boxes: exemplars that it was given, which are drawn.
    """

    phrase: str
    color: int
    count: int
    base: int | None = None
    boxes: int = 0

    @property
    def swatch(self) -> str:
        """Its colour in CSS."""
        return css(self.color)

    @property
    def counts(self) -> str:
        """The numbers in words: "3", or "2 → 3" beside a base."""
        return f"{self.count}" if self.base is None else f"{self.base} → {self.count}"

    @property
    def is_drawn(self) -> bool:
        """Whether there is anything of its colour."""
        return bool(self.count or self.base or self.boxes)


@dataclass(frozen=True)
class Picture:
    """An image's overlay: a file of the folder, its size, and the places of the panels within it, with headings."""

    file: str
    title: str
    image_size: tuple[int, int]  # width, height
    size: tuple[int, int]
    panels: Sequence[tuple[str, Box]]
    found: Sequence[Found]
    notes: Sequence[str] = ()

    @property
    def address(self) -> str:
        """Its relative address."""
        return quote(os.fsencode(self.file))

    @property
    def anchor(self) -> str:
        """The id of its part of the page."""
        return f"picture-{quote(os.fsencode(self.file), safe='')}"

    @cached_property
    def crops(self) -> list[dict[str, str]]:
        """Each panel's heading and the CSS that shows it alone, in a frame of its proportions."""
        width = self.size[0]
        found = []
        for heading, (left, top, right, bottom) in self.panels:
            w, h = right - left, bottom - top
            image = f"width:{100 * width / w:.3f}%;left:{-100 * left / w:.3f}%;top:{-100 * top / h:.3f}%"
            found.append({"heading": heading, "frame": f"aspect-ratio:{w}/{h};max-width:{w}px", "image": image})
        return found


class Legend:
    """What was found of each phrase on all images together, as running sums: there may be millions of counts."""

    def __init__(self) -> None:
        self._sums: dict[str, Found] = {}

    def add(self, found: Iterable[Found]) -> None:
        """Add what was found on an image of all phrases that it was asked for."""
        for one in found:
            before = self._sums.setdefault(one.phrase, Found(one.phrase, one.color, 0, None if one.base is None else 0))
            if one.is_drawn:
                base = None if before.base is None else before.base + (one.base or 0)
                self._sums[one.phrase] = replace(before, count=before.count + one.count, base=base)

    @property
    def entries(self) -> list[Found]:
        """Of each phrase, in the order in which they came first."""
        return list(self._sums.values())


def folder_page(
    title: str, facts: Mapping[str, str], pictures: Sequence[Picture], legend: Legend, files: Sequence[str]
) -> str:
    """The page's HTML. facts: what the pictures were made with. files: others of the folder that it links to."""
    pages = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("sam3_hyperet.overlays").joinpath("folder_page.html.j2").read_text(encoding="utf-8")
    shown = {"title": title, "facts": facts, "pictures": pictures, "legend": legend.entries, "files": files}
    return pages.from_string(source).render(**shown)
