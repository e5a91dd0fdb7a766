"""Options of a first run, from what the data set has and from what was measured (docs/benchmarks.md)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from sam3_hyperet.data.options import FLIP, DataOptions
from sam3_hyperet.options import meanings
from sam3_hyperet.wording import count_of

_SEEN = 4480  # images that the demo's 560 steps show
_MOST_SEEN = 20_000
_MOST_EPOCHS = 50
_IMAGES_A_STEP = 8  # the demo's
_TUNINGS = 5  # the demo's measurements of the loss on the tuning images
_STEP_SECONDS = 0.29  # of an image in a training step of the official architecture on one H200, bf16-mixed, 4 prompts
_TWENTY_PROMPTS_SECONDS = 0.32  # of an image's evaluation there with 20 prompts and their masks, in bf16
_FEW = 10  # annotations of a category
OWN_DATA, FEW_SHOT = "own_data", "few_shot"
_SHOWN: tuple[str, ...]
_SHOWN = ("name", "format", "root", "splits", "validation_fraction", "tune_images", "num_positives", "num_negatives")
_SHOWN += ("hard_negative_ratio", "flip", "zoom")
"""Options of a data set that are written in any case, with a reason."""


@dataclass(frozen=True)
class Choice:
    """An option's key below its section, its value, and why."""

    key: str
    value: object
    reason: str


@dataclass(frozen=True)
class Content:
    """What the splits of a data set have.

    images: how many of each split that a run opens ("train", "tune", "val"), after what is held out.
    annotations: of each category by name, in the files of each split; empty where not counted.
    """

    images: Mapping[str, int]
    annotations: Mapping[str, Mapping[str, int]]

    @property
    def categories(self) -> int:
        """How many categories there are."""
        return len(self.annotations)


def data_choices(data: DataOptions, content: Content, recognised: str) -> list[Choice]:
    """Every option that describes the data set, or differs from its default."""
    shown, explained = content.images, meanings(DataOptions)
    named = {
        "name": "what its metrics begin with",
        "format": recognised,
        "root": "its folder; the paths below are relative to it",
        "splits": ", ".join(f"{split}: {count_of(count, 'image')}" for split, count in shown.items()),
    }
    changed = [field.name for field in fields(data) if field.name not in _SHOWN and _is_changed(data, field.name)]
    named |= {name: f"recognised, or given: {explained[name].rstrip('.')}" for name in changed}
    if "val" not in data.splits:
        named["validation_fraction"] = f"no validation split: {shown['val']:,} training images are held out by seed"
    if "tune" not in data.splits:
        named["tune_images"] = "training images held out for choosing the best step: a fifth, at most the default of 32"
        if not data.tune_images:
            named["tune_images"] = "of so few training images none is held out for choosing the best step"
    named |= {
        "num_positives": "at most so many categories that an image shows are prompted at a step; not measured",
        "num_negatives": "and so many that it does not show: the model must learn to find nothing, too; not measured",
        "hard_negative_ratio": "fraction of these that are siblings (same supercategory) of what is shown; the default",
        "flip": "probability of mirroring an image",
        "zoom": "largest factor of a random crop, for objects of more sizes; not measured",
    }
    if data.flip is None:
        named["flip"] = f"{named['flip']}; null, the default: {FLIP}, and 0 where a name tells left from right"
    if content.categories == 1:
        remedy = "with one category that needs data.absent_concepts=[…]: names of what no image shows"
        named["num_negatives"] = f"{named['num_negatives']}; {remedy}"
    return [Choice(name, getattr(data, name), reason) for name, reason in named.items()]


def held_out(training: int) -> int:
    """How many of so many training images are held out for choosing the best step: a fifth, not more than usual."""
    return min(DataOptions.tune_images, math.ceil(training / 5)) if training > 1 else 0


def recipe_of(data: DataOptions, annotations: Mapping[str, int]) -> str:
    """The recipe that suits a data set, `experiment=…`, by the annotations of each category for training."""
    is_few = bool(data.shots) or 0 < max(annotations.values(), default=0) <= _FEW
    return FEW_SHOT if is_few else OWN_DATA


def run_choices(name: str, model: str, content: Content, recipe: str = OWN_DATA) -> list[Choice]:
    """The options of the run by their path. What they rest on was not measured on official weights."""
    training, is_large = content.images["train"], model == "large"
    seen = min(max(_SEEN, min(training, _MOST_SEEN)), _MOST_EPOCHS * training)
    steps = max(1, round(seen / _IMAGES_A_STEP))
    validate_every = -(-steps // _TUNINGS) if content.images.get("tune") else 0
    epochs = f"{steps * _IMAGES_A_STEP / training:.1f} epochs of {count_of(training, 'image')}, {_IMAGES_A_STEP} a step"
    rule = f"as many images as in the demo ({_SEEN:,}), an epoch at least (to {_MOST_SEEN:,}), {_MOST_EPOCHS} at most"
    tunes = f"{_TUNINGS} times, as in the demo; the best step is kept" if validate_every else "no image for it"
    if recipe == FEW_SHOT and not validate_every:
        tunes = "with so few images none is spared for the choice of the step: the last one is kept"
    time = _minutes(is_large, steps * _IMAGES_A_STEP * _STEP_SECONDS)
    choices = [
        Choice("name", name, "of the run's folder, where run_dir is not given: runs/<name>-<date>"),
        Choice(
            "scheme",
            "B+prompt",
            "the default; with a gate .11 AP gained on new levels of drawn scenes (docs/evidence.md), scheme=A .01; it "
            "does not merge into the base, as scheme=P does",
        ),
        Choice(
            "hyperet.gate",
            "auto",
            "the default: of each prompt, where the sites see it; without it .01 AP gained on these scenes",
        ),
        Choice("hyperet.structure", "dense", "that of the table in docs/benchmarks.md"),
        Choice("hyperet.geometry", "lorentz", "that of the table; euclidean did as well there"),
        Choice(
            "rehearsal.names",
            [],
            "none; with [person,car] training goes on asking for these, by the base's own answers on your images, so "
            "that they are not forgotten (docs/forgetting.md)",
        ),
        Choice("train.max_steps", steps, f"{epochs}. Rule: {rule}{time}"),
    ]
    if is_large:
        memory = "of a pass: 7.7 GiB with 4 prompts in bf16-mixed; train.prompts_at_once=1 takes less, and longer"
        choices += [
            Choice("train.batch_size", 1, memory),
            Choice("train.accumulate", _IMAGES_A_STEP, "passes of a step, which sees as many images as in the demo"),
            Choice("train.precision", "auto", "bf16-mixed on a GPU that has it: half of fp32's time (scheme A, H200)"),
            Choice("train.workers", None, "loader processes by the cores and the memory of the machine"),
        ]
    else:
        choices.append(Choice("train.batch_size", _IMAGES_A_STEP, "that of the demo"))
    scored = content.images.get("val", 0) * math.ceil(content.categories / 20) * _TWENTY_PROMPTS_SECONDS
    images = count_of(content.images.get("val", 0), "validation image")
    limit = f"0: all {images}, for the base and for the adapted model"
    return [
        *choices,
        Choice("train.validate_every", validate_every, tunes),
        Choice("train.save_every", -(-steps // _TUNINGS), "from here a run that was killed goes on"),
        Choice("optim.lr", 4e-3, "that of the demo"),
        Choice("optim.warmup", 0.05, "fraction of the run over which the rate rises; the default"),
        Choice("protocol.limit", 0, f"{limit}{_minutes(is_large, 2 * scored)}"),
        Choice("seed", 0, "of the first weights, and of the order, the views and the prompts of images"),
    ]


def _minutes(is_large: bool, seconds: float) -> str:
    """The time on the card that was measured; nothing for the tiny model."""
    return f"; about {max(1, round(seconds / 60)):,} min on an H200" if is_large else ""


def _is_changed(data: DataOptions, name: str) -> bool:
    return bool(getattr(data, name) != next(f.default for f in fields(data) if f.name == name))
