"""A data set by its options: which files make its training, tuning and validation pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sam3_hyperet.data.ade20k import read_ade20k
from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.data.concepts import PromptSampler
from sam3_hyperet.data.label_maps import read_label_maps
from sam3_hyperet.data.records import AnnotatedImages, ImageRecord, Instance
from sam3_hyperet.data.scenes import write_scenes
from sam3_hyperet.data.transforms import Augmentation
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.options import one_of

FORMATS = ("scenes", "coco", "ade20k", "label_maps")
SPLITS = ("train", "tune", "val")


@dataclass(frozen=True)
class DataOptions:
    """Options of a data set.

    Attributes:
        name: what its metrics begin with.
        format: "scenes" (drawn when first used), "coco", "ade20k" or "label_maps".
        root: its folder.
        splits: split -> what the format calls it: the `train2017` of COCO, the `training` of ADE20K, [pictures, labels]
            of a label-map set, the number of pictures of scenes.
        tune_images: pictures held out of training for choosing the best step, where there is no tune split.
        limit: at most this many pictures of a split, evenly spread over it; 0 for all.
        seed: of the drawn scenes, and of what is held out.
        size: side of a drawn scene in pixels.
        names: file of a label-map set's class names, below root.
        ignore: label of unlabelled pixels.
        offset: label of the first class.
        mix: weight of each granularity among the training prompts; None for all alike.
        negative_mix: the same for absent concepts; None for `mix`.
        annotated: granularities whose training annotations are used; concepts of the others stay in the vocabulary and
            count as absent. Empty for all.
        positives: at most this many present concepts per picture and step.
        negatives: absent ones.
        hard: share of the absent ones drawn from the siblings of present ones.
        synonyms: probability of a synonym in place of a name.
        flip: probability of mirroring a training picture.
        zoom: largest factor of a random crop.
        views: different random views of a training picture, taken in turn; 0 for new ones every epoch.
    """

    name: str
    format: str
    root: str
    splits: Mapping[str, object]
    tune_images: int = 32
    limit: int = 0
    seed: int = 0
    size: int = 128
    names: str = ""
    ignore: int = 255
    offset: int = 0
    mix: Mapping[str, float] | None = None
    negative_mix: Mapping[str, float] | None = None
    annotated: tuple[str, ...] = ()
    positives: int = 2
    negatives: int = 1
    hard: float = 0.5
    synonyms: float = 0.0
    flip: float = 0.5
    zoom: float = 1.0
    views: int = 0

    def __post_init__(self) -> None:
        one_of("data.format", self.format, FORMATS)
        if not isinstance(self.splits, Mapping):
            raise ConfigError(f"data.splits={self.splits!r}; expected {', '.join(SPLITS)} by name")
        for split in self.splits:
            one_of("data.splits", split, SPLITS)
        for name in ("tune_images", "limit", "seed"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ConfigError(f"data.{name}={value!r}; expected an integer from 0")


@dataclass(frozen=True)
class Split:
    """One split of a data set: pictures with instances, their label maps, and their COCO file, as far as there are."""

    name: str
    images: AnnotatedImages
    labels: AnnotatedImages | None
    coco_file: Path | None


class Subset(AnnotatedImages):
    """Some pictures of a data set, by their positions in it."""

    def __init__(self, whole: AnnotatedImages, positions: Sequence[int]) -> None:
        super().__init__(whole.name, whole.categories)
        self._whole, self._positions = whole, list(positions)
        self.dropped, self.adjusted = whole.dropped, whole.adjusted

    def __len__(self) -> int:
        return len(self._positions)

    def image(self, i: int) -> ImageRecord:
        return self._whole.image(self._positions[i])

    def instances(self, i: int) -> tuple[Instance, ...]:
        return self._whole.instances(self._positions[i])

    def label_map(self, i: int) -> np.ndarray | None:
        return self._whole.label_map(self._positions[i])

    def crowd_only(self, i: int) -> frozenset[int]:
        return self._whole.crowd_only(self._positions[i])


class OfGranularities(Subset):
    """A data set with the annotations of some granularities alone; its pictures and its vocabulary stay whole."""

    def __init__(self, whole: AnnotatedImages, granularities: Sequence[str]) -> None:
        super().__init__(whole, range(len(whole)))
        self._kept = {category.id for category in whole.categories if category.granularity in granularities}

    def instances(self, i: int) -> tuple[Instance, ...]:
        return tuple(one for one in super().instances(i) if one.category_id in self._kept)

    def crowd_only(self, i: int) -> frozenset[int]:
        return super().crowd_only(i) & self._kept


def training_images(options: DataOptions, split: str) -> AnnotatedImages:
    """The pictures of "train" or "tune" with the annotations that training may use."""
    images = open_split(options, split).images
    if not options.annotated:
        return images
    for granularity in options.annotated:
        one_of("data.annotated", granularity, tuple({category.granularity for category in images.categories}))
    return OfGranularities(images, options.annotated)


def open_split(options: DataOptions, split: str) -> Split:
    """Read "train", "tune" or "val"; tuning pictures come out of the training ones where there is no tune split.

    Raises:
        ConfigError: a split that the data set does not have.
        DataError: files that cannot be used.
    """
    carved = split == "tune" and "tune" not in options.splits
    source = _read(options, "train" if carved or split == "train" else split)
    positions = np.arange(len(source.images))
    if "tune" not in options.splits and split in ("train", "tune"):
        held = min(options.tune_images, len(positions) // 2)
        if carved and not held:
            raise ConfigError(
                f"data set {options.name} has no picture to tune on: {len(positions)} training pictures and "
                f"data.tune_images={options.tune_images}; expected 2 and 1 at least, or train.tune_every=0"
            )
        order = np.random.default_rng(options.seed).permutation(len(positions))
        positions = np.sort(order[:held] if carved else order[held:])
    if options.limit and len(positions) > options.limit:
        positions = positions[np.linspace(0, len(positions) - 1, options.limit).round().astype(int)]
    if len(positions) == len(source.images):
        return source
    labels = None if source.labels is None else Subset(source.labels, positions)
    return Split(split, Subset(source.images, positions), labels, source.coco_file)


def prompt_sampler(options: DataOptions, images: AnnotatedImages) -> PromptSampler:
    """The sampler of training prompts that the options describe."""
    return PromptSampler(
        images.categories,
        positives=options.positives,
        negatives=options.negatives,
        hard=options.hard,
        synonyms=options.synonyms,
        mix=options.mix or None,
        negative_mix=options.negative_mix or None,
        exhaustive=bool(options.annotated),
    )


def augmentation(options: DataOptions) -> Augmentation:
    """The random views of training pictures that the options describe."""
    return Augmentation(flip=options.flip, zoom=options.zoom, views=options.views)


def _read(options: DataOptions, split: str) -> Split:
    if split not in options.splits:
        raise ConfigError(f"data set {options.name} has no split {split!r}; it has {', '.join(options.splits)}")
    root, files = Path(options.root).expanduser(), options.splits[split]
    if options.format == "scenes":
        if type(files) is not int:
            raise ConfigError(f"data.splits.{split}={files!r}; expected the number of pictures to draw")
        scenes = write_scenes(root, files, options.seed + SPLITS.index(split), options.size, split)
        images: AnnotatedImages = read_coco(
            scenes.annotations(), scenes.image_folder, name=options.name, tree=scenes.concepts
        )
        labels = read_label_maps(
            scenes.image_folder, scenes.label_folder, scenes.names, ignore=0, offset=1, name=options.name
        )
        return Split(split, images, labels, scenes.annotations())
    if options.format == "coco":
        annotations = root / "annotations" / f"instances_{files}.json"
        return Split(split, read_coco(annotations, root / str(files), name=options.name), None, annotations)
    if options.format == "ade20k":
        labels = read_ade20k(root, str(files))
    else:
        if not isinstance(files, list | tuple) or len(files) != 2:
            raise ConfigError(f"data.splits.{split}={files!r}; expected [folder of pictures, folder of label maps]")
        pictures, maps = files
        labels = read_label_maps(
            root / str(pictures),
            root / str(maps),
            root / options.names,
            ignore=options.ignore,
            offset=options.offset,
            name=options.name,
        )
    return Split(split, labels, labels, None)
