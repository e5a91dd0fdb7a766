"""Prompts: positives are there, negatives are not, hard ones are alike; trees."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3_hyperet.data.annotations import GRANULARITIES, Category
from sam3_hyperet.data.hierarchy import ConceptTree, read_tree, with_tree
from sam3_hyperet.data.prompts import PromptSampler, prompt_texts
from sam3_hyperet.errors import ConfigError, DataError

VEHICLE, BUILDING = 20, 21
TREE = (
    Category(1, "car", ("automobile",), "object", (VEHICLE,)),
    Category(2, "bus", ("coach", "screen"), "object", (VEHICLE,)),
    Category(3, "house", (), "object", (BUILDING,)),
    Category(4, "tower", ("screen",), "object", (BUILDING,)),
    Category(5, "wheel", (), "part", (1, 2)),
    Category(6, "roof", (), "part", (3,)),
    Category(VEHICLE, "vehicle", (), "group"),
    Category(BUILDING, "building", (), "group"),
)


@st.composite
def situations(draw):
    ids = draw(st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True))
    categories = []
    for position, number in enumerate(ids):
        parents = draw(st.lists(st.sampled_from([*ids[:position], 90, 91]), max_size=2, unique=True))
        synonyms = tuple(draw(st.lists(st.sampled_from(["ash", "oak", "elm"]), max_size=2)))
        granularity = draw(st.sampled_from(GRANULARITIES))
        categories.append(Category(number, f"n{number}", synonyms, granularity, tuple(parents)))
    state = draw(st.lists(st.sampled_from(["present", "unknown", "absent"]), min_size=len(ids), max_size=len(ids)))
    present = {i for i, s in zip(ids, state, strict=True) if s == "present"}
    unknown = {i for i, s in zip(ids, state, strict=True) if s == "unknown"}
    options = {
        "num_positives": draw(st.none() | st.integers(1, 6)),
        "num_negatives": draw(st.integers(0, 6)),
        "hard_negative_ratio": draw(st.floats(0, 1)),
        "synonyms": draw(st.floats(0, 1)),
        "weights": draw(st.none() | st.just(dict.fromkeys({c.granularity for c in categories}, 1.0))),
    }
    return categories, present, unknown, options, draw(st.integers(0, 2**32))


@given(situations())
def test_every_draw_is_true_and_within_bounds(situation):
    categories, present, unknown, options, seed = situation
    sampler = PromptSampler(categories, **options)
    prompts = sampler.sample(present, unknown, np.random.default_rng(seed))
    by_id = {c.id: c for c in categories}
    asked = [prompt.category_id for prompt in prompts]
    assert len(set(asked)) == len(asked)
    positives = [p for p in prompts if p.present]
    negatives = [p for p in prompts if not p.present]
    assert {p.category_id for p in positives} <= present
    assert not {p.category_id for p in negatives} & (present | unknown)
    tree = ConceptTree(categories)
    assert not {p.category_id for p in negatives} & {a for c in present for a in tree.implied(c)}
    said = {word for c in present for word in (by_id[c].name, *by_id[c].synonyms)}
    assert not {by_id[p.category_id].name for p in negatives} & said
    assert all(p.text in (by_id[p.category_id].name, *by_id[p.category_id].synonyms) for p in prompts)
    assert len(positives) <= (options["num_positives"] or 99)
    assert len(negatives) <= max(1, options["num_negatives"])
    assert prompts or not present
    assert sampler.sample(present, unknown, np.random.default_rng(seed)) == prompts


def test_all_positives_and_the_number_of_negatives_by_default():
    prompts = PromptSampler(TREE, num_negatives=3).sample({1, 3}, set(), np.random.default_rng(0))
    assert [p.category_id for p in prompts if p.present] in ([1, 3], [3, 1])
    assert len(prompts) == 5


def test_hard_negatives_are_siblings_first():
    sampler = PromptSampler(TREE, num_positives=0, num_negatives=1, hard_negative_ratio=1.0)
    rng = np.random.default_rng(0)
    assert {sampler.sample({1}, set(), rng)[0].category_id for _ in range(50)} == {2}
    easy = PromptSampler(TREE, num_positives=0, num_negatives=1, hard_negative_ratio=0.0)
    assert len({easy.sample({1}, set(), rng)[0].category_id for _ in range(200)}) > 4


def test_what_is_implied_is_never_a_negative():
    """A roof is a house's and a house a building; a wheel may be a car's or a bus's."""
    tree = ConceptTree(TREE)
    assert tree.implied(6) == {3, BUILDING}
    assert tree.implied(5) == frozenset()
    sampler = PromptSampler(TREE, num_negatives=8)
    drawn = {p.category_id for p in sampler.sample({6}, set(), np.random.default_rng(0)) if not p.present}
    assert drawn == {1, 2, 4, 5, VEHICLE}


def test_all_that_may_be_asked_for_is_listed():
    options = {"weights": {"part": 1.0, "object": 0.0}, "negative_weights": {"object": 1.0}}
    kinds = Category(1, "car", ("auto",)), Category(2, "wheel", ("tire",), "part"), Category(3, "all", (), "group")
    assert PromptSampler(kinds, **options, absent_concepts=["dog"]).texts == ("car", "wheel", "dog")
    assert PromptSampler(kinds, synonyms=0.1).texts == ("car", "auto", "wheel", "tire", "all")


def test_a_synonym_that_two_categories_bear_is_never_used():
    assert prompt_texts(TREE)[2] == ("bus", "coach")
    sampler = PromptSampler(TREE, num_negatives=8, synonyms=1.0)
    texts = {p.category_id: p.text for p in sampler.sample({1, 2}, set(), np.random.default_rng(0))}
    assert (texts[1], texts[2], texts[4]) == ("automobile", "coach", "tower")


def test_weights_give_each_granularity_its_share():
    sampler = PromptSampler(TREE, num_positives=1, num_negatives=0, weights={"group": 0.75, "object": 0.25})
    rng = np.random.default_rng(0)
    drawn = Counter(sampler.sample({1, 2, 3, 5, VEHICLE}, set(), rng)[0].category_id for _ in range(400))
    assert 5 not in drawn
    assert 0.68 < drawn[VEHICLE] / 400 < 0.82


def test_siblings_parents_and_children():
    tree = ConceptTree(TREE)
    assert tree.siblings(1) == {2}
    assert tree.children(VEHICLE) == (1, 2)
    assert tree.parents(5) == (1, 2)
    assert tree.siblings(99) == frozenset()


def test_a_tree_that_runs_in_a_circle_is_refused():
    with pytest.raises(DataError, match="circle"):
        ConceptTree([Category(1, "a", parents=(2,)), Category(2, "b", parents=(1,))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hard_negative_ratio": 1.5}, "hard_negative_ratio is 1.5"),
        ({"synonyms": float("nan")}, "synonyms is nan"),
        ({"num_negatives": -1}, "negatives is -1"),
        ({"num_positives": 0, "num_negatives": 0}, "both 0"),
        ({"weights": {"objects": 1.0}}, "'objects'.*group, object, part"),
        ({"weights": {"object": -1.0}}, "weight -1.0"),
        ({"weights": {"object": 0.0}}, "weight 0"),
        ({"weights": {"object": 1.0, "cars": 1.0}, "groups": {"cars": (1,)}}, "'car' is of both 'object' and 'cars'"),
        ({"weights": {"cars": 1.0}, "groups": {"cars": (1,)}, "absent_concepts": ("cat",)}, "none would be drawn"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PromptSampler(TREE, **options)


CONCEPT = {"id": 1, "name": "car", "granularity": "object", "parents": [], "synonyms": ["auto"]}


def test_a_tree_is_read_and_given_to_categories(tmp_path):
    path = tmp_path / "concepts.json"
    path.write_text(json.dumps([{**CONCEPT, "parents": [2]}, {"id": 2, "name": "vehicle", "granularity": "group"}]))
    tree = read_tree(path)
    assert tree[1] == Category(1, "car", ("auto",), "object", (2,))
    assert with_tree([Category(1, "car")], tree, path, path) == [tree[1]]
    with pytest.raises(DataError, match=r"category 1 is 'cat'.*calls it 'car'"):
        with_tree([Category(1, "cat")], tree, path, path)
    with pytest.raises(DataError, match=r"category 9 .* is not in"):
        with_tree([Category(9, "cat")], tree, path, path)


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        ({}, "expected a list"),
        ([1], r"concepts\[0\] is 1"),
        ([{"name": "car"}], "'id' is missing"),
        ([CONCEPT, CONCEPT], "concept 1: two concepts"),
        ([{**CONCEPT, "name": ""}], "concept 1: its name is ''"),
        ([{**CONCEPT, "granularity": "scene"}], "its granularity is 'scene'"),
        ([{**CONCEPT, "parents": [7]}], "its parent 7 is not in"),
        ([{**CONCEPT, "parents": 7}], "no list"),
        ([{**CONCEPT, "parents": [1]}], "circle"),
    ],
)
def test_a_wrong_tree_is_an_error(tmp_path, concepts, message):
    path = tmp_path / "concepts.json"
    path.write_text(json.dumps(concepts))
    with pytest.raises(DataError, match=message):
        read_tree(path)


def test_negative_weights_draws_absent_concepts_of_its_own_granularities():
    sampler = PromptSampler(
        TREE,
        num_positives=2,
        num_negatives=1,
        weights={"object": 1.0},
        negative_weights={"group": 1.0},
        exhaustive=True,
    )
    drawn = [p for seed in range(40) for p in sampler.sample({1, VEHICLE}, (), np.random.default_rng(seed))]
    assert {p.category_id for p in drawn if p.present} == {1}  # the vehicle there is no object
    assert {p.category_id for p in drawn if not p.present} == {BUILDING}


def test_what_a_present_concept_implies_is_a_negative_of_exhaustive_annotations_alone():
    def absent(exhaustive):
        sampler = PromptSampler(TREE, num_negatives=8, weights={"object": 1.0, "group": 1.0}, exhaustive=exhaustive)
        return {p.category_id for p in sampler.sample({1}, (), np.random.default_rng(0)) if not p.present}

    assert VEHICLE not in absent(False)
    assert VEHICLE in absent(True)


def test_negative_weights_alone_is_refused():
    with pytest.raises(ConfigError, match="negative_prompt_weights needs prompt_weights"):
        PromptSampler(TREE, negative_weights={"group": 1.0})


def test_weights_of_groups_and_of_absent_concepts():
    sampler = PromptSampler(
        TREE,
        num_positives=1,
        num_negatives=1,
        hard_negative_ratio=0.0,
        weights={"known": 0.25, "new": 0.75, "absent_concepts": 3.0},
        groups={"known": (1, 2), "new": (VEHICLE,), "unused": (5,)},
        absent_concepts=("cat", "cup"),
    )
    drawn = [sampler.sample({1, VEHICLE, 5}, (), np.random.default_rng(seed)) for seed in range(400)]
    present, absent = (Counter(prompts[place].text for prompts in drawn) for place in (0, 1))
    assert present.keys() == {"car", "vehicle"}
    assert 0.68 < present["vehicle"] / 400 < 0.82
    assert absent.keys() == {"bus", "cat", "cup"}  # none of the new ones is absent here
    assert 0.86 < (absent["cat"] + absent["cup"]) / 400 < 0.98
    assert PromptSampler(TREE, weights={"object": 1.0}, absent_concepts=("cat",)).absent_concepts == ("cat",)
