"""scenes: deterministic, exactly annotated, and readable as COCO instances and as label maps."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.scenes import dataset as scenes
from sam3_hyperet.scenes import drawing as scene_drawing
from sam3_hyperet.scenes.concepts import CONCEPTS, GROUPS, OBJECTS, PARTS, STUFF, THINGS
from sam3_hyperet.scenes.dataset import label_map, scene, write_scenes

COUNT = 300


@pytest.fixture(scope="module")
def drawn():
    return [scene(0, "train", index) for index in range(1, COUNT + 1)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), images=12, seed=3)


def of(instances, granularity):
    return [instance for instance in instances if instance.granularity == granularity]


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def test_tree_is_consistent():
    by_id = {concept.id: concept for concept in CONCEPTS.values()}
    assert sorted(by_id) == list(range(1, len(OBJECTS) + len(PARTS) + len(GROUPS) + 1))
    assert [CONCEPTS[name].id for name in OBJECTS] == list(range(1, len(OBJECTS) + 1))
    assert set(THINGS) | set(STUFF) == set(OBJECTS)
    above = {"part": "object", "object": "group"}
    for concept in by_id.values():
        assert {by_id[parent].granularity for parent in concept.parents} <= {above.get(concept.granularity)}
        assert (concept.granularity == "part") <= bool(concept.parents)
    phrases = [phrase for concept in by_id.values() for phrase in (concept.name, *concept.synonyms)]
    assert len(set(phrases)) == len(phrases)
    assert all(phrase == phrase.lower() for phrase in phrases)


def test_a_scene_depends_on_its_arguments_alone(drawn):
    picture, instances = drawn[6]
    again, same = scene(0, "train", 7)
    np.testing.assert_array_equal(again, picture)
    assert [(i.concept, i.owner, i.color) for i in same] == [(i.concept, i.owner, i.color) for i in instances]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(same, instances, strict=True))
    for other in (scene(1, "train", 7), scene(0, "val", 7), scene(0, "train", 8)):
        assert not np.array_equal(other[0], picture)


def test_objects_are_disjoint_and_of_a_fair_size(drawn):
    for picture, instances in drawn:
        assert picture.shape == (128, 128, 3)
        assert picture.dtype == np.uint8
        objects = of(instances, "object")
        assert 1 <= sum(instance.concept in THINGS for instance in objects) <= 4
        assert np.sum([instance.mask for instance in objects], axis=0).max() == 1
        for instance in objects:
            assert instance.mask.sum() >= scene_drawing.MIN_OBJECT_SHARE * instance.mask.size
            assert (instance.color is not None) == (instance.concept in THINGS)


def test_parts_are_disjoint_and_lie_within_a_fitting_object(drawn):
    for _, instances in drawn:
        parts = of(instances, "part")
        if parts:
            assert np.sum([part.mask for part in parts], axis=0).max() == 1
        for part in parts:
            owner = instances[part.owner]
            assert owner.granularity == "object"
            assert CONCEPTS[owner.concept].id in CONCEPTS[part.concept].parents
            assert not (part.mask & ~owner.mask).any()
            assert part.mask.sum() >= scene_drawing.MIN_PART_PIXELS


def test_groups_are_their_objects_under_another_name(drawn):
    for _, instances in drawn:
        expected = [
            (index, CONCEPTS[instance.concept].parents[0])
            for index, instance in enumerate(of(instances, "object"))
            if CONCEPTS[instance.concept].parents
        ]
        groups = of(instances, "group")
        assert [(group.owner, CONCEPTS[group.concept].id) for group in groups] == expected
        assert all(np.array_equal(group.mask, instances[group.owner].mask) for group in groups)


def test_what_shows_is_annotated(monkeypatch):
    """No part loses its annotation for showing too little: such a placement is not drawn."""
    usual = [len(scene(0, "train", index)[1]) for index in range(1, 61)]
    monkeypatch.setattr(scene_drawing, "MIN_PART_PIXELS", 1)
    assert [len(scene(0, "train", index)[1]) for index in range(1, 61)] == usual


def test_label_map_agrees_with_the_instances(drawn):
    unlabelled = 0
    for _, instances in drawn:
        labels = label_map(instances)
        objects = of(instances, "object")
        for name in OBJECTS:
            masks = [instance.mask for instance in objects if instance.concept == name]
            assert (labels == CONCEPTS[name].id).sum() == sum(mask.sum() for mask in masks)
        unlabelled += (labels == 0).mean() > 0.05
    assert 0.2 * COUNT < unlabelled < 0.8 * COUNT


def test_every_concept_is_often_present_and_often_absent(drawn):
    present = Counter(name for _, instances in drawn for name in {i.concept for i in instances})
    assert set(present) == set(CONCEPTS)
    for name in THINGS:
        assert 0.2 <= present[name] / COUNT <= 0.35, name
    for name in STUFF:
        assert 0.45 <= present[name] / COUNT <= 0.65, name
    for name in (*PARTS, *GROUPS):
        assert 0.2 <= present[name] / COUNT <= 0.85, name


def test_things_and_parts_are_big_enough_to_learn(drawn):
    longest = {}
    for _, instances in drawn:
        for instance in instances:
            spans = [np.ptp(axis) + 1 for axis in np.nonzero(instance.mask)]
            longest.setdefault(instance.concept, []).append(max(spans))
    assert all(35 <= np.median(longest[name]) <= 78 for name in THINGS)
    assert all(np.median(longest[name]) >= 10 for name in PARTS)


def test_two_of_a_kind_differ(drawn):
    for name in THINGS:
        areas = {int(i.mask.sum()) for _, instances in drawn for i in instances if i.concept == name}
        assert len(areas) > 20
    colors = {i.color for _, instances in drawn for i in instances if i.concept == "car"}
    assert len(colors) >= 4


@pytest.mark.parametrize("size", [64, 100, 256])
def test_other_sizes_are_drawn_in_proportion(size, drawn):
    picture, instances = scene(0, "train", 3, size)
    assert picture.shape == (size, size, 3)
    usual = of(drawn[2][1], "object")
    assert [i.concept for i in of(instances, "object")] == [i.concept for i in usual]
    for instance, other in zip(instances, usual, strict=False):
        assert instance.mask.mean() == pytest.approx(other.mask.mean(), rel=0.1)


def test_written_files_hold_the_scenes(written):
    assert written.names.read_text().split() == list(OBJECTS)
    for index in range(1, written.images + 1):
        picture, instances = scene(3, "train", index)
        file = written.image_folder / f"{index:06d}.png"
        np.testing.assert_array_equal(cv2.imread(str(file))[..., ::-1], picture)
        labels = cv2.imread(str(written.label_folder / file.name), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(labels, label_map(instances))


def test_concepts_file_is_the_tree(written):
    tree = json.loads(written.concepts.read_text())
    assert [node["id"] for node in tree] == sorted(concept.id for concept in CONCEPTS.values())
    for node in tree:
        concept = CONCEPTS[node["name"]]
        assert (node["granularity"], tuple(node["parents"])) == (concept.granularity, concept.parents)
        assert tuple(node["synonyms"]) == concept.synonyms


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on NumPy 2
def test_annotations_load_in_pycocotools(written, capsys):
    coco = COCO(str(written.annotations))
    capsys.readouterr()
    assert len(coco.imgs) == written.images
    expected = {c.name: c.id for c in CONCEPTS.values()}
    assert {category["name"]: category["id"] for category in coco.cats.values()} == expected
    complete = {a["id"]: a for a in json.loads(written.annotations.read_text())["annotations"]}
    for image_id in coco.imgs:
        _, instances = scene(written.seed, written.split, image_id)
        found = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        assert len(found) == len(instances)
        for annotation, instance in zip(found, instances, strict=True):
            mask = coco.annToMask(annotation).astype(bool)
            np.testing.assert_array_equal(mask, instance.mask)
            assert annotation["category_id"] == CONCEPTS[instance.concept].id
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
            assert annotation["iscrowd"] == 0
            assert annotation.get("attributes", {}).get("color") == instance.color
            assert complete[annotation["id"]] == annotation
            owner = complete[annotation["object_id"]]
            assert owner["category_id"] == CONCEPTS[instances[instance.owner].concept].id


def test_an_image_does_not_depend_on_how_many_are_written(written, tmp_path):
    few = write_scenes(tmp_path, images=4, seed=3)
    for folder in ("images", "labels"):
        for file in sorted((few.root / "train" / folder).iterdir()):
            assert file.read_bytes() == (written.root / "train" / folder / file.name).read_bytes()
    some, all_ = (json.loads(split.annotations.read_text())["annotations"] for split in (few, written))
    assert some == all_[: len(some)]


def test_reruns_are_bit_identical_and_splits_share_a_root(written, tmp_path):
    again = write_scenes(tmp_path, images=12, seed=3)
    assert contents(tmp_path) == contents(written.root)
    write_scenes(tmp_path, images=2, seed=3, split="val")
    assert contents(written.root).items() <= contents(tmp_path).items()
    assert again == write_scenes(tmp_path, images=12, seed=3)


def test_a_complete_split_is_reused_and_another_one_replaced(tmp_path, monkeypatch):
    write_scenes(tmp_path, images=3, seed=0)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(scenes, "draw_scene", None)  # would fail if anything were drawn
        write_scenes(tmp_path, images=3, seed=0)
    assert contents(tmp_path) == before
    (tmp_path / "train" / "images" / "000002.png").unlink()
    write_scenes(tmp_path, images=3, seed=0)
    assert contents(tmp_path) == before
    write_scenes(tmp_path, images=2, seed=0)
    assert len(list((tmp_path / "train" / "images").iterdir())) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "annotations",
        "concepts.json",
        "names.txt",
        "train",
    ]


def test_an_interrupted_write_leaves_the_old_split(tmp_path, monkeypatch):
    write_scenes(tmp_path, images=2, seed=0)
    before = contents(tmp_path)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "_coco", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path, images=3, seed=0)
    assert contents(tmp_path) == before


def test_a_split_that_another_process_completes_meanwhile_is_kept(tmp_path, monkeypatch):
    """Several jobs start at once; the first to be done is reading while the others still draw."""
    write, folders = scenes._write, []

    def overtaken(draft):
        write(draft)
        if not folders:
            folders.append(None)
            folders[0] = write_scenes(tmp_path, 2, seed=0, size=64).folder.stat()

    monkeypatch.setattr(scenes, "_write", overtaken)
    split = write_scenes(tmp_path, 2, seed=0, size=64)
    assert split.folder.stat().st_ino == folders[0].st_ino
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations", "concepts.json", "names.txt", "train"]


def test_foreign_data_is_never_replaced(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="no split of scenes"):
        write_scenes(tmp_path, images=1, seed=0)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text("{}")
    with pytest.raises(DataError, match=r"instances_val\.json"):
        write_scenes(tmp_path, images=1, seed=0, split="val")


@pytest.mark.parametrize(
    "change", [{"images": 0}, {"seed": -1}, {"size": 32}, {"split": "../up"}, {"split": "annotations"}]
)
def test_impossible_arguments_are_refused(tmp_path, change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        write_scenes(tmp_path, **{"images": 1, "seed": 0, **change})
    assert not list(tmp_path.iterdir())


def test_unknown_indices_are_refused():
    with pytest.raises(ConfigError, match="index"):
        scene(0, "train", 0)
