"""What a run trains on: its data sets, opened before its model is built, and what a person should read of them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sam3_hyperet.cli.run_options import RunOptions
from sam3_hyperet.cli.sections import MORE_DATA
from sam3_hyperet.data.annotations import AnnotatedImages, some
from sam3_hyperet.data.disjoint import shared_pictures, shared_remarks
from sam3_hyperet.data.loading import ConceptPrompts
from sam3_hyperet.data.mixture import Mixture, quotas, share
from sam3_hyperet.data.notes import data_notes, flip_notes, prompt_notes
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.rehearsal import RehearsedImages, open_rehearsal
from sam3_hyperet.data.sources import RunSplits, augmentation, open_run, prompt_sampler
from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.task import EvalTask, check_tiles
from sam3_hyperet.training.loaders import MaskLoad, mask_load
from sam3_hyperet.training.options import TrainOptions
from sam3_hyperet.wording import count_of

Say = Callable[[str], None]
_SHORT = 1000  # images of all validations, which take minutes at most


@dataclass(frozen=True)
class TrainingData:
    """The splits of `data`, the training images of each set of `more_data`, by name, and those to rehearse with.

    options: of all of them, in this order.
    """

    splits: RunSplits
    more: Mapping[str, AnnotatedImages]
    rehearsed: RehearsedImages | None
    options: tuple[DataOptions, ...]

    @property
    def labelled(self) -> list[AnnotatedImages]:
        """The training images of each set, those of `data` first."""
        return [self.splits.training, *self.more.values()]

    @property
    def sets(self) -> list[AnnotatedImages]:
        """All that is trained on."""
        return [*self.labelled, *([self.rehearsed] if self.rehearsed else [])]

    @property
    def quotas(self) -> tuple[int, ...]:
        """How many images of each set are in a row, relative to the sum."""
        return quotas([one.weight for one in self.options])

    @property
    def images_an_epoch(self) -> float:
        """Images of a run in which each training image of `data` is seen once."""
        return len(self.splits.training) / share(self.quotas)[0]

    def share_lines(self, seen: int) -> Iterator[str]:
        """How much of each set a run of so many images sees, if there are several."""
        shares = share(self.quotas)
        names = ["data", *(f"{MORE_DATA}.{name}" for name in self.more), "rehearsal"][: len(self.sets)]
        for name, images, part in zip(names, self.sets, shares, strict=True) if len(self.sets) > 1 else ():
            times = f"{part * seen / len(images):.2g} times each"
            what = "to rehearse with" if images is self.rehearsed else f"of {images.name}"
            yield f"{name}: {part:.1%} of all images are {what}; its {len(images):,} are seen {times}"


def open_data(options: RunOptions, *, tune: bool) -> TrainingData:
    """Open all that the run will read. Raises ConfigError or DataError as `open_run` and `open_rehearsal`."""
    splits = open_run(options.data, tune=tune, evaluate=options.evaluate)
    more = {name: open_run(one, tune=False, evaluate=False).training for name, one in options.more_data.items()}
    for images in more.values():
        if splits.evaluation:
            images.remarks += shared_remarks({"train": images, "data's val": splits.evaluation.images})
    for split in filter(None, (splits.evaluation, splits.tuning)):
        check_tiles(split, options.protocol)
    rehearsed, rehearsal, of_sets = None, options.rehearsal, [options.data, *options.more_data.values()]
    if rehearsal.names:
        rehearsed, of_rehearsal = open_rehearsal(rehearsal, options.data, splits.training)
        of_sets.append(of_rehearsal)
    return TrainingData(splits, more, rehearsed, tuple(of_sets))


@contextmanager
def with_remedy() -> Iterator[None]:
    """Add what to do about an image that cannot be read to the error that names it."""
    try:
        yield
    except DataError as error:
        remedy = "`sam3-hyperet prepare` opens every file and names all that are broken"
        raise DataError(f"{error}; {remedy}") from error


def calibration_remark(data: TrainingData, calibrating: AnnotatedImages) -> str:
    """A warning of pictures that are trained on and calibrate a cascade, "" if there are none."""
    trained = [name for images in data.labelled for name in shared_pictures(images, calibrating)]
    if not trained:
        return ""
    count = count_of(len(trained), "picture")
    found = f"warning: protocol=cascade is calibrated on {count} of training: {some(trained)}"
    remedy = "expected train.validate_every from 1, which holds them out, or a tune split (data.splits.tune)"
    return f"{found}; scored images may keep less than protocol.recall; {remedy}"


def concept_prompts(
    data: TrainingData, options: RunOptions, side: int, say: Say
) -> tuple[ConceptPrompts | Mixture, ConceptPrompts | None]:
    """What a run trains on, and what it measures its loss on, if it does."""
    parts, said = [], set[str]()
    for one, images in zip(data.options, data.sets, strict=True):
        has_labels = images is not data.rehearsed  # whose labels are still to come
        remarks = [f"{images.name}: {remark}" for remark in images.remarks]
        notes = data_notes(images) if has_labels else remarks
        said.update(notes if images is data.splits.training else ())
        asked = prompt_notes(images, prompt_sampler(one, images)) if has_labels else []
        for line in (*notes, *asked, *flip_notes(images, one.flip)):
            say(line)
        if images.boxed:
            say(f"{images.name}: of boxes without a mask, no mask is learnt, nor the semantic map of their prompts")
        if one.exemplars:
            alone = f"{one.exemplars_alone:.0%} of these without the name"
            say(f"{images.name}: {one.exemplars:.0%} of the present prompts are given a box, {alone}")
        parts.append(_prompts_of(images, one, side, options.seed))
        for reason, count in parts[-1].dropped.items():
            say(f"{images.name}: not trained on: {count} × {reason}")
    training = Mixture(parts, data.quotas) if len(parts) > 1 else parts[0]
    if data.splits.tuning is None:
        return training, None
    held_out = data.splits.tuning.images
    for line in data_notes(held_out):
        if line not in said:
            say(f"tuning images: {line}")
    return training, ConceptPrompts(held_out, side, prompt_sampler(options.data, held_out), None, options.seed)


def all_prompts(
    training: ConceptPrompts | Mixture, tuning: ConceptPrompts | None, tasks: Iterable[EvalTask | None]
) -> list[str]:
    """All that a run will ask for: what may be drawn in training and for its validation loss, and what is scored."""
    samplers = [part.sampler for part in (*_parts(training), *([tuning] if tuning else []))]
    drawn = [text for sampler in samplers if sampler for text in sampler.texts]
    return list(dict.fromkeys([*drawn, *(text for task in tasks if task for text in task.vocabulary)]))


def validation_remark(train: TrainOptions, tuning: int) -> str:
    """A warning of validations that go through more images than training does, "" if they do not, or are short."""
    trained = train.images_a_step * (train.max_steps or 0)
    validations = 1 + math.ceil((train.max_steps or 0) / train.validate_every) if train.validate_every else 0
    if tuning * validations <= max(trained, _SHORT):
        return ""
    found = f"{count_of(validations, 'validation')} of {count_of(tuning, 'tuning image')}"
    passed = f"go through {tuning * validations:,} images, training through {trained:,}"
    remedy = "a larger train.validate_every or fewer tuning images (data.tune_images or the tune split) take less time"
    return f"warning: {found} {passed}; {remedy}"


def with_answers(training: Mixture, data: TrainingData, options: RunOptions, side: int) -> Mixture:
    """The same once the images to rehearse with are annotated: without those on which no answer is clear."""
    assert data.rehearsed is not None
    rehearsed = _prompts_of(data.rehearsed, data.options[-1], side, options.seed)
    return Mixture([*training.parts[:-1], rehearsed], training.quotas)


def _prompts_of(images: AnnotatedImages, options: DataOptions, side: int, seed: int) -> ConceptPrompts:
    sampler, boxes = prompt_sampler(options, images), (options.exemplars, options.exemplars_alone)
    return ConceptPrompts(images, side, sampler, augmentation(options, images), seed, *boxes)


def load_of(training: ConceptPrompts | Mixture) -> MaskLoad:
    """The masks of an image that loader processes pass on."""
    return mask_load((part.images, part.sampler) for part in _parts(training) if part.sampler)


def views(training: ConceptPrompts | Mixture, tuning: ConceptPrompts | None) -> int:
    """How many different views of images the trunk will see; 0 for ever new ones."""
    seen = 0
    for part in _parts(training):
        of_each = part.augment.views if part.augment is not None and part.augment.is_random else 1
        if not of_each:
            return 0
        seen += len(part) * of_each
    return seen + (len(tuning) if tuning else 0)


def _parts(training: ConceptPrompts | Mixture) -> Sequence[ConceptPrompts]:
    return training.parts if isinstance(training, Mixture) else (training,)
