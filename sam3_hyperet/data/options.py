"""Options of a data set, without torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, ClassVar

from sam3_hyperet.choices import KEPT
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.options import NonNegativeInt, PositiveFloat, Probability, check_fields, one_of

FORMATS = ("scenes", "coco", "ade20k", "label_maps", "yolo", "auto")
SPLITS = ("train", "tune", "val")
CROWDS = ("ignore", "instances")
BOXES = ("drop", "instances")
EXIF = ("auto", "ignore", "apply")
FLIP = 0.5  # the probability of mirroring where nothing tells left from right
RESERVED_NAMES = frozenset(
    ("base", "difference", "dial", "params", "radius", "normalized_radius", "speed", "train", "forgetting")
)
"""Metrics of other things begin with these names, so no data set and no model has one."""


@dataclass(frozen=True)
class DataOptions:
    """Options of a data set.

    Attributes:
        name: what its metrics begin with; of format "auto", the folder's name where it is empty.
        format: "scenes" (drawn when first used), "coco", "ade20k", "label_maps" or "yolo"; "auto" recognises the layout
            of its folder, which then sets format, splits and what else follows from the files.
        root: its folder.
        splits: split -> what the format calls it: the `train2017` of COCO (for annotations/instances_train2017.json and
            train2017/) or [folder of images, file.json]; the `training` of ADE20K; [images, labels] or [images, labels,
            list of the images to take] of a label-map set; folders or lists of images of "yolo"; the number of images
            of scenes.
        validation_fraction: of the training images, held out by seed and by name where there is no val split.
        shots: train on so many images of each category, chosen by seed and by name; 0 for all.
        train_images: train on so many images, chosen by chance and by name; fewer are among more. 0 for all.
        subset_seed: of what `shots` and `train_images` choose; None for `seed`.
        tune_images: images held out of training for choosing the best step, where there is no tune split.
        limit: at most this many training and as many tuning images, evenly spread; 0 for all. What is evaluated is
            limited by `protocol.limit` alone.
        seed: of the drawn scenes, and of what is held out.
        size: side of a drawn scene in pixels.
        names: a label-map or "yolo" set's class names, or their file, below root.
        colors: of coloured label maps, [red, green, blue] or a grey value by class name, or the file that lists them,
            below root; in place of `names`, `ignore` and `offset`.
        objects: of label maps, the folder below root of maps that tell the objects of a class apart, as VOC's
            SegmentationObject; AP is then scored as well.
        ignore: label, or labels, of unlabelled pixels, which are not scored; training takes them for none of the
            classes.
        offset: label of the first class. Where none is given, 1 if `ignore` is 0 and the first name is a class, else 0;
            labels that fit both are refused.
        void_classes: read classes of label maps that are called "void", "unlabelled" and the like as classes; by
            default no prompt asks for them, and their pixels are ignored.
        image_ending: what an image's file name ends in after the part that it shares with its label map's; any
            image's suffix if empty.
        label_ending: the same for label maps.
        parts: how a category's name holds an object and its part, such as "{object}:{part}": what fits is a part of
            that object in the concept tree, and is asked for as "wheel of a car". Empty for no parts.
        renamed: by category, object or part as the files call it, what to call it instead.
        wholes: masks of the objects that `parts` names, where the files have none: "parts" for the union of an object's
            parts in an image; or by split, a folder of label maps or a COCO file below root.
        whole_names: the classes of such label maps, from the label 0.
        unseen: objects of which training must see nothing, neither them nor their parts: these are never prompted
            there. Groups `seen` and `unseen` are scored, and of label maps their harmonic mean.
        vocabulary: category names that are known at all, or the name of a list of them (`open_vocabulary`): other
            annotations are left out. Empty for all.
        supercategories: concepts above categories, which are categories more, of granularity "group": by name, the
            categories that are kinds of each. Label maps are scored by supercategory as well.
        prompts: the same for training alone, tuning images included: of other categories nothing is asked, present or
            absent.
        groups: category names, or the name of a list of them, by the name under which they are scored together.
        groups_note: what the groups are, for the readers of a report.
        prompt_weights: weights of granularities, or of `groups`, among the training prompts; None for all alike.
        negative_prompt_weights: those among absent prompts, also of `absent_concepts`; None for `prompt_weights`.
        annotated: granularities whose training annotations are used; concepts of the others stay in the vocabulary and
            count as absent. Empty for all.
        crowds: "ignore" leaves crowds (`iscrowd: 1`) out of training and ignores detections on them; "instances" reads
            each as one instance, as brush tools mean it.
        boxes: "drop" leaves out annotations that have a box and no mask; "instances" learns and scores the box of each.
        max_megapixels: largest image that is opened.
        exif: "ignore" shows images as they are stored, on which most annotations are drawn; "apply" turns them by
            their EXIF orientation; "auto" turns those of format "yolo", as Ultralytics does, and no others.
        absent_concepts: names, or the name of a list of them, of which none is to be seen in any training image: more
            concepts to ask for as absent.
        num_positives: at most this many present concepts per image and step.
        num_negatives: absent ones.
        hard_negative_ratio: share of the absent ones drawn from the siblings of present ones.
        synonyms: probability of a synonym in place of a name.
        exemplars: probability that a prompt of training that is present is given the box of one of its instances.
        exemplars_alone: of these, the share that is given the box without the name.
        flip: probability of mirroring a training image; None for 0 where a category's name tells left from right, as
            "left hand" does, else for .5.
        zoom: largest factor of a random crop.
        given: of format "auto", options that keep their value whatever is recognised: all that the command line or a
            file names. Those that differ from their defaults do so anyway.
        weight: in a run with `more_data` or `rehearsal`, how often an image is of this set, relative to the others.
        views: different random views of a training image, taken in turn; 0 for new ones every epoch.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {
        "mix": "prompt_weights",
        "negative_mix": "negative_prompt_weights",
        "granularity_weights": "prompt_weights",
        "negative_granularity_weights": "negative_prompt_weights",
        "positives": "num_positives",
        "negatives": "num_negatives",
        "hard": "hard_negative_ratio",
    }

    name: str
    format: Annotated[str, FORMATS]
    root: str
    splits: Mapping[str, object]
    validation_fraction: Probability = 0.2
    shots: NonNegativeInt = 0
    train_images: NonNegativeInt = 0
    subset_seed: NonNegativeInt | None = None
    tune_images: NonNegativeInt = 32
    limit: NonNegativeInt = 0
    seed: NonNegativeInt = 0
    size: int = 128
    names: str | tuple[str, ...] = ""
    colors: str | Mapping[str, tuple[int, ...] | int] | None = None
    objects: str = ""
    ignore: int | tuple[int, ...] = 255
    offset: int | None = None
    void_classes: bool = False
    image_ending: str = ""
    label_ending: str = ""
    parts: str = ""
    renamed: Mapping[str, str] | None = None
    wholes: str | Mapping[str, str] = ""
    whole_names: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    vocabulary: str | tuple[str, ...] = ()
    supercategories: Mapping[str, str | tuple[str, ...]] | None = None
    prompts: str | tuple[str, ...] = ()
    groups: Mapping[str, str | tuple[str, ...]] | None = None
    groups_note: str = ""
    prompt_weights: Mapping[str, float] | None = None
    negative_prompt_weights: Mapping[str, float] | None = None
    annotated: tuple[str, ...] = ()
    crowds: Annotated[str, CROWDS] = "ignore"
    boxes: Annotated[str, BOXES] = "drop"
    max_megapixels: PositiveFloat = 178.0
    exif: Annotated[str, EXIF] = "auto"
    absent_concepts: str | tuple[str, ...] = ()
    num_positives: int = 2
    num_negatives: int = 1
    hard_negative_ratio: Probability = 0.5
    synonyms: float = 0.0
    exemplars: Probability = 0.0
    exemplars_alone: Probability = 0.5
    flip: Probability | None = None
    zoom: float = 1.0
    views: NonNegativeInt = 0
    given: tuple[str, ...] = ()
    weight: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "data")
        is_named_later = self.format == "auto" and not self.name
        if self.name in RESERVED_NAMES or "/" in self.name or not (self.name.strip() or is_named_later):
            raise ConfigError(
                f"data.name={self.name!r}; expected a name without / that no other metrics begin with: not "
                f"{', '.join(sorted(RESERVED_NAMES))}"
            )
        if KEPT in (self.groups or {}):
            found = (
                f"data.groups.{KEPT}: metrics of this name have the base's own answers as their truth ({KEPT}.names)"
            )
            raise ConfigError(f"{found}; expected another name")
        if not isinstance(self.splits, Mapping):
            raise ConfigError(f"data.splits={self.splits!r}; expected {', '.join(SPLITS)} by name")
        for split in self.splits:
            one_of("data.splits", split, SPLITS)
        if not self.exemplars and self.exemplars_alone != DataOptions.exemplars_alone:
            found = f"data.exemplars_alone={self.exemplars_alone}"
            raise ConfigError(f"{found} is of prompts with a box; expected data.exemplars above 0")
        if self.shots and self.train_images:
            raise ConfigError(
                f"data.shots={self.shots} and data.train_images={self.train_images}; expected one of them, images of "
                "each category or images in all"
            )


@dataclass(frozen=True)
class KeptOptions:
    """Options of what is measured without labels: how much of the base's own answers to names a model keeps.

    Attributes:
        names: what to ask for, noun phrases or the name of a list of them (`data.absent_concepts`); None for those that
            training rehearses, or those of the run that is evaluated; empty for none. Names that have labels in the
            data set are left out.
        images: the base is asked about at most so many of the scored images, evenly spread; 0 for all.
        score_threshold: detections of the base that score as much are the truth.
        unclear_threshold: those that score less and as much as this are not, but leave open whether there is more: a
            name that has no others does not count on the image. Where all score less than this, it is absent.
    """

    names: str | tuple[str, ...] | None = None
    images: NonNegativeInt = 200
    score_threshold: Probability = 0.5
    unclear_threshold: Probability = 0.1

    SECTION: ClassVar[str] = KEPT

    def __post_init__(self) -> None:
        section, values = self.SECTION, {field.name: field.default for field in fields(self)}
        check_fields(self, section)
        if self.names == () and (
            given := [name for name in values if name != "names" and getattr(self, name) != values[name]]
        ):
            found = f"{section}.{given[0]}={getattr(self, given[0])} decides nothing"
            raise ConfigError(f"{found}; expected {section}.names with it")
        if self.unclear_threshold > self.score_threshold:
            found = f"{section}.unclear_threshold={self.unclear_threshold:g}"
            raise ConfigError(
                f"{found}; expected {self.score_threshold:g}, which is {section}.score_threshold, or less"
            )

    def by_key(self) -> dict[str, object]:
        """The options by their keys on the command line, `kept.names`."""
        return {f"{self.SECTION}.{name}": value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class RehearsalOptions(KeptOptions):
    """Options of rehearsal: names that training goes on asking for, with the base's own answers as labels.

    What the base knows is then not forgotten for want of labels; what it gets wrong is rehearsed as it is. Images that
    it is asked about are training images of `data`, evenly spread.

    Attributes:
        names: what to ask for, noun phrases or the name of a list of them (`data.absent_concepts`); empty for no
            rehearsal. Names that the prompts of `data` ask for are left out.
        images: the base is asked about at most so many training images; 0 for all.
        score_threshold: detections of the base that score as much are labels.
        unclear_threshold: those that score less and as much as this are none, but leave open whether there is more: a
            name that has no others is not asked for on the image. Where all score less than this, it is absent.
        weight: how often an image is one to rehearse with, relative to `data.weight`.
    """

    names: str | tuple[str, ...] = ()
    images: NonNegativeInt = 500
    weight: PositiveFloat = 1.0

    SECTION: ClassVar[str] = "rehearsal"
