"""What is kept of the base's own answers: 1 for the base itself, and nothing of it is in what labels are scored by."""

from __future__ import annotations

from dataclasses import replace

import pytest
from answers import drawn_prediction
from drawn_pictures import HEIGHT, WIDTH, Drawn, Knowing, Part, Region, block
from hypothesis import given
from hypothesis import strategies as st

from sam3_hyperet.data.annotations import Category
from sam3_hyperet.data.answers import AnsweredImages, Answers
from sam3_hyperet.data.options import DataOptions, KeptOptions
from sam3_hyperet.data.sources import Split
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.kept import annotate, asking_run, kept_lines, open_kept
from sam3_hyperet.evaluation.metrics.evaluator import Prompt
from sam3_hyperet.evaluation.metrics.instances.instance_evaluator import InstanceEvaluator
from sam3_hyperet.evaluation.metrics.kept import AnswerEvaluator, KeptEvaluator
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.task import EvalTask
from sam3_hyperet.masks import encode_masks

NAMES = ("car", "wheel")
OPTIONS = KeptOptions(NAMES)


class Dogs(Drawn):
    """Of what the pictures show, dogs alone are annotated."""

    @property
    def categories(self) -> tuple[Category, ...]:
        return (Category(8, "dog"),)

    def instances(self, i):
        return tuple(one for one in super().instances(i) if one.category_id == 8)


@pytest.fixture
def dogs(pictures, tmp_path):
    """A split in which cars, wheels and vehicles have no labels; three pictures, in this order."""
    return Part(Dogs(pictures.regions), tmp_path / "dogs.json")


def by_base(pictures, positions=range(3), unclear=frozenset()):
    """Answers that are right about cars (1) and wheels (2)."""
    ids, found = {7: 1, 3: 2}, {}
    for i in positions:
        shown = [one for one in pictures.regions[i] if one.category_id in ids and not one.crowd]
        labels = tuple((ids[one.category_id], encode_masks(one.mask[None])[0], 0.9) for one in shown)
        found[i] = Answers(labels, frozenset(unclear) if i else frozenset())
    return found


@pytest.fixture
def kept(dogs, pictures):
    images = AnsweredImages(dogs.images, NAMES, OPTIONS)
    images.annotate(by_base(pictures))
    return images


def lines_of(dogs, kept):
    """What is said of what the base has found."""
    split = Split("val", dogs.images, None, None)
    return kept_lines(EvalTask(split, Protocol(granularity=False), range(3), kept=kept))


def of_group(metrics):
    return {key.removeprefix("kept/"): value for key, value in metrics.items() if key.startswith("kept/")}


def test_who_answers_as_the_base_keeps_all_and_who_finds_other_things_nothing(evaluate, dogs, pictures, kept):
    protocol = Protocol(granularity=False)
    same, other = (
        of_group(evaluate(Knowing(pictures, right=right), dogs, protocol, kept=kept)[2]) for right in (True, False)
    )
    assert (same["segm/AP"], same["segm/AP/car"], same["segm/AP/wheel"]) == (1, 1, 1)
    assert (same["presence/accuracy_present"], same["presence/accuracy_absent"]) == (1, 1)
    assert other["segm/AP"] == 0
    silent = of_group(evaluate(Knowing(pictures, presence=0.2), dogs, protocol, kept=kept)[2])
    assert (silent["presence/accuracy_present"], silent["presence/accuracy_absent"]) == (0, 0)
    assert not [key for key in same if "bbox" in key]


def test_what_labels_are_scored_by_stays_what_it_was(evaluate, dogs, pictures, kept):
    protocol = Protocol(granularity=False)
    with_kept, without = (
        evaluate(Knowing(pictures, presence=0.8), dogs, protocol, **given)[2] for given in ({"kept": kept}, {})
    )
    ours = {key: value for key, value in with_kept.items() if not key.startswith(("kept/", "speed/"))}
    assert ours == {key: value for key, value in without.items() if "speed/" not in key}
    assert ours["segm/AP"] == 1


def test_what_the_base_was_unsure_of_does_not_count(evaluate, dogs, pictures):
    """Nor is it asked: a name that has low scores alone, and images that the base was not asked about."""
    images = AnsweredImages(dogs.images, NAMES, OPTIONS)
    images.annotate(by_base(pictures, [0, 1], unclear={1, 2}))
    run, _, metrics = evaluate(Knowing(pictures, right=False), dogs, Protocol(granularity=False), kept=images)
    assert [[run.task.vocabulary[k] for k in run.task.asked(i)] for i in range(3)] == [
        ["dog", "car", "wheel"],
        ["dog"],
        ["dog"],
    ]
    assert of_group(metrics)["segm/AP"] == 0  # of the first image
    nothing = AnsweredImages(dogs.images, NAMES, OPTIONS)
    nothing.annotate({i: Answers(unclear=frozenset({1, 2})) for i in range(3)})
    metrics = of_group(evaluate(Knowing(pictures), dogs, Protocol(granularity=False), kept=nothing)[2])
    assert metrics["segm/AP"] == -1
    assert "presence/accuracy_absent" not in metrics
    assert lines_of(dogs, nothing) == [
        "kept: the base was asked for 2 names on 3 val images and found 0 objects that score 0.5 or more: nothing",
        "kept: warning: unsure of on every image: car, wheel",
        "kept: 100% of the questions had low scores alone for an answer and are not measured",
    ]
    images.annotate({0: Answers(unclear=frozenset({1})), 1: Answers(unclear=frozenset({1}))})
    assert lines_of(dogs, images)[1:3] == [
        "kept: warning: found nowhere, so only their absence is measured: wheel",
        "kept: warning: unsure of on every image: car",
    ]


def test_a_prompt_that_stands_for_more_is_asked_all_the_same(pictures, dogs):
    """A class of a label map of the same name."""
    images = AnsweredImages(dogs.images, NAMES, OPTIONS)
    images.annotate({i: Answers(unclear=frozenset({1, 2})) for i in range(3)})
    labels = replace(dogs, labels=pictures)
    task = EvalTask(labels, Protocol(granularity=False), range(3), kept=images)
    assert [task.vocabulary[k] for k in task.asked(0)] == ["dog", "wheel", "car", "vehicle"]
    assert {prompt.text: prompt.kept_id for prompt in task.prompts} == {
        "dog": None,
        "wheel": 2,
        "car": 1,
        "vehicle": None,
    }


@st.composite
def detections(draw):
    """Scores, presence included, and places of the masks of a prompt on an image; and the presence."""
    place, scores = st.tuples(st.integers(0, 20), st.integers(0, 15)), [0.02, 0.09, 0.11, 0.3, 0.49, 0.51, 0.7, 0.95]
    return draw(st.lists(st.tuples(place, st.sampled_from(scores)), max_size=5)), draw(st.sampled_from([1.0, 0.96]))


@given(st.lists(st.tuples(detections(), detections()), min_size=1, max_size=4))
def test_the_base_keeps_all_of_its_own_answers(answers):
    """Whatever its scores are: recorded, made to annotations, and scored by them, it has an AP of 1."""
    whole = Drawn([[]] * len(answers))
    images = AnsweredImages(whole, NAMES, OPTIONS)
    asked = [Prompt(name, category_id=k) for k, name in enumerate(NAMES, start=1)]
    scored = [Prompt(name, kept_id=k) for k, name in enumerate(NAMES, start=1)]
    drawn = [[([(block(*at), score) for at, score in one], presence) for one, presence in two] for two in answers]
    predictions = [[drawn_prediction(one, HEIGHT, WIDTH, presence) for one, presence in two] for two in drawn]

    def records(evaluator, prompts):
        found = []
        for i, of_image in enumerate(predictions):
            evaluator.start(i, {})
            for prompt, prediction in zip(prompts, of_image, strict=True):
                evaluator.add(prompt, prediction.detections(HEIGHT, WIDTH))
            found.append(evaluator.finish())
        return found

    asking = AnswerEvaluator(images)
    images.annotate(asking.answers(range(len(answers)), records(asking, asked)))
    for i, of_image in enumerate(answers):
        for k, (found, _) in enumerate(of_image, start=1):
            assert (k in images.present(i)) == any(score > 0.5 for _, score in found)
            assert (k in images.not_exhaustive(i)) == any(0.1 < score < 0.5 for _, score in found)
    evaluator = KeptEvaluator(InstanceEvaluator(images, [1, 2], {}, Protocol()))
    found = evaluator.evaluate(records(evaluator, scored))
    is_any = any(images.present(i) for i in range(len(answers)))
    assert found["kept/segm/AP"] == (pytest.approx(1.0) if is_any else -1)


def test_names_that_have_labels_are_left_out_and_counted(dogs):
    said = []
    images = open_kept(KeptOptions(("Dog", "car", "tow_bar")), dogs, Protocol(), say=said.append)
    assert [one.name for one in images.categories] == ["car", "tow bar"]
    assert said == ["kept: 1 name with labels in drawn left out"]
    assert open_kept(KeptOptions(()), dogs, Protocol(), of_runs=["car"], say=said.append) is None
    assert open_kept(KeptOptions(), dogs, Protocol(), say=said.append) is None
    assert len(said) == 1
    images = open_kept(KeptOptions(), dogs, Protocol(), of_runs=["car", "car", "dog"], say=said.append)
    assert [one.name for one in images.categories] == ["car"]


@pytest.mark.parametrize(
    ("names", "protocol", "fault"),
    [
        (("dog",), {}, "all of the names have labels in drawn, by which they are scored"),
        (("car",), {"present_only": True}, r"T, present concepts alone \(AP⁺\) leaves out what is absent, and"),
    ],
)
def test_names_that_cannot_be_measured_are_an_error_if_somebody_asked_for_them(dogs, names, protocol, fault):
    protocol, said = Protocol(**protocol), []
    with pytest.raises(ConfigError, match=rf"kept\.names=\('\w+',\): {fault}.*; expected .*, or kept\.names=\[\]"):
        open_kept(KeptOptions(names), dogs, protocol, say=said.append)
    assert open_kept(KeptOptions(), dogs, protocol, of_runs=names, say=said.append) is None
    assert len(said) == 1
    assert said[0].startswith("kept: nothing is measured of the names of the run: ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": (), "score_threshold": 0.6}, r"kept\.score_threshold=0\.6 decides nothing; expected kept\.names w"),
        ({"names": (), "images": 3}, r"kept\.images=3 decides nothing; expected kept\.names with it"),
        ({"names": ("a",), "unclear_threshold": 0.7}, r"kept\.unclear_threshold=0\.7; expected 0\.5, which is kept\.s"),
    ],
)
def test_options_that_cannot_be(given, message):
    with pytest.raises(ConfigError, match=message):
        KeptOptions(**given)


def test_the_base_is_asked_about_some_of_the_images(dogs, pictures, monkeypatch, tmp_path):
    """Evenly spread over those that are scored, by the exact protocol."""
    from sam3_hyperet.evaluation import kept as module
    from sam3_hyperet.evaluation.record_store import RecordStore
    from sam3_hyperet.evaluation.runner import ModelRun, record_images

    opened = []

    def open_run(base, task, store):
        opened.append(task)
        predictor = Knowing(pictures)
        predictor.vocabulary = task.vocabulary
        return ModelRun(base, predictor, task, {}, store, task.positions)

    monkeypatch.setattr(module, "open_run", open_run)
    images = AnsweredImages(dogs.images, NAMES, replace(OPTIONS, images=2))
    split = Split("val", dogs.images, None, None)
    task = EvalTask(split, Protocol(min_score=0.3, recall=0.9, granularity=False), range(3), kept=images)
    run = asking_run("base", task, RecordStore(tmp_path / "asked"))
    record_images([run], [run.positions], images.load_image, workers=0)
    annotate(images, run, run.store.read_all(run.positions))
    assert (run.positions, opened[0].vocabulary) == ((0, 2), NAMES)
    assert (opened[0].protocol.min_score, opened[0].protocol.recall) == (0.0, 1.0)
    assert [images.present(i) for i in range(3)] == [{1, 2}, frozenset(), {2}]
    assert images.unlabelled(1) == {1, 2}
    assert [one.area for one in images.instances(0)] == [20, 20, 20]
    assert Region(3, block(5, 15)).mask.sum() == images.instances(2)[0].area


def test_a_group_of_that_name_is_refused():
    with pytest.raises(ConfigError, match=r"data\.groups\.kept: metrics of this name have .*; expected another name"):
        DataOptions(name="shop", format="coco", root="x", splits={}, groups={"kept": ("car",)})


def test_nothing_is_made_for_names_that_are_left_open(dogs, monkeypatch):
    """On the images that the base was not asked about, which may be most of them."""
    from sam3_hyperet.evaluation.metrics.instances import instance_matches as module

    made, rectangle = [], module.rectangle
    monkeypatch.setattr(module, "rectangle", lambda *given: (made.append(given), rectangle(*given))[1])
    images = AnsweredImages(dogs.images, NAMES, OPTIONS)
    images.annotate({0: Answers(((1, encode_masks(block(2, 2)[None])[0], 0.9),), frozenset({1, 2}))})
    evaluator = InstanceEvaluator(images, [1, 2], {}, Protocol())
    for i in range(3):
        evaluator.start(i, {})
        record = evaluator.finish()
        assert record["unknown"].tolist() == [True, True]
        assert record["positives"][:, 0].tolist() == [i == 0, 0]  # for AP, the car counts
    assert made == [((0, 0, WIDTH, HEIGHT), HEIGHT, WIDTH)]  # of cars in the first, where there may be more
