"""Consistency, containment and confusion in a concept tree, against the same on boolean masks, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from answers import drawn_prediction
from drawn_pictures import Region
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3_hyperet.data.hierarchy import Hierarchy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.metrics.evaluator import Prompt
from sam3_hyperet.evaluation.metrics.hierarchy import GranularityEvaluator, concepts
from sam3_hyperet.inference.prediction import PromptDetections

HEIGHT, WIDTH = 6, 8
TREE = Hierarchy(
    kinds={"vehicle": ("car", "bus"), "building": ("building", "house")},
    parts={"car": ("wheel", "door"), "bus": ("wheel",), "house": ("roof",)},
)
CATEGORIES = ("sky", "car", "bus", "building", "house", "wheel", "door", "roof")
FIGURES = ("consistency", "sibling_confusion", "cousin_confusion", "stranger_confusion")
VOCABULARY = (*CATEGORIES, *TREE.prompts(CATEGORIES), "automobile")


@dataclass(frozen=True)
class Category:
    id: int
    name: str


@dataclass(frozen=True)
class Size:
    height: int = HEIGHT
    width: int = WIDTH


class Drawn:
    """Pictures by the regions on them, (name, mask) or (name, mask, crowd)."""

    categories = tuple(Category(10 + i, name) for i, name in enumerate(CATEGORIES))

    def __init__(self, *pictures):
        self.pictures = [[Region(10 + CATEGORIES.index(name), *rest) for name, *rest in one] for one in pictures]

    def image(self, i):
        return Size()

    def instances(self, i):
        return self.pictures[i]


def block(x0, x1, y0=0, y1=HEIGHT):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def answer(detections=(), presence=1.0):
    """Detections are (mask, score with presence)."""
    return drawn_prediction(detections, HEIGHT, WIDTH, presence)


def prompts(vocabulary, tree):
    return [Prompt(text, concept=text in concepts(tree)) for text in vocabulary]


def measure(regions, answers, tree=TREE):
    """The evaluator, and its records of pictures with these regions and answers (by prompt; others are empty)."""
    evaluator = GranularityEvaluator(Drawn(*regions), prompts(VOCABULARY, tree), tree)
    records = []
    for i, of_picture in enumerate(answers):
        evaluator.start(i, {})
        for prompt in prompts(VOCABULARY, tree):
            evaluator.add(prompt, PromptDetections(of_picture.get(prompt.text, answer()), HEIGHT, WIDTH))
        records.append(evaluator.finish())
    return evaluator, records


def figures(regions, answers):
    evaluator, records = measure([regions], [answers])
    return {key.removeprefix("hierarchy/"): value for key, value in evaluator.evaluate(records).items()}


def test_a_perfect_answer():
    left, right, half = block(0, 4), block(4, 8), block(0, 2)
    found = figures(
        [("car", left), ("bus", right), ("wheel", half)],
        {"car": answer([(left, 0.9)]), "bus": answer([(right, 0.8)]), "wheel": answer([(half, 0.9)])}
        | {"vehicle": answer([(left, 0.9), (right, 0.7)])},
    )
    assert found["consistency"] == found["vehicle/consistency"] == 1
    assert found["parent_recall"] == found["vehicle/parent_recall"] == found["containment"] == 1
    assert found["sibling_confusion"] == found["cousin_confusion"] == found["unanswered"] == 0
    assert (found["pairs"], found["regions"]) == (1, 3)
    assert not any(key.startswith("building/") for key in found)


def test_a_parent_that_sees_half_of_its_kinds():
    found = figures(
        [("car", block(0, 4)), ("bus", block(4, 8))],
        {"car": answer([(block(0, 4), 0.9)]), "bus": answer([(block(4, 8), 0.9)])}
        | {"vehicle": answer([(block(0, 2), 0.9), (block(2, 4), 0.9), (block(4, 8), 0.49)])},
    )
    assert found["consistency"] == found["parent_recall"] == 0.5


@pytest.mark.parametrize(
    ("answers", "consistency", "unanswered"),
    [
        ({}, None, 1),
        ({"vehicle": answer([(block(0, 4), 0.9)])}, 0, 0),
        ({"car": answer([(block(0, 4), 0.9)])}, 0, 0),
        ({"car": answer([(block(0, 4), 0.4)])}, None, 1),
    ],
)
def test_where_nothing_is_found(answers, consistency, unanswered):
    found = figures([("car", block(0, 4))], answers)
    assert found.get("consistency") == consistency
    assert found["unanswered"] == unanswered
    assert "containment" not in found


def test_a_parent_that_is_a_class_itself():
    """Only a picture that shows another kind can tell: where all is "building", the prompt is compared with itself."""
    whole, left = block(0, 8), block(0, 4)
    building = {"building": answer([(left, 0.9)]), "house": answer([(block(4, 8), 0.9)])}
    assert figures([("building", whole)], building)["pairs"] == 0
    assert figures([("building", left), ("house", block(4, 8))], building)["consistency"] == 0.5


def test_what_is_annotated_as_the_parent_itself_is_ground_truth_too():
    tree = Hierarchy({"sky": ("car",)})
    regions = [("car", block(0, 4)), ("sky", block(4, 8))]
    evaluator, records = measure([regions], [{"sky": answer([(block(0, 4), 0.9)])}], tree)
    assert evaluator.evaluate(records)["hierarchy/parent_recall"] == 0.5


def test_a_score_includes_the_presence():
    for score, recall in ((0.49, 0), (0.51, 1)):
        claim = answer([(block(0, 4), score)], presence=0.6)
        assert figures([("car", block(0, 4))], {"vehicle": claim})["parent_recall"] == recall


def test_a_picture_of_a_crowd_shows_the_parent():
    found = figures([("car", block(0, 4), True)], {"vehicle": answer([(block(0, 4), 0.9)])})
    assert found["parent_recall"] == 1
    assert found["regions"] == 0


def test_a_sibling_claims_what_is_not_its_own():
    car, claim = block(0, 4), answer([(block(0, 3), 0.9)])
    assert figures([("car", car)], {"bus": claim})["sibling_confusion"] == 1
    assert figures([("car", car)], {"bus": answer([(block(0, 1), 0.9)])})["sibling_confusion"] == 0
    pieces = answer([(block(0, 1), 0.9), (block(1, 2), 0.9)])  # together half of the car
    assert figures([("car", car)], {"bus": pieces})["sibling_confusion"] == 1
    there = figures([("car", car), ("bus", block(0, 4, 0, 4))], {"bus": claim})  # a bus is there, after all
    assert there["sibling_confusion"] == 0
    crowd = figures([("car", block(0, 3)), ("bus", block(0, 8), True)], {"bus": claim})
    assert (crowd["sibling_confusion"], crowd["regions"]) == (0, 1)
    elsewhere = figures([("car", car), ("bus", block(6, 8))], {"bus": claim})
    assert elsewhere["sibling_confusion"] == elsewhere["vehicle/sibling_confusion"] == 0.5
    assert elsewhere["kinds/sibling_confusion"] == 0.5
    assert "parts/sibling_confusion" not in elsewhere


def test_cousins_and_levels():
    car, wheel = block(0, 4), block(0, 1)
    found = figures(
        [("car", car), ("wheel", wheel), ("roof", block(4, 8))],
        {"house": answer([(car, 0.9)]), "door": answer([(wheel, 0.9)]), "bus": answer([(wheel, 0.9)])},
    )
    assert found["cousin_confusion"] == found["kinds/cousin_confusion"] == 1  # of the car alone: parts have none
    assert found["parts/sibling_confusion"] == 1  # of the wheel: the roof has no siblings, a bus is none of its
    assert found["sibling_confusion"] == 0.5
    assert found["car/sibling_confusion"] == 1


def test_strangers():
    sky, roof = block(0, 4), answer([(block(0, 4), 0.9)])
    assert figures([("car", sky)], {"roof": roof})["stranger_confusion"] == 1
    assert figures([("house", sky)], {"roof": roof})["stranger_confusion"] == 0  # a part of it


def test_parts_outside_their_wholes():
    found = figures(
        [("wheel", block(0, 2))],
        {
            "wheel": answer([(block(0, 4), 0.9)]),
            "car": answer([(block(0, 1), 0.9)]),
            "bus": answer([(block(3, 8), 0.9)]),
        },
    )
    assert found["containment"] == 0.5


def test_a_tree_that_is_not_asked_for():
    with pytest.raises(ConfigError, match="no prompt names 'vehicle'"):
        GranularityEvaluator(Drawn(), prompts(CATEGORIES, TREE), TREE)


def test_the_confusion_matrix():
    car, bus = block(0, 4), block(4, 8)
    evaluator, records = measure(
        [[("car", car), ("bus", bus)], [("car", bus)]],
        [{"car": answer([(car, 0.9)]), "bus": answer([(car, 0.9)])}, {"bus": answer([(bus, 0.9)])}],
    )
    matrix, totals = evaluator.confusion(records)
    names = evaluator.children
    there = {(names[i], names[j]): int(matrix[i, j]) for i, j in zip(*matrix.nonzero(), strict=True)}
    assert there == {("car", "car"): 1, ("car", "bus"): 2}
    assert dict(zip(names, totals.tolist(), strict=True)) == dict.fromkeys(names, 0) | {"car": 2, "bus": 1}


blocks = st.builds(
    lambda x, y, w, h: block(x, x + w, y, y + h),
    *(st.integers(0, 5), st.integers(0, 3), st.integers(1, 5), st.integers(1, 4)),
)
pictures = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(CATEGORIES), blocks), max_size=5),
        st.dictionaries(
            st.sampled_from(VOCABULARY),
            st.lists(st.tuples(blocks, st.sampled_from([0.3, 0.6, 0.9])), max_size=3).map(answer),
        ),
    ),
    min_size=1,
    max_size=3,
)


def iou(a, b):
    return (a & b).sum() / max(1, (a | b).sum())


def reference(regions, answers):
    """The headline figures' numerators and denominators on one picture."""
    claims = {
        prompt: [m.numpy() > 0 for m, s in zip(a.mask_logits, a.scores, strict=True) if s >= 0.5]
        for prompt, a in answers.items()
    }
    claims = {prompt: claims.get(prompt, []) for prompt in VOCABULARY}
    nothing = np.zeros((HEIGHT, WIDTH), bool)
    masks = {prompt: np.any([nothing, *found], axis=0) for prompt, found in claims.items()}
    shown = {name for name, _ in regions}
    counts = {key: [] for key in FIGURES}
    for parent, children in TREE.kinds.items():
        below = np.any([masks[child] for child in children], axis=0)
        if shown & set(children) - {parent} and (masks[parent] | below).any():
            counts["consistency"].append(iou(masks[parent], below))
    for name, region in regions:
        kin = {"sibling": TREE.siblings(name), "cousin": TREE.cousins(name), "stranger": TREE.strangers(name)}
        for key, relatives in kin.items():
            if relatives and name in TREE.children:
                counts[f"{key}_confusion"].append(
                    any(
                        iou(found, region) >= 0.5
                        for other in relatives
                        for found in (*claims[other], masks[other])
                        if not any(iou(region, mask) >= 0.5 for kind, mask in regions if kind == other)
                    )
                )
    return counts


@settings(max_examples=60, deadline=None)
@given(pictures, st.data())
def test_against_boolean_masks(drawn, data):
    evaluator, records = measure([regions for regions, _ in drawn], [answers for _, answers in drawn])
    expected = [reference(*picture) for picture in drawn]
    weights = np.array(data.draw(st.lists(st.integers(1, 3), min_size=len(drawn), max_size=len(drawn))))
    found, headline = evaluator.evaluate(records), evaluator.headline(records)
    for key in FIGURES:
        once = [value for counts in expected for value in counts[key]]
        often = [value for counts, n in zip(expected, weights, strict=True) for value in counts[key] * int(n)]
        assert found.get(f"hierarchy/{key}") == (pytest.approx(np.mean(once)) if once else None)
        assert headline(weights).get(f"hierarchy/{key}") == (pytest.approx(np.mean(often)) if often else None)
        assert headline(np.ones_like(weights)).get(f"hierarchy/{key}") == found.get(f"hierarchy/{key}")


def test_records_can_be_stored_and_are_small(tmp_path):
    _, records = measure([[("car", block(0, 4))]], [{"bus": answer([(block(0, 4), 0.9)])}])
    np.savez(tmp_path / "record.npz", **records[0])
    with np.load(tmp_path / "record.npz", allow_pickle=False) as stored:
        assert all(np.array_equal(stored[key], value) for key, value in records[0].items())
    assert sum(array.nbytes for array in records[0].values()) < 100
