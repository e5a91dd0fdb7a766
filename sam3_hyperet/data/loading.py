"""From annotated images to SAM 3's batches: one datapoint an image, one query a prompt.

All that is random is a function of (seed, epoch, index), and the images of a step one of (seed, step, images a
step): neither the number of worker processes nor, at an equal total, that of training processes changes anything.
"""

from __future__ import annotations

import functools
import itertools
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from sam3_hyperet.choices import VISUAL
from sam3_hyperet.data.annotations import AnnotatedImages, ImageInfo, Instance, some
from sam3_hyperet.data.prompts import Prompt, PromptSampler
from sam3_hyperet.data.transforms import Augmentation, image_tensor, whole
from sam3_hyperet.data.view_masks import Masks, masks_in_view
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.sam3_host import (
    BatchedDatapoint,
    Datapoint,
    FindQueryLoaded,
    Image,
    InferenceMetadata,
    Object,
    collate,
)

Pick = tuple[int, int]
"""The epoch and the index of an image."""
_LOST = ("instance outside the view", "instance below half a pixel")
_MAX_WORKERS = 256


class ConceptPrompts(Dataset[Datapoint]):
    """Annotated images as SAM 3 datapoints.

    sampler: draws each image's prompts; None: every category that is not unknown, by name, as for a validation loss.
    augment: random views; None: the whole image.
    exemplars: the probability that a present prompt is given a positive box, of an instance drawn among its targets, as
        they are in the view. exemplars_alone: that the box is then given alone, with SAM 3's own text for it.
    seed: with the epoch and the index, what decides everything random.

    A category is *present* where an instance of it survives at the model's size. It is *unknown*, and neither a
    positive nor a negative, where there are only crowds of it, or only instances too small for a pixel. A prompt of a
    category that also has a crowd in the image is not exhaustive; its semantic target contains the crowd. `lost` counts
    the instances that views cut away or made too small; `dropped` the images that no prompt can be asked of.
    """

    def __init__(
        self,
        images: AnnotatedImages,
        resolution: int,
        sampler: PromptSampler | None = None,
        augment: Augmentation | None = None,
        seed: int = 0,
        exemplars: float = 0.0,
        exemplars_alone: float = 0.5,
    ) -> None:
        if resolution < 1 or seed < 0:
            raise ConfigError(f"resolution is {resolution} and seed {seed}, expected positive numbers")
        self.images, self.resolution, self.sampler = images, resolution, sampler
        self.augment, self.seed, self._exemplars = augment, seed, (exemplars, exemplars_alone)
        categories = images.categories if sampler is None else sampler.categories
        known = {category.id for category in images.categories}
        if strange := [category.id for category in categories if category.id not in known]:
            raise ConfigError(f"the prompts have categories that {images.name} has not: {strange[:5]}")
        self._categories = {category.id: category.name for category in categories}
        asked = self._categories.keys() - (sampler.never_absent if sampler else frozenset())
        self._index = list(range(len(images)))
        if sampler is None or not sampler.absent_concepts:
            self._index = [i for i in self._index if not asked <= images.crowd_only(i) | images.unlabelled(i)]
        self.dropped: Counter[str] = Counter()
        if without := len(images) - len(self._index):
            of_these = "of the prompted categories has nothing but crowds or dropped annotations, or says nothing"
            self.dropped[f"image that {of_these}"] = without
        if not self._index:
            names = some([category.name for category in categories])
            found = f"no image can be prompted: there is no usable annotation of {names}"
            why = "a category without any is never taken as absent"
            raise DataError(f"{images.name}: {found}, and {why}; expected prompts of annotated categories")
        # shared with worker processes; a worker writes to its own row alone
        self._lost = torch.zeros((_MAX_WORKERS + 1, len(_LOST)), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def lost(self) -> Counter[str]:
        """How many instances were no target, by reason, over all draws so far."""
        return Counter({reason: n for reason, n in zip(_LOST, self._lost.sum(dim=0).tolist(), strict=True) if n})

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int | Pick) -> Datapoint:
        """The datapoint of one image, as it is drawn in epoch 0 or in that of the pick. Raises DataError."""
        epoch, index = index if isinstance(index, tuple) else (0, index)
        i = self._index[index]
        rng = np.random.default_rng((self.seed, epoch, range(len(self))[index]))
        record, image = self.images.image(i), self.images.load_image(i)
        view = whole(record.height, record.width)
        if self.augment is not None:
            views = self.augment.views
            draws = np.random.default_rng((self.seed, epoch % views, i)) if views else rng
            view = self.augment.view(record.height, record.width, draws)
        found = self.images.instances(i)
        instances = [one for one in found if one.category_id in self._categories]
        size = [record.height, record.width]
        if wrong := [one.rle["size"] for one in instances if list(one.rle["size"]) != size]:
            raise DataError(f"{record.path}: a mask has the size {wrong[0]}, the image {size}")
        regions = _Regions(instances, masks_in_view([one.rle for one in instances], self.resolution, view))
        worker = get_worker_info()
        row = self._lost[0 if worker is None else 1 + worker.id]
        row += torch.tensor([int(regions.outside.sum()), int(regions.too_small.sum())])
        prompts = self._prompts(regions, {one.category_id for one in found}, i, rng)
        tensor = image_tensor(image, self.resolution, view)
        point = _datapoint(tensor, prompts, regions, record, self.images.not_exhaustive(i))
        if self._exemplars[0]:  # by draws of their own, so that they change no other
            _give_boxes(point, *self._exemplars, np.random.default_rng((self.seed, epoch, range(len(self))[index], 1)))
        return point

    def __getitems__(self, indices: Sequence[int | Pick]) -> list[Datapoint] | DataError:
        return datapoints(self, indices)

    def _prompts(self, regions: _Regions, shown: set[int], i: int, rng: np.random.Generator) -> Sequence[Prompt]:
        """shown: categories that image i has, prompted or not; those that are not may imply some that are."""
        # of a category that is not exhaustive, the view may show instances without a label
        present = regions.present
        lost = (self.images.unlabelled(i) | self.images.not_exhaustive(i)) - present
        unknown, crowds = regions.unknown | lost, regions.crowds | lost
        prompts: Sequence[Prompt]
        if self.sampler is not None:
            present |= shown - self._categories.keys()
            prompts = self.sampler.sample(present, unknown, rng) or self.sampler.sample(present, crowds, rng)
        else:
            every = [Prompt(name, c, c in present) for c, name in self._categories.items()]
            prompts = [one for one in every if one.category_id not in unknown]
            prompts = prompts or [one for one in every if one.category_id not in crowds]
        if not prompts:
            record = self.images.image(i)
            raise DataError(f"{record.path}: image {record.image_id} shows nothing but crowds of what is prompted")
        return prompts


def datapoints(dataset: Dataset[Datapoint], indices: Sequence[int | Pick]) -> list[Datapoint] | DataError:
    """A batch's datapoints for the loaders, which raise the error in the main process, in its own words."""
    try:
        return [dataset[index] for index in indices]
    except DataError as error:
        return error


class _Regions:
    """An image's instances in its view: which are targets, and so the categories present, unknown or with crowds."""

    def __init__(self, instances: Sequence[Instance], view: Masks) -> None:
        self.category = np.asarray([one.category_id for one in instances], np.int64)
        self.instances, self.view = instances, view
        crowd = np.asarray([one.crowd for one in instances], bool)
        self.areas = view.areas
        visible = self.areas > 0
        self.target = visible & ~crowd
        self.outside = (view.pixels == 0) & ~crowd
        self.too_small = (view.pixels > 0) & ~visible & ~crowd
        chosen = (self.target, crowd, self.too_small)
        self.present, self.crowds, small = (frozenset(self.category[one].tolist()) for one in chosen)
        self.unknown = (self.crowds | small) - self.present


def _datapoint(
    image: torch.Tensor, prompts: Sequence[Prompt], regions: _Regions, record: ImageInfo, not_exhaustive: frozenset[int]
) -> Datapoint:
    objects: list[Object] = []
    queries: list[FindQueryLoaded] = []
    for prompt in prompts:
        mine, first = regions.category == prompt.category_id, len(objects)
        of_prompt = [regions.instances[n] for n in np.flatnonzero(mine)]
        semantic = regions.view.union(np.flatnonzero(mine))
        if any(one.is_boxed for one in of_prompt):
            semantic = torch.zeros_like(semantic)  # not known: an empty map is left out of the semantic loss
        for n in np.flatnonzero(mine & regions.target).tolist():
            one, box, area = regions.instances[n], regions.view.boxes[n], float(regions.areas[n])
            segment = None if one.is_boxed else regions.view.union([n])
            objects.append(Object(box, area, object_id=one.id, frame_index=0, segment=segment))
        metadata = InferenceMetadata(
            coco_image_id=record.image_id,
            original_image_id=record.image_id,
            original_category_id=prompt.category_id % 2**31,  # batched as int32, and read by nothing
            original_size=(record.height, record.width),
            object_id=-1,
            frame_index=0,
        )
        query = FindQueryLoaded(
            query_text=prompt.text,
            image_id=0,
            object_ids_output=list(range(first, len(objects))),
            is_exhaustive=prompt.category_id not in regions.crowds | not_exhaustive,
            is_pixel_exhaustive=prompt.category_id not in not_exhaustive,  # crowds are part of the semantic target
            semantic_target=semantic,
            inference_metadata=metadata,
        )
        queries.append(query)
    size = (image.shape[-1], image.shape[-1])
    return Datapoint(find_queries=queries, images=[Image(data=image, objects=objects, size=size)])


def _give_boxes(point: Datapoint, probability: float, alone: float, rng: np.random.Generator) -> None:
    """Give some prompts the box of one of their targets, beside the text or in place of it."""
    for query in point.find_queries:
        given, which, without = rng.random(3)
        if query.object_ids_output and given < probability:
            chosen = query.object_ids_output[int(which * len(query.object_ids_output))]
            query.input_bbox = point.images[0].objects[chosen].bbox[None]
            query.input_bbox_label = torch.ones(1, dtype=torch.bool)
            if without < alone:
                query.query_text = VISUAL


@dataclass(frozen=True)
class EndlessOrder(Sampler[Pick]):
    """What one process sees: every `world`-th image of an endless row of epochs, each epoch a permutation of its own.

    So all processes together see the row itself, without gap or repetition, whatever their number.
    """

    images: int  # of an epoch
    seed: int = 0
    rank: int = 0
    world: int = 1
    first: int = 0  # how many images this process has already seen

    def __iter__(self) -> Iterator[Pick]:
        return map(self.pick, itertools.count(self.first * self.world + self.rank, self.world))

    def pick(self, place: int) -> Pick:
        """What is at a place of the row."""
        epoch, index = divmod(place, self.images)
        return epoch, int(_permutation(self.seed, epoch, self.images)[index])


@functools.lru_cache(maxsize=16)
def _permutation(seed: int, epoch: int, images: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(images)


@dataclass(frozen=True)
class _Loaded:
    """A batch, or the error in its place, as a loader passes it on and pins its memory."""

    content: BatchedDatapoint | DataError

    def pin_memory(self) -> _Loaded:
        """The same in memory from which a copy to the GPU runs beside the work there."""
        return _Loaded(apply_to_collection(self.content, torch.Tensor, torch.Tensor.pin_memory))


class _Loader(DataLoader[BatchedDatapoint]):
    def __iter__(self) -> Iterator[BatchedDatapoint]:  # type: ignore[override]
        for loaded in super().__iter__():
            if isinstance(loaded.content, DataError):
                raise loaded.content
            yield loaded.content


def build_loader(
    dataset: Dataset[Datapoint],
    batch_size: int,
    workers: int = 0,
    order: Sampler[Pick] | None = None,
    *,
    pin_memory: bool = False,
) -> DataLoader[BatchedDatapoint]:
    """Batches, endless in an `order`; without one, every image once, as it comes.

    pin_memory: for copies to a GPU that do not wait. Raises ConfigError.
    """
    if batch_size < 1 or not 0 <= workers <= _MAX_WORKERS:
        raise ConfigError(f"impossible loader: {batch_size=}, {workers=}")
    return _Loader(
        dataset,
        batch_size=batch_size,
        sampler=order,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        worker_init_fn=_one_thread,
        multiprocessing_context="fork" if workers else None,  # with any other, workers outlive a killed parent
        generator=torch.Generator().manual_seed(0),  # leaves torch's global stream alone
    )


def _collate(datapoints: Any) -> Any:
    return _Loaded(datapoints if isinstance(datapoints, DataError) else collate(datapoints))


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the main process ends its workers once the state is saved
