"""Images that are annotated with a model's answers: which names and images, what is present, and the file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise_tree import write_noise_tree

from sam3_hyperet.data.answers import Answers
from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.data.loading import ConceptPrompts
from sam3_hyperet.data.options import DataOptions, RehearsalOptions
from sam3_hyperet.data.prompts import PromptSampler
from sam3_hyperet.data.rehearsal import RehearsedImages, open_rehearsal
from sam3_hyperet.data.sources import training_images
from sam3_hyperet.data.transforms import Augmentation
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


def rehearsed(images, names, most=0):
    return RehearsedImages(images, names, RehearsalOptions(tuple(names), images=most))


def opened(data, names, **options):
    return open_rehearsal(RehearsalOptions(names, **options), data, training_images(data, "train"))


@pytest.fixture
def options(shop):
    root = shop.image(0).path.parents[1]
    return DataOptions(name="shop", format="coco", root=str(root), splits={"train": "train"}, validation_fraction=0)


def test_names_that_training_asks_for_are_left_out_and_counted(options):
    images, _ = opened(options, ("car", "Apple", "tree_trunk", "Car", "tree trunk"))
    assert [category.name for category in images.categories] == ["car", "tree trunk"]
    assert images.remarks == ("1 name left out, which the prompts of shop ask for",)
    images, _ = opened(replace(options, prompts=("tin",)), ("car", "apple"))
    assert images.remarks == ()  # nobody asks for apples
    images, _ = opened(replace(options, absent_concepts=("boat", "car")), "car,person")
    assert [category.name for category in images.categories] == ["person"]
    with pytest.raises(
        ConfigError, match=r"rehearsal\.names=\('tin',\): training asks for all of them by the labels of"
    ):
        opened(options, ("tin",))
    with pytest.raises(ConfigError, match=r"rehearsal\.names is '', expected 1 to 200 printable characters"):
        opened(options, ("car", ""))
    with pytest.raises(
        ConfigError, match=r"training must see nothing of apple \(data\.unseen\); expected names of other"
    ):
        opened(replace(options, unseen=("apple",)), ("car", "apple"))


def test_the_options_of_other_names_are_not_those_of_the_rehearsed(options):
    groups = {"groups": {"fruit": ("apple",)}, "prompt_weights": {"fruit": 1.0}}
    groups |= {"negative_prompt_weights": {"fruit": 1.0, "absent_concepts": 1.0}, "absent_concepts": ("boat",)}
    _, of_rehearsal = opened(replace(options, **groups, zoom=1.5, num_negatives=4), ("car",), weight=0.5)
    assert of_rehearsal == replace(options, zoom=1.5, num_negatives=4, weight=0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weight": 2.0}, r"rehearsal\.weight=2\.0 decides nothing; expected rehearsal\.names with it"),
        ({"names": ("a",), "weight": 0}, r"rehearsal\.weight=0; expected a positive number"),
        ({"names": ("a",), "score_threshold": 0.05}, r"unclear_threshold=0\.1; expected 0\.05, which is .*, or less"),
    ],
)
def test_options_that_cannot_be(given, message):
    with pytest.raises(ConfigError, match=message):
        RehearsalOptions(**given)


@given(most=st.integers(0, 9))
def test_images_are_evenly_spread_over_the_set(shop, most):
    images = rehearsed(shop, NAMES, most)
    whole = [shop.image(i).image_id for i in range(len(shop))]
    chosen = [images.image(i).image_id for i in range(len(images))]
    assert len(chosen) == min(most or 7, 7)
    assert chosen == sorted(set(chosen), key=whole.index)
    if len(chosen) > 1:
        assert (chosen[0], chosen[-1]) == (whole[0], whole[-1])
        gaps = np.diff([whole.index(one) for one in chosen])
        assert gaps.max() - gaps.min() <= 1


def test_an_image_shows_what_was_found_and_nothing_else(shop):
    images = rehearsed(shop, NAMES, 3)
    assert [images.present(i) for i in range(3)] == [frozenset()] * 3
    third = Answers.of([(3, rle(), 0.8), (2, rle(0, 0), 0.7)], {3})
    images.annotate({0: Answers(((1, rle(), 0.9), (1, rle(20), 0.6))), 1: Answers(unclear=frozenset({2})), 2: third})
    assert [images.present(i) for i in range(3)] == [{1}, frozenset(), {3}]
    assert [images.unlabelled(i) for i in range(3)] == [frozenset(), {2}, {2}]  # found with an empty mask
    assert [images.not_exhaustive(i) for i in range(3)] == [frozenset(), {2}, {2, 3}]
    assert [one.area for one in images.instances(0)] == [160, 160]
    assert images.lines_of_training() == [
        "rehearsal: the base was asked for 3 names on 3 training images and found 3 objects that score 0.5 or more: "
        "car 2, person 1",
        "rehearsal: found nowhere, so never asked for as present: tree",
        "rehearsal: 22% of the questions had low scores alone for an answer and are not trained on",
    ]
    images.annotate({0: Answers(), 1: Answers(), 2: Answers(unclear=frozenset({1, 2, 3}))})
    assert images.lines_of_training()[1:] == [
        "rehearsal: warning: found nowhere, so never asked for as present: car, tree, person",
        "rehearsal: 33% of the questions had low scores alone for an answer and are not trained on",
        "rehearsal: 1 image left out, on which no answer was clear",
    ]


def test_an_image_without_a_clear_answer_is_left_out(shop):
    """It could not be prompted with anything; where there is no other one, nothing can be rehearsed."""
    images = rehearsed(shop, ["car"], 3)
    images.annotate({0: Answers(((1, rle(), 0.9),)), 1: Answers(unclear=frozenset({1})), 2: Answers()})
    dataset = ConceptPrompts(images, 64, PromptSampler(images.categories))
    assert [len(dataset[i].find_queries[0].object_ids_output) for i in range(len(dataset))] == [1, 0]
    unclear = dict.fromkeys(range(3), Answers(unclear=frozenset({1})))
    with pytest.raises(ConfigError, match=r"rehearsal\.names: every name has a score below .* on all of 3 images, so"):
        images.annotate(unclear)


def test_a_name_that_is_unclear_beside_its_label_is_not_absent_where_the_view_shows_no_label(shop):
    images = rehearsed(shop, NAMES, 1)
    images.annotate({0: Answers(((1, rle(0, 4), 0.9), (2, rle(0, 4), 0.9)), frozenset({1}))})
    dataset = ConceptPrompts(images, 64, None, Augmentation(flip=0.0, zoom=4.0))
    drawn = [
        {one.query_text: len(one.object_ids_output) for one in dataset[epoch, 0].find_queries} for epoch in range(40)
    ]
    cut_away = [one for one in drawn if one.get("tree") == 0]
    assert cut_away
    assert all("car" not in one for one in cut_away)


def test_prompts_are_the_names_alone_and_their_targets_the_answers(shop):
    """No apple, though every image shows one: what the set's own labels say is asked in its own prompts."""
    images = rehearsed(shop, NAMES, 2)
    images.annotate({0: Answers(((1, rle(), 0.9), (1, rle(20), 0.6)), frozenset({1})), 1: Answers(unclear={2})})
    dataset = ConceptPrompts(images, 64, PromptSampler(images.categories, num_positives=2, num_negatives=3))
    queries = [dataset[i].find_queries for i in range(2)]
    targets = [{one.query_text: len(one.object_ids_output) for one in of_image} for of_image in queries]
    assert targets == [{"car": 2, "tree": 0, "person": 0}, {"car": 0, "person": 0}]
    assert {one.query_text for one in queries[0] if not one.is_exhaustive} == {"car"}
    assert all(one.is_exhaustive for one in queries[1])


def test_the_file_is_one_of_coco_and_gives_the_answers_back(shop, tmp_path):
    """What is absent and what is unclear is in it, too, as LVIS has it."""
    images = rehearsed(shop, NAMES, 3)
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
    for other in (rehearsed(shop, NAMES[:2], 3), rehearsed(shop, NAMES)):
        with pytest.raises(DataError, match=r"rehearsal\.json: it is of other images or names than this run's"):
            other.from_coco(json.loads(file.read_text()), file)
    for annotation in ({"image_id": 1, "category_id": 1, "segmentation": {}}, {"image_id": 9}, 3):
        broken = {**images.to_coco(), "annotations": [annotation]}
        with pytest.raises(
            DataError, match=r"rehearsal\.json: not what a run has written \(.*Error: .*; expected the file"
        ):
            images.from_coco(broken, file)
