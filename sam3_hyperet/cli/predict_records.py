"""What an unfinished `predict` keeps of the images that are done, from which the same command goes on."""

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from sam3_hyperet.cli.predict_inputs import Inputs
from sam3_hyperet.cli.predict_models import Entry, PromptedModels
from sam3_hyperet.cli.predict_overlays import MASKS, Drawn
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.recording import RECORDS
from sam3_hyperet.files import Manifest
from sam3_hyperet.modeling.dial import dial_of
from sam3_hyperet.modeling.fingerprint import model_facts
from sam3_hyperet.version import versions
from sam3_hyperet.wording import count_of

PREDICTED = f"{RECORDS}/predicted"
"""Folder of a prediction with the records of its images."""

Stamp = list[Any]
"""What the result of one image depends on alone: its file, by path, size and time, and its exemplars."""

_STAMP, _FOUND = "stamp", "found"  # arrays of a record: JSON, of which what was found may be long


@dataclass(frozen=True)
class ImageRecord:
    """An image that is done: its entry of predictions.json, its overlay, and the number of its masks."""

    entry: Entry
    drawn: Drawn | None
    masks: int


def deciding(config: DictConfig, inputs: Inputs, models: PromptedModels) -> dict[str, object]:
    """All that decides the results of every image.

    So not `prompts_at_once` and `threads`, which change no more than rounding: less memory may be what lets it go on.
    """
    predictor, (of_model,) = models.own, model_facts([models.own.model])
    tiles = () if models.tiling.is_whole else ("tiles", "tile_overlap")
    options = ("score_threshold", "mask_threshold", "overlays", "overlay_side", "masks", *tiles)
    return {
        "records": 1,  # raise it whenever a record of the same means something else
        "prompts": list(inputs.everywhere),
        "categories": dict(inputs.categories),
        **{name: config[name] for name in options},
        "max_dets": models.max_dets,
        "exif": "apply" if inputs.upright else "ignore",
        "overlays' headings": list(models.headings),
        "precision": predictor.precision,
        "resolution": predictor.resolution,
        "base weights": of_model["base"],
        "dial": dial_of(predictor.model) if of_model["adapter"] else None,
        "adapter": of_model["adapter"],
        "device": of_model["device"],
        **{f"version of {name}": version for name, version in versions().items()},
    }


class PredictionRecords:
    """The records of a prediction's images, in `records/predicted` of its folder.

    An image is known by the name of its overlay, so that others may come between while the command is not running.
    """

    def __init__(self, run_dir: Path, inputs: Inputs) -> None:
        self._run_dir, self._inputs, self._names = run_dir, inputs, inputs.overlays()
        self._store = RecordStore(run_dir / PREDICTED)

    def prepare(self, facts: Mapping[str, object], *, resume: bool, say: Callable[[str], None]) -> list[int]:
        """Make the folder ready; returns the images that are left to do.

        facts: all that decides the results of every image. resume: take over those that are done, which is said; else
        they are removed. Raises ConfigError where other facts decided them.
        """
        if resume and (why := self._store.other_facts(facts)):
            raise ConfigError(
                f"run_dir={self._run_dir}: {count_of(self._store.count(), 'image')} of an unfinished prediction there, "
                f"but {why}; expected the same command, which goes on from them, resume=never, which starts over, or "
                "another run_dir"
            )
        if line := self._store.prepare(facts, resume):
            say(line)
        lacks = [self._lacks(i) for i in range(len(self._inputs.paths))]
        left = [i for i, lacking in enumerate(lacks) if lacking is not None]
        again = Counter(filter(None, lacks))
        if len(left) < len(lacks) or again:
            reasons = "".join(f"; {number:,} done again for {lacking}" for lacking, number in again.items())
            taken = f"{len(lacks) - len(left):,} of {count_of(len(lacks), 'image')} taken over"
            say(f"{self._run_dir}: {taken}, goes on with {len(left):,}{reasons}")
        self._remove_masks(of_others_than=set(range(len(lacks))).difference(left))
        return left

    def stamp(self, i: int) -> Stamp:
        """The stamp of image i, to be taken before it is read. Raises DataError where its file is no longer there."""
        path, boxes = self._inputs.paths[i], self._inputs.boxes.get(i, ())
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        stated = [[one.prompt, [*one.box], one.positive] for one in boxes]
        return [str(path), status.st_size, status.st_mtime_ns, stated]

    def write(self, i: int, stamp: Stamp, entry: Entry, drawn: Drawn | None) -> None:
        """Keep image i, whose overlay and masks have been written."""
        masks = [one["mask"] for prompt in entry["prompts"] for one in prompt["detections"] if "mask" in one]
        names = [*masks, *([drawn.picture.file] if drawn else [])]
        sizes = {name: (self._run_dir / name).stat().st_size for name in names}
        contents = {_STAMP: [stamp, sizes], _FOUND: [entry, drawn and asdict(drawn), len(masks)]}
        texts = {name: json.dumps(content, allow_nan=False) for name, content in contents.items()}
        self._store.write(
            self._number(i), {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()}
        )

    def read(self, i: int) -> ImageRecord:
        """The record of image i. Raises DataError where it is not there, or damaged."""
        if (record := self._store.read(self._number(i))) is None:
            lacking = f"{self._store.folder}: the record of {self._inputs.paths[i]} is missing or damaged"
            raise DataError(f"{lacking}; expected that nothing else writes there")
        entry, drawn, masks = _content(record[_FOUND])
        return ImageRecord(entry, drawn and Drawn.of(drawn), masks)

    def remove(self) -> None:
        """Remove the records of a prediction that is finished, and nothing else."""
        self._store.remove()
        with contextlib.suppress(OSError):  # it holds something else
            self._store.folder.parent.rmdir()

    @contextmanager
    def kept(self, say: Callable[[str], None]) -> Iterator[None]:
        """Context of the work on images; where it ends early, a line says how to go on."""
        try:
            yield
        except BaseException:  # Ctrl-C as well
            if done := self._store.count():
                images = f"{done:,} of {count_of(len(self._inputs.paths), 'image')} done and kept"
                say(f"{images}: the same command with run_dir={self._run_dir} goes on from there")
            raise

    def _lacks(self, i: int) -> str | None:
        """What image i lacks to be taken over, "" for a record; None for nothing."""
        record, stamp = self._store.read(self._number(i)), self.stamp(i)
        if record is None:
            return "a damaged record" if self._store.has(self._number(i)) else ""
        before, sizes = _content(record[_STAMP])
        if before != stamp:
            return "changed exemplars" if before[:-1] == stamp[:-1] else "a changed image file"
        is_whole = all(_size(self._run_dir / name) == size for name, size in sizes.items())
        return None if is_whole else "a missing overlay or mask"

    def _number(self, i: int) -> int:
        """The number of a record: a digest of the overlay's name, which no other image has."""
        return int.from_bytes(hashlib.sha256(os.fsencode(self._names[i])).digest()[:7], "big")

    def _remove_masks(self, *, of_others_than: set[int]) -> None:
        """Remove the masks of all but these images, also those of an earlier prediction, and what a kill left."""
        folder, kept = self._run_dir / MASKS, {Path(self._names[i]).stem for i in of_others_than}
        if MASKS not in Manifest(self._run_dir).names or not folder.is_dir():
            return
        for path in list(folder.iterdir()):
            if path.is_dir() and path.name not in kept:
                shutil.rmtree(path)
        with contextlib.suppress(OSError):  # some are kept
            folder.rmdir()


def _content(array: np.ndarray) -> Any:
    return json.loads(array.tobytes())


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None
