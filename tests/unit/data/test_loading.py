"""Datapoints and batches: boxes agree with masks, views move both, nothing depends on the workers."""

from __future__ import annotations

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.transforms import v2

from sam3_hyperet.data.ade20k import read_ade20k
from sam3_hyperet.data.annotations import AnnotatedImages, Category, ImageInfo, Instance
from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.data.loading import ConceptPrompts, EndlessOrder, _Loaded, build_loader
from sam3_hyperet.data.prompts import PromptSampler
from sam3_hyperet.data.transforms import Augmentation, View, image_tensor, whole
from sam3_hyperet.data.view_masks import masks_in_view
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.masks import decode
from sam3_hyperet.sam3_host import BatchedDatapoint, Sam3Processor

H, W, SIDE = 40, 60, 32
CATEGORIES = tuple(Category(n, f"thing {n}") for n in range(1, 6))


def rectangle(y0, x0, y1, x1, height=H, width=W):
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    return coco_mask.encode(mask)


class InMemory(AnnotatedImages):
    """Pictures of one colour each, with given instances."""

    def __init__(self, *instances, categories=CATEGORIES):
        super().__init__("in memory", categories)
        self.found = instances

    def __len__(self):
        return len(self.found)

    def image(self, i):
        return ImageInfo(100 + i, f"{i}.png", H, W)

    def load_image(self, i):
        if self.found[i] is None:
            raise DataError(f"{i}.png: not a readable image")
        return Image.new("RGB", (W, H), (i, 2 * i, 3 * i))

    def instances(self, i):
        return tuple(self.found[i])

    def crowd_only(self, i):
        crowds = {one.category_id for one in self.found[i] or () if one.crowd}
        return frozenset(crowds - {one.category_id for one in self.found[i] or () if not one.crowd})


LEFT = Instance(1, rectangle(4, 2, 24, 22), id=11)
RIGHT = Instance(1, rectangle(10, 40, 30, 58), id=12)
OTHER = Instance(2, rectangle(30, 10, 38, 50), id=13)
CROWD = Instance(1, rectangle(0, 25, 10, 35), crowd=True, id=14)
SPECK = Instance(3, rectangle(0, 0, 1, 1), id=15)


@pytest.fixture(scope="session")
def coco(shared_data):
    return read_coco(shared_data / "coco" / "annotations" / "instances_val2017.json", shared_data / "coco" / "val2017")


def loaded(images, **options):
    sampler = PromptSampler(images.categories, num_negatives=3, **options)
    return ConceptPrompts(images, 64, sampler, Augmentation(0.5, 2.0), seed=3)


def assert_boxes_fit(boxes, masks, slack):
    """Boxes (N, 4), normalised centre and size, bound masks (N, S, S) to within `slack` pixels."""
    side = masks.shape[-1]
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        centre, size = box[:2] * side, box[2:] * side
        assert abs(float(centre[0] - size[0] / 2 - columns.min())) <= slack
        assert abs(float(centre[1] - size[1] / 2 - rows.min())) <= slack
        assert abs(float(centre[0] + size[0] / 2 - columns.max() - 1)) <= slack
        assert abs(float(centre[1] + size[1] / 2 - rows.max() - 1)) <= slack


def test_an_unchanged_picture_is_what_sam3_itself_makes_of_it(coco):
    processor = Sam3Processor(None, resolution=112, device="cpu")
    for i in range(3):
        picture = coco.load_image(i)
        expected = processor.transform(v2.functional.to_image(picture))
        assert torch.equal(image_tensor(picture, 112, whole(picture.height, picture.width)), expected)


def test_own_decoder_is_pycocotools():
    with pytest.warns(DeprecationWarning, match="__array__"):
        expected = coco_mask.decode(LEFT.rle)
    assert np.array_equal(decode(LEFT.rle), expected)


def test_a_real_batch_is_complete_and_consistent(coco):
    dataset = loaded(coco)
    batch = next(iter(build_loader(dataset, batch_size=8)))
    assert isinstance(batch, BatchedDatapoint)
    (stage,), (target,), (meta,) = batch.find_inputs, batch.find_targets, batch.find_metadatas
    prompts = len(stage.img_ids)
    assert batch.img_batch.shape == (8, 3, 64, 64)
    assert batch.img_batch.abs().max() <= 1
    assert target.semantic_segments.shape == (prompts, 64, 64)
    assert target.segments.shape == (len(target.boxes), 64, 64)
    assert int(target.num_boxes.sum()) == len(target.boxes) == len(target.repeated_boxes) > 8
    assert target.is_valid_segment.all()
    assert target.segments.any(dim=(1, 2)).all()
    names = {c.id: c.name for c in coco.categories}
    assert [batch.find_text_batch[t] for t in stage.text_ids] == [names[c] for c in meta.original_category_id.tolist()]
    ids = [coco.image(i).image_id for i in range(8)]
    assert [ids[i] for i in stage.img_ids] == meta.original_image_id.tolist()
    sizes = [[coco.image(i).height, coco.image(i).width] for i in stage.img_ids]
    assert meta.original_size.tolist() == sizes
    union = torch.zeros_like(target.semantic_segments)
    owner = torch.repeat_interleave(torch.arange(prompts), target.num_boxes)
    for n, segment in zip(owner.tolist(), target.segments, strict=True):
        union[n] |= segment
    exhaustive = target.is_exhaustive
    assert torch.equal(union[exhaustive], target.semantic_segments[exhaustive])
    assert_boxes_fit(target.boxes, target.segments, slack=4)


def test_every_real_picture_can_be_prompted(coco, shared_data):
    for images in (coco, read_ade20k(shared_data / "ADEChallengeData2016", "training")):
        dataset = loaded(images, num_positives=5)
        for i in range(len(dataset)):
            queries = dataset[i].find_queries
            assert 3 <= len(queries) <= 8
            shown = {one.category_id for one in images.instances(i)}
            asked = {q.inference_metadata.original_category_id: len(q.object_ids_output) for q in queries}
            assert all(c in shown for c, targets in asked.items() if targets)


def test_targets_of_one_picture():
    point = ConceptPrompts(InMemory([LEFT, RIGHT, OTHER, CROWD, SPECK]), SIDE)[0]
    by_category = {q.inference_metadata.original_category_id: q for q in point.find_queries}
    objects = point.images[0].objects
    assert set(by_category) == {1, 2, 4, 5}, "the speck is neither a target nor absent"
    one, two, absent = by_category[1], by_category[2], by_category[4]
    assert [objects[k].object_id for k in one.object_ids_output] == [11, 12]
    assert (one.is_exhaustive, two.is_exhaustive, absent.is_exhaustive) == (False, True, True)
    assert one.is_pixel_exhaustive
    assert one.semantic_target[:8, 14:18].all(), "the crowd is part of the semantic target"
    assert absent.object_ids_output == []
    assert not absent.semantic_target.any()
    assert one.inference_metadata.original_size == (H, W)
    assert torch.allclose(objects[0].bbox, torch.tensor([12 / W, 14 / H, 20 / W, 20 / H]))


def test_a_crowd_is_never_a_negative_and_a_picture_of_crowds_alone_is_left_out():
    images = InMemory([CROWD], [LEFT], categories=CATEGORIES[:1])
    dataset = ConceptPrompts(images, SIDE, PromptSampler(images.categories))
    assert len(dataset) == 1
    assert sum(dataset.dropped.values()) == 1
    dataset = ConceptPrompts(InMemory([CROWD]), SIDE, PromptSampler(CATEGORIES, num_negatives=9))
    assert {q.query_text for q in dataset[0].find_queries} == {f"thing {n}" for n in (2, 3, 4, 5)}
    with pytest.raises(DataError, match="no image can be prompted: there is no usable annotation of thing 1, and"):
        ConceptPrompts(InMemory([CROWD], categories=CATEGORIES[:1]), SIDE)


def test_a_picture_that_shows_only_what_is_below_a_pixel_is_asked_as_if_it_were_absent():
    (query,) = ConceptPrompts(InMemory([SPECK], categories=(CATEGORIES[2],)), SIDE)[0].find_queries
    assert query.object_ids_output == []


def test_categories_not_asked_for_still_rule_out_what_they_imply():
    categories = (Category(1, "roof", parents=(2,), granularity="part"), Category(2, "house"), Category(3, "car"))
    images = InMemory([LEFT], categories=categories)
    sampler = PromptSampler(categories, num_negatives=5, weights={"object": 1.0})
    assert [q.query_text for q in ConceptPrompts(images, SIDE, sampler)[0].find_queries] == ["car"]


def test_what_a_view_loses_is_counted():
    dataset = ConceptPrompts(InMemory([LEFT, RIGHT, OTHER, SPECK]), SIDE, augment=Augmentation(0.0, 4.0))
    for epoch in range(20):
        point = dataset[epoch, 0]
        assert all(one.segment.any() and (one.bbox[2:] > 0).all() for one in point.images[0].objects)
    assert dataset.lost["instance outside the view"] > 10
    assert set(dataset.lost) <= {"instance outside the view", "instance below half a pixel"}


views = st.builds(
    lambda top, left, bottom, right, flip: View(top, left, bottom - top, right - left, flip),
    st.integers(0, H // 2 - 1),
    st.integers(0, W // 2 - 1),
    st.integers(H // 2 + 1, H),
    st.integers(W // 2 + 1, W),
    st.booleans(),
)
boxes = st.tuples(st.integers(0, 19), st.integers(0, 29), st.integers(21, H), st.integers(31, W))


@given(views, boxes)
def test_boxes_and_masks_move_together(view, corners):
    shown = masks_in_view([rectangle(*corners)], 64, view)
    assert shown.pixels[0] == view.of(decode(rectangle(*corners))).sum()
    if shown.areas[0]:
        assert_boxes_fit(shown.boxes, shown.union([0])[None], slack=max(1.0, 64 / view.width, 64 / view.height))


@given(boxes)
def test_a_flip_mirrors_pixels_boxes_and_masks(corners):
    plain, flipped = View(0, 0, H, W), View(0, 0, H, W, True)
    one, other = (masks_in_view([rectangle(*corners)], SIDE, view) for view in (plain, flipped))
    assert torch.equal(one.union([0]).flip(-1), other.union([0]))
    assert torch.allclose(other.boxes[0], torch.stack([1 - one.boxes[0, 0], *one.boxes[0, 1:]]))
    mask = decode(rectangle(*corners))
    picture = Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=-1))
    pixels = image_tensor(picture, SIDE, flipped)
    assert torch.allclose(pixels.flip(-1), image_tensor(picture, SIDE, plain), atol=0.01)
    assert ((pixels[0] > 0.5) <= other.union([0])).all()
    assert ((pixels[0] < -0.5) <= ~other.union([0])).all()


@given(st.integers(1, 500), st.integers(1, 500), st.floats(1, 16), st.integers(0, 2**32))
def test_views_lie_within_the_picture(height, width, zoom, seed):
    view = Augmentation(0.5, zoom).view(height, width, np.random.default_rng(seed))
    assert 0 <= view.top <= view.top + view.height <= height
    assert 0 <= view.left <= view.left + view.width <= width
    assert view.height >= max(1, int(height / zoom) - 1)


def flat(value):
    """All tensors and texts of a batch, in order."""
    if dataclasses.is_dataclass(value):
        return [item for f in dataclasses.fields(value) for item in flat(getattr(value, f.name))]
    if isinstance(value, list | tuple):
        return [item for part in value for item in flat(part)]
    return [value]


def same(one, other):
    pairs = zip(flat(one), flat(other), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def first_batches(dataset, count, batch_size, workers=0, **order):
    loader = build_loader(dataset, batch_size, workers, EndlessOrder(len(dataset), **order))
    return list(itertools.islice(loader, count))


def test_a_draw_depends_on_seed_epoch_and_index_alone(coco):
    dataset = loaded(coco, synonyms=0.5)
    steps = 2 * len(dataset) // 10 + 1  # into the third epoch
    one, *several = (first_batches(dataset, steps, 10, workers, seed=5) for workers in (0, 1, 2))
    assert all(same(one, others) for others in several)
    dataset = loaded(coco)
    dataset[3], dataset[7]
    again = dataset[3]
    assert same([loaded(coco)[3]], [again])
    assert same([dataset[0, 3]], [again])
    assert not same([dataset[1, 3]], [again])
    dataset.seed += 1
    assert not same([dataset[3]], [again])


def test_a_loader_without_an_order_takes_every_picture_once():
    batches = list(build_loader(ConceptPrompts(InMemory(*[[LEFT]] * 7), 8), 2))
    assert [len(batch.img_batch) for batch in batches] == [2, 2, 2, 1]
    seen = [i - 100 for batch in batches for i in batch.find_metadatas[0].original_image_id.unique().tolist()]
    assert seen == list(range(7))


def test_a_batch_is_pinned_whole(monkeypatch):
    """As on CUDA, where pinning makes the copy asynchronous; every tensor takes part, in every place."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1 if tensor.is_floating_point() else tensor)
    batch = next(iter(build_loader(ConceptPrompts(InMemory([LEFT, OTHER]), 8), 1)))
    pinned = _Loaded(batch).pin_memory().content
    assert type(pinned) is type(batch)
    floats = [
        (a, b)
        for a, b in zip(flat(batch), flat(pinned), strict=True)
        if isinstance(a, torch.Tensor) and a.is_floating_point()
    ]
    assert len(floats) >= 3
    assert all(torch.equal(a + 1, b) for a, b in floats)


def test_a_loader_leaves_torch_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first_batches(ConceptPrompts(InMemory(*[[LEFT]] * 4), 8), 3, 2)
    assert torch.equal(torch.rand(3), expected)


def test_loader_processes_decode_with_a_thread_each():
    """OpenCV starts one for each core, in each of the processes."""

    class Threads(InMemory):
        def load_image(self, i):
            raise DataError(f"{cv2.getNumThreads()} threads")

    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        with pytest.raises(DataError, match=r"^1 threads$"):
            next(iter(build_loader(ConceptPrompts(Threads([LEFT]), 8), 1, workers=1)))
    finally:
        cv2.setNumThreads(before)


def test_impossible_loaders_and_views_are_refused():
    dataset = ConceptPrompts(InMemory([LEFT], [LEFT], [LEFT]), 8)
    for options in ({"batch_size": 0}, {"batch_size": 1, "workers": -1}):
        with pytest.raises(ConfigError, match="impossible loader"):
            build_loader(dataset, **options)
    with pytest.raises(ConfigError, match=r"zoom is 0\.5"):
        Augmentation(zoom=0.5)
    with pytest.raises(ConfigError, match="flip is 2"):
        Augmentation(flip=2)
    with pytest.raises(ConfigError, match=r"in memory has not: \[9\]"):
        ConceptPrompts(InMemory([LEFT]), 8, PromptSampler([Category(9, "cow")]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_picture_stops_the_run_in_its_own_words(workers):
    loader = build_loader(ConceptPrompts(InMemory([LEFT], None), 8), batch_size=1, workers=workers)
    with pytest.raises(DataError) as raised:
        list(loader)
    assert str(raised.value) == "1.png: not a readable image"


def test_a_mask_of_another_size_is_an_error():
    wrong = Instance(1, rectangle(1, 1, 5, 5, height=H + 1))
    with pytest.raises(DataError, match=r"0\.png: a mask has the size \[41, 60\], the image \[40, 60\]"):
        ConceptPrompts(InMemory([wrong]), 8)[0]
