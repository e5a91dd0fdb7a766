"""Images that are annotated with a model's answers: which names and images, what is present, and the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise_tree import write_noise_tree

from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.data.loading import ConceptPrompts
from sam3_hyperet.data.prompts import PromptSampler
from sam3_hyperet.data.rehearsal import Answers, RehearsedImages
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.masks import encode_masks

NAMES = ["car", "tree", "person"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Seven images of apples and tins."""
    root = tmp_path_factory.mktemp("rehearsal") / "shop"
    categories = [{"id": 1, "name": "apple"}, {"id": 2, "name": "tin"}]
    write_noise_tree(root, categories, {"train": 7}, (64, 96), [8, 8, 40, 8, 40, 40])
    return read_coco(root / "annotations/instances_train.json", root / "train", name="shop")


def rle(top=0, height=8):
    mask = np.zeros((1, 64, 96), bool)
    mask[0, top : top + height, 10:30] = True
    return encode_masks(mask)[0]


def test_names_that_the_labels_ask_for_are_left_out_and_counted(shop):
    images = RehearsedImages(shop, ["car", "Apple", "tree_trunk", "car"], shop.categories)
    assert [category.name for category in images.categories] == ["car", "tree trunk"]
    assert images.remarks == ("1 name left out, for which shop has labels",)
    assert RehearsedImages(shop, ["car", "apple"], shop.categories[1:]).remarks == ()  # nobody asks for apples
    with pytest.raises(
        ConfigError, match=r"rehearsal\.names=\['tin'\]: training asks for all of them by the labels of"
    ):
        RehearsedImages(shop, ["tin"], shop.categories)
    with pytest.raises(ConfigError, match=r"rehearsal\.names is '', expected 1 to 200 printable characters"):
        RehearsedImages(shop, ["car", ""], shop.categories)


@given(most=st.integers(0, 9))
def test_images_are_evenly_spread_over_the_set(shop, most):
    images = RehearsedImages(shop, NAMES, shop.categories, most)
    whole = [shop.image(i).image_id for i in range(len(shop))]
    chosen = [images.image(i).image_id for i in range(len(images))]
    assert len(chosen) == min(most or 7, 7)
    assert chosen == sorted(set(chosen), key=whole.index)
    if len(chosen) > 1:
        assert (chosen[0], chosen[-1]) == (whole[0], whole[-1])
        gaps = np.diff([whole.index(one) for one in chosen])
        assert gaps.max() - gaps.min() <= 1


def test_an_image_shows_what_was_found_and_nothing_else(shop):
    images = RehearsedImages(shop, NAMES, shop.categories, 3)
    assert [images.present(i) for i in range(3)] == [frozenset()] * 3
    third = Answers.of([(3, rle(), 0.8), (2, rle(0, 0), 0.7)], {3})
    images.annotate({0: Answers(((1, rle(), 0.9), (1, rle(20), 0.6))), 1: Answers(unclear=frozenset({2})), 2: third})
    assert [images.present(i) for i in range(3)] == [{1}, frozenset(), {3}]
    assert [images.unlabelled(i) for i in range(3)] == [frozenset(), {2}, {2}]  # found with an empty mask
    assert [images.not_exhaustive(i) for i in range(3)] == [frozenset(), {2}, {2, 3}]
    assert [one.area for one in images.instances(0)] == [160, 160]
    assert images.lines(0.5) == [
        "rehearsal: of 3 names on 3 training images the base has found 3 objects, with a score from 0.5: "
        "car 2, person 1",
        "rehearsal: unclear, so not asked, is 22% of the names on an image, of lower scores alone",
        "rehearsal: found on no image, so at most asked for as absent: tree",
    ]
    assert RehearsedImages(shop, NAMES, shop.categories).lines(0.3)[-1] == (
        "rehearsal: warning: found on no image, so at most asked for as absent: car, tree, person"
    )


def test_prompts_are_the_names_alone_and_their_targets_the_answers(shop):
    """No apple, though every image shows one: what the set's own labels say is asked in its own prompts."""
    images = RehearsedImages(shop, NAMES, shop.categories, 2)
    images.annotate({0: Answers(((1, rle(), 0.9), (1, rle(20), 0.6)), frozenset({1})), 1: Answers(unclear={2})})
    dataset = ConceptPrompts(images, 64, PromptSampler(images.categories, num_positives=2, num_negatives=3))
    queries = [dataset[i].find_queries for i in range(2)]
    targets = [{one.query_text: len(one.object_ids_output) for one in of_image} for of_image in queries]
    assert targets == [{"car": 2, "tree": 0, "person": 0}, {"car": 0, "person": 0}]
    assert {one.query_text for one in queries[0] if not one.is_exhaustive} == {"car"}
    assert all(one.is_exhaustive for one in queries[1])


def test_the_file_is_one_of_coco_and_gives_the_answers_back(shop, tmp_path):
    """What is absent and what is unclear is in it, too, as LVIS has it."""
    images = RehearsedImages(shop, NAMES, shop.categories, 3)
    answers = {
        0: Answers(((1, rle(), 0.9), (3, rle(20), 0.625)), frozenset({1})),
        1: Answers(unclear=frozenset({2, 3})),
        2: Answers(((2, rle(4), 0.5),)),
    }
    images.annotate(answers)
    file = tmp_path / "rehearsal.json"
    file.write_text(json.dumps(images.to_coco()))
    assert images.from_coco(json.loads(file.read_text()), file) == answers
    opened = read_coco(file, shop.image(0).path.parent)  # by any tool that reads COCO
    for i in range(3):
        assert opened.image(i).path == images.image(i).path
        assert [one.area for one in opened.instances(i)] == [one.area for one in images.instances(i)]
        assert opened.unlabelled(i) == images.unlabelled(i)
        assert opened.not_exhaustive(i) == images.not_exhaustive(i)
    assert (opened.dropped, opened.adjusted) == ({}, {})
    for other in (RehearsedImages(shop, NAMES[:2], shop.categories, 3), RehearsedImages(shop, NAMES, shop.categories)):
        with pytest.raises(DataError, match=r"rehearsal\.json: it is of other images or names than this run's"):
            other.from_coco(json.loads(file.read_text()), file)
    broken = {**images.to_coco(), "annotations": [{"image_id": 1, "category_id": 1, "segmentation": {}}]}
    with pytest.raises(DataError, match=r"rehearsal\.json: annotations\[0\]: the key 'score' is missing"):
        images.from_coco(broken, file)
