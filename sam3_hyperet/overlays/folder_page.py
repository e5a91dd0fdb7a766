"""The page of a folder of overlays: one HTML file beside them, without anything from elsewhere."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


def folder_page(title: str, facts: Mapping[str, str], pictures: Sequence[Picture], files: Sequence[str]) -> str:
    """The page's HTML. facts: what the pictures were made with. files: others of the folder that it links to."""
    totals: dict[str, list[Found]] = {}
    for picture in pictures:
        for one in picture.found:
            totals.setdefault(one.phrase, []).append(one)
    legend = [
        Found(
            phrase,
            of_phrase[0].color,
            sum(one.count for one in of_phrase),
            None if of_phrase[0].base is None else sum(one.base or 0 for one in of_phrase),
        )
        for phrase, of_phrase in totals.items()
    ]
    pages = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("sam3_hyperet.overlays").joinpath("folder_page.html.j2").read_text(encoding="utf-8")
    shown = {"title": title, "facts": facts, "pictures": pictures, "legend": legend, "files": files}
    return pages.from_string(source).render(**shown)
