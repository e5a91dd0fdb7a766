"""What is asked of a split and what its metrics say, by predictors that know the truth, or nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import drawn_pictures
import numpy as np
import pytest
from drawn_pictures import CLASSES, Drawn, Knowing, Part

from sam3_hyperet.data.annotations import ImageInfo
from sam3_hyperet.data.supercategories import SupercategoryMaps, WithSupercategories, families
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.metrics.instances.instance_metrics import _pair_sums
from sam3_hyperet.evaluation.protocol import Protocol, evenly_spread
from sam3_hyperet.evaluation.runner import records_of
from sam3_hyperet.inference.prediction import PromptPrediction


def accuracy(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if not key.startswith("speed/")}


def test_the_truth_scores_one(evaluate, pictures, coco_file):
    metrics = evaluate(Knowing(pictures), Part(pictures, coco_file), Protocol(granularity=False))[2]
    for key in ("segm/AP", "bbox/AP", "segm/AP75", "part/segm/AP", "object/bbox/AP", "group/segm/AP"):
        assert metrics[key] == pytest.approx(1)
    for key in ("presence/accuracy_present", "presence/accuracy_absent", "presence/IL_MCC"):
        assert metrics[key] == pytest.approx(1)
    assert metrics["speed/images_per_s"] * 4 == pytest.approx(metrics["speed/prompts_per_s"])
    assert 0.01 < metrics["speed/peak_memory_gib"] < 1000


def test_what_is_wrong_scores_nothing(instances, pictures):
    metrics = instances(Knowing(pictures, 0.1, right=False))
    assert metrics["segm/AP"] == metrics["object/segm/AP"] == 0
    assert metrics["presence/accuracy_present"] == metrics["presence/accuracy_absent"] == 0
    assert metrics["presence/IL_MCC"] == pytest.approx(-1)


def test_a_category_of_crowds_alone_is_no_presence_pair(instances, pictures):
    """Picture 1 has a crowd of cars and no car: neither present nor absent."""
    metrics = instances(Knowing(pictures))
    counts = [metrics[f"presence/{name}"] for name in ("true_positives", "true_negatives")]
    assert counts == [6, 3 * 4 - 6 - 1]
    assert metrics["object/presence/true_positives"] + metrics["object/presence/true_negatives"] == 3 * 2 - 1
    assert metrics["part/presence/true_negatives"] == 1
    assert metrics["crowds"] == 1
    assert "object/presence/false_positives" in metrics


def test_groups_are_granularities_if_several_and_those_of_the_split(instances, pictures, coco_file):
    pictures.levels = False
    assert not [key for key in instances(Knowing(pictures)) if key.startswith(("object/", "part/", "group/"))]
    metrics = instances(Knowing(pictures), Part(pictures, coco_file, groups={"ov_novel": (8, 20)}))
    assert metrics["ov_novel/segm/AP"] == pytest.approx(1)
    assert metrics["ov_novel/presence/true_positives"] == 3


def test_categories_of_the_file_that_are_not_asked_for_do_not_count(instances, pictures, coco_file, monkeypatch):
    asked = {i: CLASSES[i] for i in (3, 20)}
    monkeypatch.setattr(drawn_pictures, "CLASSES", asked)
    pictures.regions = [[one for one in regions if one.category_id in asked] for regions in pictures.regions]
    metrics = instances(Knowing(pictures))
    assert metrics["segm/AP"] == pytest.approx(1)
    assert metrics["annotations"] == 4
    assert not [key for key in metrics if key.endswith("/car")]


def test_limit_takes_pictures_evenly_spread(instances, pictures):
    metrics = instances(Knowing(pictures), limit=2)
    assert pictures.opened == [0, 2]
    assert metrics["images"] == 2
    assert metrics["segm/AP"] == pytest.approx(1)  # picture 1's dog is not missed
    assert evenly_spread(range(3), 0) == evenly_spread(range(3), 9) == [0, 1, 2]
    assert evenly_spread(range(101), 3) == [0, 50, 100]
    assert evenly_spread(range(5), 1) == [0]
    for limit in range(1, 40):
        chosen = evenly_spread(range(40), limit)
        assert len(set(chosen)) == limit
        assert chosen == sorted(chosen)


def test_max_dets_keeps_the_best_detections(instances, pictures):
    metrics = instances(Knowing(pictures), max_dets=1)
    assert metrics["detections"] == 6  # of seven: one of the two cars is left out
    assert metrics["object/segm/AP"] < 1


def test_label_maps_of_the_truth_score_one(evaluate, pictures):
    split = Part(pictures, labels=pictures)
    _, records, metrics = evaluate(Knowing(pictures), split, Protocol(granularity=False), shown_maps=[2])
    for fusion in ("instance", "semantic", "fused"):
        assert metrics[f"{fusion}/mIoU"] == pytest.approx(1)
        assert metrics[f"{fusion}/unassigned"] == 0
        assert metrics[f"{fusion}/images"] == 3
    assert metrics["fused/labelled_pixels"] == 2 * 20 + 20 + 20 + 81 + 320 + 20
    order = list(CLASSES)
    expected = np.vectorize(lambda v: order.index(v) if v >= 0 else -1)(pictures.label_map(2))
    notes = records_of(records, "label_maps")
    assert np.array_equal(notes[2]["shown"], expected)
    assert "shown" not in notes[0]


def test_the_chosen_fusion_has_its_miou_twice(label_maps, pictures):
    options = {"score_threshold": 0.99}  # of which only the semantic map is left
    assert "mIoU" not in label_maps(Knowing(pictures), **options)
    assert label_maps(Knowing(pictures), fusion="instance", **options)["mIoU"] == 0
    assert label_maps(Knowing(pictures), fusion="fused", **options)["mIoU"] == pytest.approx(1)


def test_without_an_answer_every_pixel_is_unassigned_and_missed(label_maps, pictures):
    metrics = label_maps(Knowing(pictures, presence=0.4))
    for fusion in ("instance", "semantic", "fused"):
        assert metrics[f"{fusion}/mIoU"] == 0
        assert metrics[f"{fusion}/unassigned"] == 1


def test_the_background_is_what_no_class_takes_and_no_prompt_asks_for(evaluate, pictures):
    pictures.background = 8
    split = Part(pictures, labels=pictures)
    run, _, metrics = evaluate(Knowing(pictures), split, Protocol(granularity=False))
    assert run.task.vocabulary == ("wheel", "car", "vehicle")
    assert metrics["fused/mIoU"] == pytest.approx(1)
    nothing = evaluate(Knowing(pictures, presence=0.4), split, Protocol(granularity=False))[2]
    assert nothing["fused/unassigned"] == 0
    assert nothing["fused/IoU/dog"] == pytest.approx(81 / nothing["fused/labelled_pixels"])


@pytest.mark.parametrize("knows_kinds", [True, False])
def test_label_maps_are_scored_by_supercategory_and_by_group_as_well(evaluate, pictures, knows_kinds):
    members = families({"thing": ("wheel", "car"), "beast": ("dog",)}, pictures)
    parts_of = {"thing": ("wheel", "car"), "beast": ("dog",)} if knows_kinds else {"thing": (), "beast": ()}

    class KnowingKinds(Knowing):
        def answer(self, i, name):
            names = {category.id: category.name for category in pictures.categories}
            shown = self.pictures = Drawn([list(regions) for regions in pictures.regions])
            wanted = parts_of.get(name, (name,))
            shown.regions = [
                [replace(one, category_id=7) for one in regions if names[one.category_id] in wanted]
                for regions in pictures.regions
            ]
            return super().answer(i, "car")

    groups = {"known": (3, 7), "held_out": (21,), "mixed": (3, 21)}
    images, merged = WithSupercategories(pictures, members), SupercategoryMaps(pictures, members)
    images.load_image = pictures.load_image
    split = Part(images, labels=pictures, merged=merged, groups=groups)
    run, _, metrics = evaluate(KnowingKinds(pictures), split, Protocol(granularity=False, fusion="fused"))
    assert run.task.vocabulary == ("wheel", "car", "dog", "vehicle", "thing", "beast")
    assert metrics["fused/mIoU"] == metrics["known/fused/mIoU"] == metrics["known/mIoU"] == pytest.approx(1)
    assert metrics["held_out/mIoU"] == metrics["supercategories/fused/IoU/thing"] == pytest.approx(float(knows_kinds))
    assert metrics["supercategories/fused/IoU/vehicle"] == pytest.approx(1)
    assert metrics["supercategories/fused/mIoU"] == pytest.approx(1 if knows_kinds else 1 / 3)
    assert not [key for key in metrics if key.startswith("mixed")]  # of two levels, which no label map has


def test_the_score_threshold_is_for_instances_alone(label_maps, pictures):
    metrics = label_maps(Knowing(pictures), score_threshold=0.99)
    assert (metrics["instance/mIoU"], metrics["instance/unassigned"]) == (0, 1)
    assert metrics["semantic/mIoU"] == metrics["fused/mIoU"] == pytest.approx(1)


class Unsure(Knowing):
    """Knows the truth, each pixel of it by a probability of 0.73."""

    def answer(self, i, name):
        sure = super().answer(i, name)
        logits = sure.mask_logits / 20, sure.semantic_logits / 20
        return PromptPrediction(sure.query_scores, sure.boxes, *logits, sure.presence)


@pytest.mark.parametrize(("threshold", "expected"), [(0.7, 1), (0.8, 0)])
def test_the_mask_threshold_is_for_masks_and_label_maps(instances, label_maps, pictures, threshold, expected):
    found = instances(Unsure(pictures), mask_threshold=threshold)
    assert (found["bbox/AP"], found["segm/AP"]) == pytest.approx((1, expected))
    assert label_maps(Unsure(pictures), mask_threshold=threshold)["fused/mIoU"] == pytest.approx(expected)


def test_label_maps_are_needed_where_they_are_scored(label_maps, pictures):
    pictures.label_map = lambda i: None
    with pytest.raises(ConfigError, match="image 100 has no label map"):
        label_maps(Knowing(pictures))


def test_instances_and_label_maps_share_the_picture_and_each_prompt(evaluate, pictures, coco_file):
    """Both are scored as alone, of one encoding of a picture and one question a name."""
    knowing = Knowing(pictures)
    both = evaluate(knowing, Part(pictures, coco_file, pictures), Protocol(granularity=False))[2]
    assert knowing.asked == [0, 1, 2]
    assert knowing.vocabulary == tuple(name for name, _ in CLASSES.values())
    for alone in (Part(pictures, coco_file), Part(pictures, labels=pictures)):
        metrics = accuracy(evaluate(Knowing(pictures), alone, Protocol(granularity=False))[2])
        assert metrics == {key: both[key] for key in metrics}


def test_instances_and_label_maps_of_other_pictures_are_refused(evaluate, pictures, coco_file):
    others = Drawn(pictures.regions[1:])
    others.image = lambda i: ImageInfo(7, Path("other.png"), 24, 32)
    with pytest.raises(DataError, match=r"image 0: its instances are those of 0.png, its label map .* other.png"):
        evaluate(Knowing(pictures), Part(pictures, coco_file, others), Protocol())
    with pytest.raises(ConfigError, match="without instances and without label maps"):
        evaluate(Knowing(pictures), Part(pictures), Protocol())


def test_synonyms_count_by_their_best(evaluate, pictures):
    """Each class by a name that never answers and one that does: the second alone decides."""

    class Forgetful(Knowing):
        def answer(self, i, name):
            found = super().answer(i, name)
            return found if self.vocabulary_left.pop() else found.top(0)

        def predict(self, encoded, prompts=None, exemplars=None):
            self.vocabulary_left = [k % 2 == 1 for k in range(len(self.vocabulary))][::-1]
            yield from super().predict(encoded, prompts)

    texts = {i: (f"{name}'s other name", name) for i, (name, _) in CLASSES.items()}
    split = Part(pictures, labels=pictures)
    _, _, metrics = evaluate(Forgetful(pictures), split, Protocol(granularity=False), texts=texts)
    assert metrics["instance/mIoU"] == metrics["fused/mIoU"] == pytest.approx(1)
    assert metrics["speed/prompts_per_s"] == pytest.approx(8 * metrics["speed/images_per_s"])


def test_an_image_is_not_asked_for_what_is_unknown_of_it(evaluate, pictures, coco_file, monkeypatch):
    """As in LVIS and SA-Co. A prompt that label maps need is asked all the same."""
    dog, car = 8, 7
    monkeypatch.setattr(pictures, "unlabelled", lambda i: frozenset([dog, car] if i == 2 else []), raising=False)
    asked = []

    class Asked(Knowing):
        def answer(self, i, name):
            asked.append((i, name))
            return super().answer(i, name)

    protocol = Protocol(granularity=False)
    _, records, metrics = evaluate(Asked(pictures), Part(pictures, coco_file), protocol)
    names = [name for name, _ in CLASSES.values()]
    assert asked == [(i, name) for i in range(3) for name in names if i < 2 or name not in ("dog", "car")]
    assert metrics["speed/prompts_per_s"] == pytest.approx(10 / 3 * metrics["speed/images_per_s"])
    assert records[2]["presence/truth"].tolist() == [1, 2, 2, 1]
    assert records[2]["instances/unknown"].tolist() == [False, True, True, False]
    ours = [{key.removeprefix("instances/"): value for key, value in record.items()} for record in records]
    shown, invented = (_pair_sums(ours, "segm", range(4))[:, n].tolist() for n in (-4, -1))
    assert (shown, invented) == ([3, 1, 2], [1, 3, 0])  # pairs that are there and found; absent and not claimed
    asked.clear()
    evaluate(Asked(pictures), Part(pictures, coco_file, pictures), protocol)
    assert len(asked) == 12


def test_a_category_that_no_image_shows_is_a_presence_pair_where_an_image_says_so(
    evaluate, pictures, coco_file, monkeypatch
):
    monkeypatch.setattr(pictures, "counts", {}, raising=False)

    def truths():
        records = evaluate(Knowing(pictures), Part(pictures, coco_file), Protocol(granularity=False))[1]
        return [record["presence/truth"].tolist() for record in records]

    assert truths() == [[1, 1, 2, 1], [2, 2, 1, 2], [1, 2, 2, 1]]
    monkeypatch.setattr(pictures, "stated_absent", frozenset(CLASSES), raising=False)
    assert truths() == [[1, 1, 0, 1], [0, 2, 1, 0], [1, 0, 0, 1]]  # image 1 has a crowd of cars


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_dets": 0}, "protocol.max_dets=0; expected an integer from 1"),
        ({"max_dets": 300}, "protocol.max_dets=300; expected at most 100, which is all that COCO's AP ranks"),
        ({"prompts_at_once": "many"}, "protocol.prompts_at_once='many'; expected an integer"),
        ({"min_score": -0.1}, "protocol.min_score=-0.1; expected a probability"),
        ({"workers": -1}, "protocol.workers=-1"),
        ({"bootstrap": 0.5}, "protocol.bootstrap=0.5; expected an integer from 0"),
        ({"fusion": "mean"}, "protocol.fusion='mean' is unknown; expected one of instance, semantic, fused"),
        ({"precision": "16"}, "protocol.precision='16' is unknown; expected one of auto, 32-true"),
        (
            {"compare_exact": 3},
            "protocol.compare_exact=3, but protocol.min_score=0 is exact already; expected protocol.compare_exact=0",
        ),
        ({"recall": 0.9}, "protocol.recall=0.9 is of the prompts with a detection from protocol.min_score, which is 0"),
        ({"limit": -1}, "protocol.limit=-1; expected an integer from 0"),
        ({"limit": True}, "protocol.limit=True"),
        ({"examples": -2}, "protocol.examples=-2"),
        ({"mask_threshold": 1.5}, "protocol.mask_threshold=1.5; expected a probability"),
        ({"presence_threshold": None}, "protocol.presence_threshold=None; expected a probability"),
        ({"score_threshold": float("nan")}, "protocol.score_threshold=nan"),
    ],
)
def test_impossible_protocols_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Protocol(**options)
