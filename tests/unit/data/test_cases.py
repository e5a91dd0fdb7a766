"""Inputs of the kinds that labelling tools export: preparing, training and evaluating see the same in them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from coco_case_table import CASES as VARIANTS
from coco_cases import write_case
from thrice import verdicts

from sam3_hyperet.cli.train import main as train
from sam3_hyperet.data.image_files import read_image
from sam3_hyperet.data.loading import ConceptPrompts
from sam3_hyperet.data.notes import data_notes, prompt_notes
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_run, open_split, prompt_sampler, read_split
from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.scoring.label_maps import read_names, score_label_folders

COCO = {"train": "train", "val": "val"}
MAPS = {"train": ["train", "trainannot"], "val": ["test", "testannot"]}
FROM_MASK = ", taken from the mask"

# case: how many instances each split has, what is dropped and repaired in "train"; or what the refusal says
CASES = {
    "c04-area-null": (4, {}, {"area that is no number of pixels" + FROM_MASK: 1}),
    "c05-segm-empty-one": (3, {"box without a mask": 1}, {}),
    "c07-one-degenerate-polygon": (4, {}, {"outline with a polygon of fewer than 3 points": 1}),
    "c11-bbox-empty-list": (4, {}, {"box without area" + FROM_MASK: 1}),
    "c12-bbox-xyxy": (4, {}, {"box that contradicts its mask" + FROM_MASK: 4}),
    "c15-roboflow-root-category": (4, {}, {}),
    "c16-iscrowd-all-polygons": "all of its 4 annotations with a mask are crowds .*data.crowds=instances",
    "c17-backslash": (4, {}, {}),
    "c28-underscores": (4, {}, {}),
    "c40-exif3": (4, {}, {}),
    "c44-one-class-one-picture": (1, {}, {}),
    "c60-roboflow-layout": "instances_train.json: no such file; found train/_annotations.coco.json",
    "c61-cvat-layout": "instances_train.json: no such file; found annotations/instances_default.json",
    "c65-xanylabeling-empty": (4, {"annotation without box and mask": 1}, {}),
    "c67-noun-phrase": (4, {}, {"noun phrase of an annotation, read as its category": 4}),
    "l06-binary-0-255": "no pixel in all label maps has one of the classes trachea; .*data.colors=.*trachea: 255",
    "l13-apple": (None, {}, {}),
    "l19-upper-PNG": (None, {}, {}),
}


@pytest.fixture(scope="session")
def shared_cases(shared_data) -> Path:
    folder = shared_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"no cases at {folder}")
    return folder


@pytest.fixture
def options(shared_cases):
    """A function from a case to its data options."""

    def of(case: str, **changes) -> DataOptions:
        root = str(shared_cases / case)
        if case.startswith("c"):
            return DataOptions(
                **{"name": "shop", "format": "coco", "root": root, "splits": COCO, "tune_images": 0} | changes
            )
        ignore = 255 if case.startswith("l06") else 11
        maps = {"format": "label_maps", "splits": MAPS, "names": "classes.txt", "ignore": ignore, "tune_images": 0}
        return DataOptions(**{"name": "shop", "root": root} | maps | changes)

    return of


def test_every_case_is_tested(shared_cases):
    others = {"p03-exif", "s19-pred"}
    assert {path.name for path in shared_cases.iterdir() if path.is_dir()} == CASES.keys() | others


@pytest.mark.parametrize("case", CASES)
def test_preparing_training_and_evaluating_agree(options, case):
    data, expected = options(case), CASES[case]
    found = verdicts(data)
    if isinstance(expected, str):
        for said in found:
            assert isinstance(said, str), said
            with pytest.raises(DataError, match=expected):
                raise DataError(said)
        return
    instances, dropped, repaired = expected
    assert found[0] == found[1] == found[2]
    if instances is not None:
        assert found[0] == [instances, instances]
    images = read_split(data, "train").images
    assert (images.dropped, images.adjusted) == (Counter(dropped), Counter(repaired))


def test_a_split_that_cannot_be_read_ends_a_run_before_its_model_is_built(shared_cases, tmp_path, monkeypatch):
    def build(*_, **__):
        raise AssertionError("the model was built")

    monkeypatch.setattr("sam3_hyperet.cli.train.open_adapted_model", build)
    root = shared_cases / "c04-area-null"
    options = ["data=coco", f"data.root={root}", "data.splits={train: train, val: gone}", f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(DataError, match=r"instances_gone\.json: no such file"):
        train([*options, "data.tune_images=0", "train.validate_every=0", "logger=none"])


@pytest.mark.parametrize("kind", ["sizes swapped", "sizes of a smaller copy"])
def test_sizes_are_checked_before_a_run_begins(tmp_path, kind):
    data = DataOptions("shop", "coco", str(write_case(tmp_path / "shop", VARIANTS[kind])), COCO)
    with pytest.raises(DataError, match=VARIANTS[kind].refused):
        open_run(data, tune=False, evaluate=False)


def asked(data: DataOptions, draws: int = 20) -> Counter[tuple[str, bool]]:
    """How often each text is prompted as present and as absent."""
    images = open_run(data, tune=False, evaluate=False).training
    dataset = ConceptPrompts(images, 64, prompt_sampler(data, images), None)
    found: Counter[tuple[str, bool]] = Counter()
    for epoch in range(draws):
        for i in range(len(dataset)):
            found.update((q.query_text, bool(q.object_ids_output)) for q in dataset[epoch, i].find_queries)
    return found


def test_crowds_of_a_brush_are_instances_by_option(options):
    data = options("c16-iscrowd-all-polygons", crowds="instances")
    assert verdicts(data) == [[4, 4]] * 3


def test_a_root_category_is_left_out(options):
    prompts = asked(options("c15-roboflow-root-category"))
    assert {name for name, _ in prompts} <= {"car", "house"}
    notes = data_notes(open_split(options("c15-roboflow-root-category"), "train").images)
    assert "shop: annotations by category: car 2, house 2" in notes
    assert sum("'objects' is left out: it is above all others and has no annotation" in line for line in notes) == 1
    assert not any("never taken as absent" in line for line in notes)


def test_images_that_all_show_every_concept_are_warned_of(options):
    for case, warned in (("c15-roboflow-root-category", True), ("c05-segm-empty-one", True)):
        images = open_split(options(case), "train").images
        assert bool(prompt_notes(images, prompt_sampler(options(case), images))) == warned


def test_names_are_prompted_without_underscores(options):
    assert ("traffic light", True) in asked(options("c28-underscores"))


def test_one_class_is_warned_of_and_absent_concepts_are_asked_by_option(options):
    data = options("c44-one-class-one-picture")
    images = open_split(data, "train").images
    (warning,) = prompt_notes(images, prompt_sampler(data, images))
    assert "data.absent_concepts" in warning
    assert set(asked(data)) == {("car", True)}
    more = replace(data, absent_concepts=("dog", "Car", "traffic_light"))
    assert set(asked(more)) == {("car", True), ("dog", False), ("traffic light", False)}
    assert prompt_notes(images, prompt_sampler(more, images)) == []


def test_exif_orientation_is_counted_and_applied_by_option(options, shared_cases):
    data = options("c40-exif3")
    images = open_split(data, "train").images
    assert "2 of 2 images looked at have an EXIF orientation" in data_notes(images)[-1]
    stored = np.asarray(images.load_image(0))
    upright = np.asarray(open_split(replace(data, exif="apply"), "train").images.load_image(0))
    assert np.array_equal(upright, stored[::-1, ::-1])  # orientation 3 is half a turn
    phone, right = (shared_cases / "p03-exif" / name for name in ("phone.jpg", "upright.jpg"))
    assert read_image(phone, upright=True).size == read_image(right).size


def test_every_label_map_is_scored(shared_cases):
    labels = shared_cases / "l19-upper-PNG"
    metrics = score_label_folders(
        labels / "testannot", shared_cases / "s19-pred", read_names(labels / "classes.txt", ignore=11)
    )
    assert metrics["images"] == 2
    assert metrics["mIoU"] < 1
