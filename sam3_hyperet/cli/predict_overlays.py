"""What `predict` draws: an overlay for each image, the base beside the adapted model, masks as PNG, and their page."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from PIL import Image

from sam3_hyperet.choices import SMALLEST_OVERLAY
from sam3_hyperet.data.annotations import some
from sam3_hyperet.data.finding import below
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.files import replacing
from sam3_hyperet.overlays.addresses import mask_png
from sam3_hyperet.overlays.composition import Entry, Panel, compose
from sam3_hyperet.overlays.folder_page import Found, Legend, Picture, folder_page
from sam3_hyperet.overlays.overlay import ExemplarBox, Instance, Overlay, draw_overlay
from sam3_hyperet.overlays.resizing import drawn_side
from sam3_hyperet.wording import count_of, unique

PAGE, MASKS = "index.html", "masks"
_COMPRESSION = 2  # of PNG files: a third of the time of the default, a tenth more bytes
_BOXES = "frames: boxes given, + around what is meant, − around what is not"
_Record = Mapping[str, Any]  # an image of predictions.json


def check_options(config: DictConfig, *, is_adapted: bool) -> None:
    """Raise a ConfigError for options of overlays that contradict each other."""
    if not config.base_beside:
        return
    if not is_adapted:
        raise ConfigError("base_beside=true: there is no adapter; expected adapter=FILE, or a run that has one")
    if not config.overlays:
        raise ConfigError("base_beside=true with overlays=false: nothing is drawn; expected overlays=true")
    if config.dial == 0:
        raise ConfigError("base_beside=true with dial=0, which is the base; expected another dial")


@dataclass(frozen=True)
class Drawn:
    """An overlay that is written: its part of the page, its instances, and how many of them are without a label."""

    picture: Picture
    instances: int
    unlabelled: int

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Drawn":
        """That of `dataclasses.asdict`, also from JSON, where tuples are lists."""
        picture = dict(values["picture"])
        found = [Found(**one) for one in picture.pop("found")]
        return cls(Picture(**picture, found=found), values["instances"], values["unlabelled"])

    @property
    def on_page(self) -> "Drawn":
        """The same with the phrases alone that its part of the page names: a few of those that it was asked for."""
        found = [one for one in self.picture.found if one.is_drawn]
        return replace(self, picture=replace(self.picture, found=found))


@dataclass(frozen=True)
class Overlays:
    """The overlays of a run of `predict`, and their page.

    colors: number of each prompt's colour: the same on all images, and of base and adapted. headings: of the panels,
    the last is the model's own. side: longest side of an overlay in pixels, 0 for any.
    """

    folder: Path
    colors: Mapping[str, int]
    headings: Sequence[str]
    side: int
    score_threshold: float

    @classmethod
    def of(cls, config: DictConfig, prompts: Iterable[str], headings: Sequence[str]) -> "Overlays":
        """Those that the options describe, with the prompts' colours in their order."""
        colors = {prompt: number for number, prompt in enumerate(prompts)}
        return cls(Path(config.run_dir), colors, headings, config.overlay_side, config.score_threshold)

    def draw(self, name: str, title: str, image: Image.Image, records: Sequence[_Record]) -> Drawn:
        """Write an image's overlay, a panel for each of the records, which are of the same prompts."""
        pixels = np.asarray(image)
        side = drawn_side(image.height, image.width, self.side)
        drawn = [self._overlay(pixels, record, side) for record in records]
        found = [self._found(position, records) for position in range(len(records[-1]["prompts"]))]
        notes = self._notes(records, drawn)
        legend = [Entry(one.color, f"{one.phrase} {one.counts}") for one in found if one.is_drawn]
        panels = [Panel(one.pixels, heading) for one, heading in zip(drawn, self.headings, strict=True)]
        made = compose(panels, [*legend, *(Entry(None, note) for note in notes)])
        picture = Image.fromarray(made.pixels)
        with replacing(self.folder / name) as temporary:
            picture.save(temporary, "png", compress_level=_COMPRESSION)
        places = list(zip(self.headings, made.panels, strict=True))
        if absent := [p for one, p in zip(found, records[-1]["prompts"], strict=True) if not (one.count or one.base)]:
            presences = some([f"{one['prompt']} ({one['presence']:.2f})" for one in absent], 10)
            notes = [*notes, f"not found (presence): {presences}"]
        told = Picture(name, title, image.size, picture.size, places, found, notes)
        instances = sum(len(one["detections"]) for record in records for one in record["prompts"])
        return Drawn(told, instances, sum(one.unlabelled for one in drawn))

    def _overlay(self, pixels: np.ndarray, record: _Record, side: int) -> Overlay:
        instances, boxes = [], []
        asked = [one["prompt"] for one in record["prompts"]]
        for one in record["prompts"]:
            color, phrase = self.colors[one["prompt"]], one["prompt"]
            for detection in one["detections"]:
                score = f"{detection['score']:.2f}"
                labels = (f"{phrase} {score}", score) if len(asked) > 1 else (score,)
                instances.append(Instance(detection["segmentation"], color, labels))
            boxes += [ExemplarBox(given["box"], color, given["positive"]) for given in one.get("exemplars", ())]
        return draw_overlay(pixels, instances, boxes, side=side)

    def _found(self, position: int, records: Sequence[_Record]) -> Found:
        phrase = records[-1]["prompts"][position]["prompt"]
        *before, count = (len(record["prompts"][position]["detections"]) for record in records)
        boxes = len(records[-1]["prompts"][position].get("exemplars", ()))
        return Found(phrase, self.colors[phrase], count, before[0] if before else None, boxes)

    def _notes(self, records: Sequence[_Record], drawn: Sequence[Overlay]) -> list[str]:
        notes = []
        total = sum(len(one["detections"]) for record in records for one in record["prompts"])
        if any("exemplars" in one for one in records[-1]["prompts"]):
            notes.append(_BOXES)
        if not total:
            notes.append(f"nothing from a score of {self.score_threshold:g}")
        if unlabelled := sum(one.unlabelled for one in drawn):
            notes.append(f"{unlabelled} of {count_of(total, 'instance')} without a label, which would hide others")
        return notes

    def write_page(
        self, title: str, facts: Mapping[str, str], drawn: Sequence[Drawn], legend: Legend, files: Sequence[str]
    ) -> None:
        """Write the page of the overlays that were drawn; `legend` is of all of them."""
        page = folder_page(title, facts, [one.picture for one in drawn], legend, files)
        with replacing(self.folder / PAGE) as temporary:
            temporary.write_text(page, encoding="utf-8")

    def lines(self, drawn: Sequence[Drawn]) -> list[str]:
        """What is to be said of overlays that are not as large as their images, and of masks without labels."""
        sizes, said = [one.picture.image_size for one in drawn], []
        sides = [(drawn_side(height, width, self.side), max(width, height)) for width, height in sizes]
        if enlarged := sum(side > own for side, own in sides):
            said.append(f"{count_of(enlarged, 'overlay')} drawn enlarged, to {SMALLEST_OVERLAY} pixels a side")
        if reduced := sum(side < own for side, own in sides):
            said.append(
                f"{count_of(reduced, 'overlay')} drawn reduced, to {self.side} pixels a side "
                "(overlay_side=0: as large as the images)"
            )
        if unlabelled := sum(one.unlabelled for one in drawn):
            instances = count_of(sum(one.instances for one in drawn), "instance")
            said.append(f"{unlabelled:,} of {instances} drawn without a label")
        return said


def write_masks(folder: Path, stem: str, record: dict[str, Any]) -> int:
    """Write each detection's mask below the folder, and its name into its record; returns how many there are."""
    taken, count = set[str](), 0
    for one in record["prompts"]:
        spoken = unique(re.sub(r"[^\w-]+", "-", one["prompt"]).strip("-")[:60] or "mask", taken)
        taken.add(spoken)
        for number, detection in enumerate(one["detections"], start=1):
            path = folder / MASKS / stem / f"{spoken}_{number}.png"
            with replacing(path) as temporary:
                temporary.write_bytes(mask_png(detection["segmentation"]))
            detection["mask"] = below(folder, path)
            count += 1
    return count
