"""Every split of the data: opened as a run opens it, a sample of its files read, its prompts counted in tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sam3_hyperet.arrays.positions import spread
from sam3_hyperet.data.annotations import AnnotatedImages, some
from sam3_hyperet.data.disjoint import shared_pictures
from sam3_hyperet.data.options import SPLITS, DataOptions, KeptOptions, RehearsalOptions
from sam3_hyperet.data.prompts import PromptSampler
from sam3_hyperet.doctor.findings import Finding, failed, ok, warning
from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.layouts.table import explicit
from sam3_hyperet.wording import count_of

if TYPE_CHECKING:
    from sam3_hyperet.data.sources import Split

_READ = 64  # images of a split, evenly spread
_SCENES = 4  # drawn for the check instead of all
_WARNING = "warning: "


def small(data: DataOptions, folder: Path) -> DataOptions:
    """The same data; of scenes, which are drawn when first used, a few in another folder."""
    if data.format != "scenes":
        return data
    few = {split: min(n, _SCENES) if type(n) is int else n for split, n in data.splits.items()}
    return replace(data, root=str(folder), splits=few)


class Splits:
    """The splits of a data set, each opened by its own check, whose names begin with the set's key."""

    def __init__(self, data: DataOptions, *, tune: bool, key: str = "data") -> None:
        self.key = key
        self.data = data if tune else replace(data, tune_images=0)
        self.opened: dict[str, AnnotatedImages] = {}
        self._train: Split | None = None

    def layout_rows(self) -> Iterator[Finding]:
        """Recognise the layout of a folder (`data=auto`), which the other checks then read."""
        self.data, lines = explicit(self.data)
        yield ok("layout" if self.key == "data" else f"{self.key}: layout", "; ".join(lines))

    def rows(self, split: str) -> Iterator[Finding]:
        """What a split has, with the notes that training and evaluating print."""
        from sam3_hyperet.data.loading import ConceptPrompts
        from sam3_hyperet.data.notes import data_notes, prompt_notes
        from sam3_hyperet.data.sources import augmentation, open_split, prompt_sampler, training_split

        check, train = f"{self.key}: {split}", self._train_of(split)
        opened = open_split(self.data, split, train) if split == "val" else training_split(self.data, split, train)
        images = opened.images
        notes = data_notes(images)
        if split != "val":
            sampler = prompt_sampler(self.data, images)
            # raises where no image can be prompted, and for views that cannot be
            ConceptPrompts(images, 1, sampler, augmentation(self.data, images))
            notes += prompt_notes(images, sampler) if split == "train" else []
        looked_at = spread(len(images), _READ)
        empty = sum(1 for i in looked_at if not images.instances(i))
        if empty == len(looked_at) and not any(images.instances(i) for i in range(len(images))):
            yield failed(check, f"none of {len(images)} images has an annotation", "annotations")
            return
        self.opened[split] = images
        if self.data.format == "scenes":
            notes.insert(0, "a few scenes drawn for this check; the run draws its own when first used")
        told = [line.removeprefix(f"{images.name}: ") for line in notes]
        yield ok(check, "; ".join(line for line in told if not line.startswith(_WARNING)))
        for line in told:
            if line.startswith(_WARNING):
                yield warning(check, line.removeprefix(_WARNING))

    def _train_of(self, split: str) -> Split | None:
        """The whole of "train", read once, if a split is of it; None if it is one of its own."""
        from sam3_hyperet.data.sources import read_split

        if "train" not in self.data.splits or (split != "train" and split in self.data.splits):
            return None
        self._train = self._train or read_split(self.data, "train")
        return self._train

    @property
    def prompted(self) -> tuple[AnnotatedImages, PromptSampler]:
        """The training images, and what draws their prompts."""
        from sam3_hyperet.data.sources import prompt_sampler

        return self.opened["train"], prompt_sampler(self.data, self.opened["train"])

    @property
    def views(self) -> int:
        """Different views that training shows of an image; 0 for ever new ones."""
        from sam3_hyperet.data.sources import augmentation

        random = augmentation(self.data, self.opened["train"])
        return random.views if random.is_random else 1

    def file_rows(self) -> Iterator[Finding]:
        """Whether a sample of the images and label maps can be read."""
        faults, read = [], 0
        for images in self.opened.values():
            for i in spread(len(images), _READ):
                read += 1
                try:
                    images.load_image(i)
                    images.label_map(i)
                except DataError as error:
                    faults.append(str(error))
        if faults:
            remedy = "`sam3-hyperet prepare` opens every file and names all that cannot be used"
            yield failed(f"{self.key}: files", f"{len(faults)} of {read} that were opened: {some(faults)}", "0", remedy)
        else:
            yield ok(f"{self.key}: files", f"{count_of(read, 'image')} opened")

    def overlap_rows(self) -> Iterator[Finding]:
        """Whether what is evaluated, or chosen by, is trained on as well, or has categories that training lacks."""
        training, others = self.opened["train"], sorted(self.opened.keys() - {"train"})
        names = {category.name for category in training.categories if category.id not in training.unannotated}
        is_clean = True
        for split in others:
            other = self.opened[split]
            for earlier in SPLITS[: SPLITS.index(split)]:
                if earlier in self.opened and (same := shared_pictures(self.opened[earlier], other, contents=True)):
                    found = f"{len(same)} images of {split} are in {earlier} as well: {some(same)}"
                    remedy = "take them out of one of the splits: a score on them says nothing"
                    yield warning("data: overlap", found, "different images", remedy)
                    is_clean = False
            shown = [c.name for c in other.categories if c.id not in other.unannotated and c.name not in names]
            if shown and self.data.format != "scenes":  # of which only a few are looked at
                found = f"{len(shown)} categories of {split} have no annotation in train: {some(shown)}"
                yield warning("data: overlap", found, "every category in train")
        if is_clean:
            yield ok("data: overlap", f"no image in two of {', '.join(['train', *others])}" if others else "one split")

    def rehearsal_rows(self, options: RehearsalOptions, model: object) -> Iterator[Finding]:
        """What the base will be asked for, and whether SAM 3 reads the whole of each name."""
        from sam3_hyperet.data.rehearsal import open_rehearsal

        images, _ = open_rehearsal(options, self.data, self.opened["train"])
        told = "".join(f"; {remark}" for remark in images.remarks)
        counts = (
            f"{count_of(len(images.categories), 'name')}, of which the base labels {count_of(len(images), 'image')}"
        )
        yield ok("rehearsal", f"{counts}{told}")
        self.opened["rehearsal"] = images
        yield from (one for one in self.prompt_rows(model, "rehearsal") if one.status != "ok")

    def kept_rows(self, split: str, options: KeptOptions, protocol: Protocol, model: object) -> Iterator[Finding]:
        """What the base will be asked on a split's images, to measure what is kept of its answers."""
        from sam3_hyperet.data.sources import open_split
        from sam3_hyperet.evaluation.kept import open_kept

        told: list[str] = []
        images = open_kept(options, open_split(self.data, split), protocol, say=told.append)
        assert images is not None
        asked = min(len(images), options.images or len(images))
        found = [f"{count_of(len(images.categories), 'name')} on {count_of(asked, f'{split} image')}"]
        yield ok("kept", "; ".join(found + [line.removeprefix("kept: ") for line in told]))
        names = [category.name for category in images.categories]
        yield from (one for one in _token_rows("kept", names, "kept.names", model) if one.status != "ok")

    def prompt_rows(self, model: object, check: str = "") -> Iterator[Finding]:
        """Whether SAM 3 reads the whole of each category's name, of drawn synonyms and of absent concepts."""
        from sam3_hyperet.data.sources import prompt_sampler

        check = check or ("prompts" if self.key == "data" else f"{self.key}: prompts")
        names = [category.name for images in self.opened.values() for category in images.categories]
        if check != "rehearsal":
            names += prompt_sampler(self.data, self.opened["train"]).texts
        place = "rehearsal.names" if check == "rehearsal" else "the annotations or data.absent_concepts"
        yield from _token_rows(check, names, place, model)


def _token_rows(check: str, names: Iterable[str], place: str, model: object) -> Iterator[Finding]:
    from sam3_hyperet.inference.predictor import count_tokens
    from sam3_hyperet.sam3_host import CONTEXT_LENGTH

    most = CONTEXT_LENGTH - 2  # the start and the end take one each
    counts = {name: count_tokens(model, name) for name in dict.fromkeys(names)}
    if long := [f"{name[:60]!r} has {count} tokens" for name, count in counts.items() if count > most]:
        expected = f"at most {most}, which SAM 3 reads of a prompt; it drops the rest"
        yield failed(check, some(long), expected, f"a shorter name in {place}")
    else:
        yield ok(check, f"{len(counts)} category names of at most {max(counts.values())} tokens; {most} are read")
