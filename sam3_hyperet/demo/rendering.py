"""Answers as HTML: masks with their scores, radius maps, or the concept tree."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import escape
from PIL import Image

from sam3_hyperet.demo.concepts import Concepts, Coverage, coverage
from sam3_hyperet.demo.models import Found, Picture, distinct
from sam3_hyperet.demo.prompts import Ask, DrawnBox
from sam3_hyperet.demo.session import Answer
from sam3_hyperet.overlays.addresses import data_address
from sam3_hyperet.overlays.colors import Pixels, css
from sam3_hyperet.overlays.overlay import ExemplarBox, Instance, draw_overlay
from sam3_hyperet.report.figures.radius_maps import RadiusMap, site_maps

_SMALL = 360  # pixels of the longer side of a level's pictures
_SCORES = 12  # of a prompt that are listed
_MAPS = 6  # phrases whose radii are drawn


@dataclass(frozen=True)
class _Line:
    """A prompt in the table of scores; `drawn` has the positions of the detections in the two pictures."""

    ask: Ask
    color: str
    base: Found
    adapted: Found
    drawn: tuple[list[int], list[int]]


def masks_html(picture: Picture, answer: Answer, threshold: float) -> str:
    """Base and adapted model side by side, and the scores of every prompt."""
    pictures = [_drawn(picture, found, answer.asked, threshold) for found in (answer.base, answer.adapted)]
    colors = (css(number) for number in range(len(answer.asked)))
    lines = [
        _Line(ask, color, base, adapted, (distinct(base, threshold), distinct(adapted, threshold)))
        for ask, color, base, adapted in zip(answer.asked, colors, answer.base, answer.adapted, strict=True)
    ]
    return _render(
        "masks", answer=answer, pictures=pictures, lines=lines, threshold=threshold, most=_SCORES, work=_work(answer)
    )


def radius_html(picture: Picture, answer: Answer) -> str:
    """Radii of the fusion encoder's output for each prompt: base, adapted, and the difference."""
    image, maps = picture.shown, []
    for ask, base, adapted in list(zip(answer.asked, answer.base, answer.adapted, strict=True))[:_MAPS]:
        if base.radii is not None and adapted.radii is not None:
            maps.append(RadiusMap(image, ask.label, base.radii, adapted.radii))
    left_out = max(0, len(answer.asked) - _MAPS)
    return _render("radius", answer=answer, sites=site_maps(maps), left_out=left_out)


def tree_html(picture: Picture, answer: Answer, concepts: Concepts, threshold: float) -> str:
    """What of the picture each level and each concept covers; the answer is for all of the concepts."""
    size, models = picture.shown_size, (answer.base, answer.adapted)

    def covered(numbers: Sequence[int]) -> list[Coverage]:
        return [coverage([found[k] for k in numbers], threshold, size) for found in models]

    levels = []
    for level, numbers in concepts.by_level().items():
        drawn = [_drawn(picture, found, answer.asked, threshold, numbers, _SMALL) for found in models]
        levels.append((level, len(numbers), list(zip(drawn, covered(numbers), strict=True))))
    rows = [(row, css(row.number), covered([row.number])) for row in concepts.rows]
    return _render("tree", answer=answer, levels=levels, rows=rows, work=_work(answer))


def stage_html(picture: Picture, boxes: Sequence[DrawnBox], drawing: bool) -> str:
    """The picture itself with the boxes on it; `drawing`: more can be drawn."""
    address, (width, height) = _address(picture.shown), picture.image.size
    return _render("stage", picture=picture, address=address, width=width, height=height, boxes=boxes, drawing=drawing)


def message_html(text: str) -> str:
    """What went wrong, in a sentence; nothing where nothing did."""
    return _render("message", text=text)


def _drawn(
    picture: Picture,
    found: Sequence[Found],
    asked: Sequence[Ask],
    threshold: float,
    numbers: Sequence[int] | None = None,
    side: int | None = None,
) -> str:
    """Address of the picture with the masks of the prompts at these positions, or of all."""
    instances, boxes = [], []
    for k in range(len(asked)) if numbers is None else numbers:
        for i in distinct(found[k], threshold):
            texts = (f"{asked[k].label} {found[k].scores[i]:.2f}", f"{found[k].scores[i]:.2f}")
            instances.append(Instance(found[k].masks[i], k, texts if side is None else ()))
        boxes += _boxes(asked[k], k, picture)
    drawn = draw_overlay(picture.shown, instances, boxes, side=side)
    return _address(drawn.pixels)


def _boxes(ask: Ask, color: int, picture: Picture) -> list[ExemplarBox]:
    """The exemplars of a prompt in pixels of the picture as it is shown."""
    if ask.exemplars is None:
        return []
    width, height = picture.shown_size
    found = []
    for (x, y, w, h), positive in zip(ask.exemplars.boxes, ask.exemplars.positive, strict=True):
        box = (x - w / 2) * width, (y - h / 2) * height, w * width, h * height
        found.append(ExemplarBox(box, color, positive))
    return found


def _address(pixels: Pixels) -> str:
    """An image as a `data:` address, encoded within milliseconds, for it is drawn anew at each move of the dial."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", quality=90, subsampling=0)
    return data_address(buffer.getvalue(), "jpeg")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("sam3_hyperet.demo"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(part: str, **values: object) -> str:
    """The HTML of a template."""
    return _escaped(_environment().get_template(f"{part}.html.j2").render(values))


def _work(answer: Answer) -> str:
    """What an answer cost, in words."""
    total = 2 * len(answer.asked)
    kept = "" if answer.computed == total else f", {total - answer.computed} of {total} results were at hand"
    return f"Answered in {answer.seconds:.2f} s{kept}."


def text_html(text: str) -> str:
    """A text as HTML that Gradio takes as it is."""
    return _escaped(str(escape(text)))


def _escaped(html: str) -> str:
    """HTML without what Gradio would read as a placeholder of a template of its own."""
    return html.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")
