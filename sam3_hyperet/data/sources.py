"""A data set by its options: which files make its training, tuning and validation images."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sam3_hyperet.arrays.positions import spread
from sam3_hyperet.data import selection
from sam3_hyperet.data.ade20k import read_ade20k
from sam3_hyperet.data.annotations import AnnotatedImages, some, spoken
from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.data.directions import directional
from sam3_hyperet.data.disjoint import shared_remarks
from sam3_hyperet.data.finding import find_files
from sam3_hyperet.data.image_files import limit_megapixels
from sam3_hyperet.data.label_maps import read_label_maps
from sam3_hyperet.data.notes import LOOKED_AT
from sam3_hyperet.data.options import FLIP, SPLITS, DataOptions
from sam3_hyperet.data.parts import WithParts, groups_of, prompted_ids
from sam3_hyperet.data.prompts import PromptSampler
from sam3_hyperet.data.subsets import OfGranularities, OfVocabulary, Subset
from sam3_hyperet.data.supercategories import SupercategoryMaps, WithSupercategories, families
from sam3_hyperet.data.transforms import Augmentation
from sam3_hyperet.data.vocabularies import absent_concepts, listed, vocabulary_ids
from sam3_hyperet.data.wholes import WithWholes, read_objects
from sam3_hyperet.data.yolo import read_yolo
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.options import one_of
from sam3_hyperet.scenes.dataset import scenes_folder, write_scenes

Files = tuple[AnnotatedImages, AnnotatedImages | None, Path | None]  # images, label maps, COCO file


@dataclass(frozen=True)
class Split:
    """One split of a data set: images with instances, their label maps, and their COCO file, as far as there are.

    merged: label maps of supercategories.
    """

    name: str
    images: AnnotatedImages
    labels: AnnotatedImages | None
    coco_file: Path | None  # it may have more categories than `images`
    merged: AnnotatedImages | None = None
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # ids of categories that are scored together

    @property
    def has_instances(self) -> bool:
        """Whether AP is scored."""
        return self.images.has_instances


def training_images(options: DataOptions, split: str, train: Split | None = None) -> AnnotatedImages:
    """The images of "train" or "tune" with the annotations that training may use. train: as for `open_split`."""
    return training_split(options, split, train).images


def training_split(options: DataOptions, split: str, train: Split | None = None) -> Split:
    """ "train" or "tune" with what training may use of it; label maps where all of them may be used."""
    opened = open_split(options, split, train)
    images, labels, merged = opened.images, opened.labels, opened.merged
    if (ids := prompted_ids(options.prompts, options.unseen, images.categories)) is not None:
        images = OfVocabulary(images, ids)
        if options.unseen:
            hidden = len(opened.images.categories) - len(ids)
            images.remarks += (
                f"{hidden} of {hidden + len(ids)} categories are never prompted in training (data.unseen)",
            )
        labels = images if opened.labels is opened.images else _named_alike(labels, images)
        left = {category.name for category in images.categories}
        merged = merged if merged and all(category.name in left for category in merged.categories) else None
    for granularity in options.annotated:
        one_of("data.annotated", granularity, tuple({category.granularity for category in images.categories}))
    if options.annotated:
        images, labels, merged = OfGranularities(images, options.annotated), None, None
    known = {category.id for category in images.categories}
    groups = {name: tuple(i for i in ids if i in known) for name, ids in opened.groups.items()}
    groups = {name: ids for name, ids in groups.items() if ids}
    return replace(opened, images=images, labels=labels, merged=merged, groups=groups)


@dataclass(frozen=True)
class RunSplits:
    """All that a run will use of a data set, opened before its model is built."""

    training: AnnotatedImages
    tuning: Split | None
    evaluation: Split | None


def open_run(options: DataOptions, *, tune: bool, evaluate: bool) -> RunSplits:
    """Open what will be used; without `tune` no training image is held out for it. Raises as `open_split`."""
    kept = options if tune else replace(options, tune_images=0)
    train = read_split(options, "train")
    training, tuning = training_images(kept, "train", train), training_split(kept, "tune", train) if tune else None
    prompt_sampler(options, training)  # whose errors are those of options, too
    if options.exemplars and not training.has_instances:
        regions = f"the regions of {training.name} are whole classes, of which a box is no example"
        raise ConfigError(f"data.exemplars={options.exemplars:g}: {regions}; expected a set of instances, or 0")
    evaluation = open_split(options, "val", train) if evaluate else None
    others = {"tune": tuning, "val": evaluation}
    images = {name: split.images for name, split in others.items() if split is not None}
    training.remarks += shared_remarks({"train": training, **images})
    return RunSplits(training, tuning, evaluation)


def open_split(options: DataOptions, split: str, train: Split | None = None) -> Split:
    """Read "train", "tune" or "val"; where one of the last two is no split of its own, it is held out of "train".

    train: what `read_split` made of "train", so that its files are read once for all that is taken from it.
    `options.limit` shortens "train" and "tune", never what is evaluated. Some images' headers are read. Raises
    ConfigError for a split that the data set does not have, DataError for files that cannot be used.
    """
    is_held_out = split in ("tune", "val") and split not in options.splits and "train" in options.splits
    of_train = is_held_out or split == "train"
    source = train if of_train and train is not None else read_split(options, "train" if of_train else split)
    chosen, remarks = list(range(len(source.images))), tuple[str, ...]()
    if of_train:
        chosen, remarks = choose(options, source.images, split)
    if options.limit and split != "val" and len(chosen) > options.limit:
        chosen = [chosen[i] for i in spread(len(chosen), options.limit)]
    if len(chosen) < len(source.images):
        images = Subset(source.images, chosen, remarks)
        labels = images if source.labels is source.images else source.labels and Subset(source.labels, chosen)
        merged = source.merged and Subset(source.merged, chosen)
        source = replace(source, name=split, images=images, labels=labels, merged=merged)
    for i in spread(len(source.images), LOOKED_AT):
        source.images.check_header(i)
    return source


def choose(options: DataOptions, images: AnnotatedImages, split: str) -> tuple[list[int], tuple[str, ...]]:
    """Positions of the training images that are "train", "tune" or "val", and lines about it. Raises ConfigError."""
    total, remarks = len(images), []
    needs = [name for name in ("val", "tune") if name not in options.splits]
    is_few = bool(options.shots or options.train_images)
    if not (needs or is_few):
        return list(range(total)), ()
    groups = selection.in_chance_order(images, options.seed)
    if "val" in needs:
        wanted = max(1, round(options.validation_fraction * total)) if options.validation_fraction else 0
        held, groups = selection.take(groups, wanted)
        count = sum(map(len, held))
        remarks.append(
            f"no val split: {count} of {total} training images are held out for it "
            f"(data.validation_fraction={options.validation_fraction:g}, data.seed={options.seed})"
        )
        if split == "val":
            if not count:
                raise ConfigError(
                    f"data set {options.name} has no image to score: no val split, {total} training images and "
                    f"data.validation_fraction={options.validation_fraction:g}; expected a split, or more of both"
                )
            return selection.positions(held), tuple(remarks)
    rest = groups
    if is_few:
        order = groups
        if options.subset_seed is not None:
            held_out = set(range(total)).difference(selection.positions(groups))
            order = selection.without(selection.in_chance_order(images, options.subset_seed), held_out)
        prompts = prompted_ids(options.prompts, options.unseen, images.categories)
        prompted = images if prompts is None else OfVocabulary(images, prompts)
        few = selection.few_shots if options.shots else selection.few_images
        chosen, lines = few(prompted, order, options.shots or options.train_images)
        remarks += lines
        rest = selection.without(groups, chosen)
    if "tune" in needs:
        left = sum(map(len, rest))
        held, rest = selection.take(rest, min(options.tune_images, left if is_few else left // 2))
        if split == "tune":
            if not held:
                raise ConfigError(
                    f"data set {options.name} has no image to tune on: {left} training images and "
                    f"data.tune_images={options.tune_images}; expected 2 and 1 at least, or train.validate_every=0"
                )
            return selection.positions(held), tuple(remarks)
        if held and not is_few:
            remarks.append(
                f"{sum(map(len, held))} of {left} training images are held out for choosing the best step "
                f"(data.tune_images={options.tune_images}, half of them at most)"
            )
        elif held:
            remarks.append(
                f"{sum(map(len, held))} more images choose the best step, where train.validate_every is set: 0 uses "
                "none but these"
            )
    return (chosen if is_few else selection.positions(rest)), tuple(remarks)


def prompt_sampler(options: DataOptions, images: AnnotatedImages) -> PromptSampler:
    """The sampler of training prompts that the options describe."""
    groups = {name: {spoken(one) for one in listed(names)} for name, names in (options.groups or {}).items()}
    return PromptSampler(
        images.categories,
        never_absent=images.never_absent,
        absent_concepts=absent_concepts(options.absent_concepts, images.categories, images.left_out),
        num_positives=options.num_positives,
        num_negatives=options.num_negatives,
        hard_negative_ratio=options.hard_negative_ratio,
        synonyms=options.synonyms,
        weights=options.prompt_weights or None,
        negative_weights=options.negative_prompt_weights or None,
        groups={name: [c.id for c in images.categories if c.name in names] for name, names in groups.items()},
        exhaustive=bool(options.annotated),
    )


def augmentation(options: DataOptions, images: AnnotatedImages) -> Augmentation:
    """The random views of training images that the options describe."""
    flip = options.flip
    if flip is None:
        flip = 0.0 if directional(images.categories) else FLIP
    return Augmentation(flip=flip, zoom=options.zoom, views=options.views)


def is_upright(options: DataOptions) -> bool:
    """Whether images are turned by their EXIF orientation."""
    return options.exif == "apply" or (options.exif == "auto" and options.format == "yolo")


def read_split(options: DataOptions, split: str) -> Split:
    """Read a split that the options name, with all its images. Raises ConfigError or DataError as `open_split`."""
    if split not in options.splits:
        remedy = "; to train on some of it, name that by data.splits={train: …}; evaluate needs val alone"
        raise ConfigError(
            f"data set {options.name} has no split {split!r}; it has {', '.join(options.splits)}"
            f"{remedy if split == 'train' else ''}"
        )
    if options.format == "auto":
        raise ConfigError(f"data.format=auto has not been recognised at {options.root}: layouts.table.explicit does it")
    limit_megapixels(options.max_megapixels)
    root = Path(options.root).expanduser()
    if options.format != "scenes" and not root.is_dir():  # scenes are drawn
        raise DataError(f"{root}: no such folder; expected data set {options.name} there, or its place as data.root=")
    images, labels, coco_file = _READERS[options.format](options, split, root)
    images.is_upright = is_upright(options)
    groups, same = options.groups or {}, labels is images
    if options.parts or options.renamed:
        images = WithParts(images, options.parts, options.renamed or {})
        labels = images if same else labels
    if options.wholes:
        images = WithWholes(images, read_objects(options, split, root))
        same = False
    if options.vocabulary:
        images = OfVocabulary(images, vocabulary_ids(options.vocabulary, images.categories, "data.vocabulary"))
        labels = images if same else _named_alike(labels, images)
    merged = None
    if options.supercategories:
        members = families(options.supercategories, images)
        merged = SupercategoryMaps(images, members) if labels is images else None
        images = WithSupercategories(images, members)
    ids = {name: vocabulary_ids(names, images.categories, f"data.groups.{name}") for name, names in groups.items()}
    return Split(split, images, labels, coco_file, merged, ids | groups_of(options.unseen, images.categories))


def _named_alike(labels: AnnotatedImages | None, images: AnnotatedImages) -> AnnotatedImages | None:
    """Label maps with the classes alone that the instances have, too; None where that leaves none."""
    names = {category.name for category in images.categories}
    ids = [category.id for category in labels.categories if category.name in names] if labels else []
    return OfVocabulary(labels, ids) if labels and ids else None


def _read_scenes(options: DataOptions, split: str, root: Path) -> Files:
    count = options.splits[split]
    if type(count) is not int or count < 1:
        raise ConfigError(f"data.splits.{split}={count!r}; expected the number of images to draw, from 1")
    folder = scenes_folder(root, count, options.seed, options.size)
    scenes = write_scenes(folder, count, options.seed + SPLITS.index(split), options.size, split)
    images = read_coco(scenes.annotations, scenes.image_folder, name=options.name, tree=scenes.concepts)
    files = (scenes.image_folder, scenes.label_folder, scenes.names)
    return images, read_label_maps(*files, ignore=0, offset=1, name=options.name), scenes.annotations


def _read_coco(options: DataOptions, split: str, root: Path) -> Files:
    given = options.splits[split]
    folder, file = (given, f"annotations/instances_{given}.json") if isinstance(given, str) else _pair(split, given)
    annotations = root / file
    if not annotations.exists() and root.is_dir():
        found = sorted(find_files(root, (".json",)))
        raise DataError(
            f"{annotations}: no such file; found {some(found) or 'no .json file'} below {root}, expected {file}, and "
            f"its images in {folder}/; other names: data.splits={{{split}: [folder, file.json]}}, or data=auto"
        )
    images = read_coco(
        annotations,
        root / folder,
        name=options.name,
        crowds=options.crowds,
        boxes=options.boxes,
        upright=options.exif == "apply",
    )
    return images, None, annotations


def _pair(split: str, given: object) -> tuple[str, str]:
    """The folder of images and the file of a COCO split."""
    if not isinstance(given, list | tuple) or len(given) != 2 or not all(isinstance(one, str) for one in given):
        raise ConfigError(f"data.splits.{split}={given!r}; expected a name such as train2017, or [folder, file.json]")
    return given[0], given[1]


def _read_ade20k(options: DataOptions, split: str, root: Path) -> Files:
    labels = read_ade20k(root, str(options.splits[split]))
    return labels, labels, None


def _read_label_maps(options: DataOptions, split: str, root: Path) -> Files:
    files = options.splits[split]
    if not isinstance(files, list | tuple) or len(files) not in (2, 3):
        raise ConfigError(f"data.splits.{split}={files!r}; expected [folder of images, folder of label maps]")
    folder, maps, *listed = (root / str(file) for file in files)
    labels = read_label_maps(
        folder,
        maps,
        root / options.names if options.names and isinstance(options.names, str) else options.names,
        ignore=options.ignore,
        offset=options.offset,
        colors=root / options.colors if isinstance(options.colors, str) else options.colors,
        objects=root / options.objects if options.objects else None,
        void_classes=options.void_classes,
        name=options.name,
        image_ending=options.image_ending or None,
        label_ending=options.label_ending or None,
        listed=listed[0] if listed else None,
    )
    return labels, labels, None


def _read_yolo(options: DataOptions, split: str, root: Path) -> Files:
    given = options.splits[split]
    sources = [given] if isinstance(given, str) else given
    if not isinstance(sources, list | tuple) or not sources or not all(isinstance(one, str) for one in sources):
        raise ConfigError(f"data.splits.{split}={given!r}; expected folders or .txt lists of images, below data.root")
    names = root / (options.names or "data.yaml") if isinstance(options.names, str) else options.names
    upright = is_upright(options)
    return read_yolo(root, sources, names, name=options.name, boxes=options.boxes, upright=upright), None, None


_READERS = {
    "scenes": _read_scenes,
    "coco": _read_coco,
    "ade20k": _read_ade20k,
    "label_maps": _read_label_maps,
    "yolo": _read_yolo,
}
