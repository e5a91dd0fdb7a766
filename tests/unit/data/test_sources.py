"""Data sets by their options: which pictures make which split."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sam3_hyperet.data import sources
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import augmentation, open_run, open_split, prompt_sampler, training_images
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.scenes.dataset import scenes_folder, write_scenes

COUNT = 9


@pytest.fixture(scope="module")
def scenes_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    for number, (split, count) in enumerate({"train": COUNT, "tune": 2, "val": 3}.items()):
        write_scenes(scenes_folder(root, count, 0, 64), count, number, 64, split)
    return root


@pytest.fixture
def scenes(scenes_root):
    def options(**changes):
        splits = {"train": COUNT, "tune": 2, "val": 3}
        return DataOptions(
            **{"name": "s", "format": "scenes", "root": str(scenes_root), "splits": splits, "size": 64} | changes
        )

    return options


def test_pictures_that_choose_the_step_and_are_scored_are_said(scenes):
    options = scenes()
    trained, scored = (open_split(options, split).coco_file.parent.parent for split in ("train", "val"))
    pairs = dict.fromkeys(("tune", "val"), ("val/images", "annotations/instances_val.json"))
    train = (str(trained / "train" / "images"), str(trained / "annotations" / "instances_train.json"))
    twice = replace(options, format="coco", root=str(scored), splits={"train": train, **pairs})
    opened = open_run(twice, tune=True, evaluate=True)
    assert any("val has 3 pictures of tune" in line for line in opened.training.remarks)


@pytest.fixture(scope="module")
def coco_root(tmp_path_factory, scenes_root):
    """The drawn training images as a COCO set; one car in the first picture is a crowd."""
    root, drawn = tmp_path_factory.mktemp("coco"), scenes_folder(scenes_root, COUNT, 0, 64)
    shutil.copytree(drawn / "train" / "images", root / "train2017")
    (root / "annotations").mkdir()
    content = json.loads((drawn / "annotations" / "instances_train.json").read_text())
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["bbox"] = [0, 0, 0, 0]
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def coco(coco_root):
    def options(**changes):
        values = {"name": "c", "format": "coco", "root": str(coco_root), "splits": {"train": "train2017"}}
        return DataOptions(**values | {"tune_images": 3, "validation_fraction": 0} | changes)

    return options


def ids(images):
    return [images.image(i).image_id for i in range(len(images))]


def test_scenes_have_instances_label_maps_and_a_coco_file(scenes):
    split = open_split(scenes(), "val")
    assert (split.name, len(split.images), len(split.labels)) == ("val", 3, 3)
    assert split.coco_file.name == "instances_val.json"
    assert split.images.name == "s"
    assert {category.granularity for category in split.images.categories} == {"part", "object", "group"}
    assert {category.granularity for category in split.labels.categories} == {"object"}
    for i in range(3):
        assert split.images.image(i).path == split.labels.image(i).path
        assert split.labels.label_map(i).shape == (64, 64)
    first = np.asarray(split.images.load_image(0))
    assert not np.array_equal(first, np.asarray(open_split(scenes(), "tune").images.load_image(0)))


def test_scenes_are_drawn_when_first_used(tmp_path):
    options = DataOptions(name="s", format="scenes", root=str(tmp_path / "new"), splits={"val": 1}, size=64)
    assert len(open_split(options, "val").images) == 1
    file = scenes_folder(tmp_path / "new", 1, 0, 64) / "val" / "images" / "000001.png"
    written = file.stat().st_mtime_ns
    assert len(open_split(options, "val").images) == 1
    assert file.stat().st_mtime_ns == written


def test_scenes_of_another_seed_replace_none_that_are_being_read(tmp_path):
    """Two commands at once, such as an evaluation beside a study, have one paths.scenes."""
    options = DataOptions(name="s", format="scenes", root=str(tmp_path), splits={"val": 1}, size=64)
    images = open_split(options, "val").images
    before = images.image(0).path.read_bytes()
    others = [
        open_split(replace(options, **change), "val").images
        for change in ({"seed": 5}, {"size": 96}, {"splits": {"val": 2}})
    ]
    assert images.image(0).path.read_bytes() == before
    assert len({before, *(other.image(0).path.read_bytes() for other in others[:2])}) == 3
    assert others[2].image(0).path.read_bytes() == before
    assert len({images.image(0).path, *(other.image(0).path for other in others)}) == 4


def test_the_home_folder_may_be_written_short(monkeypatch, scenes_root):
    monkeypatch.setenv("HOME", str(scenes_root.parent))
    options = DataOptions(name="s", format="scenes", root=f"~/{scenes_root.name}", splits={"val": 3}, size=64, seed=0)
    split = open_split(options, "val")
    assert split.coco_file == scenes_folder(scenes_root, 3, 0, 64) / "annotations" / "instances_val.json"


def test_tuning_pictures_come_out_of_the_training_ones(coco):
    train, tune = open_split(coco(), "train"), open_split(coco(), "tune")
    assert sorted(ids(train.images) + ids(tune.images)) == list(range(1, COUNT + 1))
    assert len(tune.images) == 3
    assert ids(tune.images) == ids(open_split(coco(), "tune").images)
    assert ids(tune.images) != ids(open_split(coco(seed=1), "tune").images)
    assert len(open_split(coco(tune_images=0), "train").images) == COUNT
    half = open_split(coco(tune_images=99), "train").images
    assert len(half) == COUNT - COUNT // 2
    assert half.remarks[-1] == (
        f"{COUNT // 2} of {COUNT} training images are held out for choosing the best step "
        "(data.tune_images=99, half of them at most)"
    )
    with pytest.raises(ConfigError, match=r"no image to tune on: 9 training images and data.tune_images=0"):
        open_split(coco(tune_images=0), "tune")


def test_limit_takes_pictures_evenly_spread_after_the_split(coco, scenes):
    whole = ids(open_split(coco(), "train").images)
    assert ids(open_split(coco(limit=2), "train").images) == [whole[0], whole[-1]]
    split = open_split(scenes(limit=2), "train")
    assert ids(split.images) == [1, 9]
    assert len(split.labels) == 2
    assert len(open_split(scenes(limit=99), "train").images) == COUNT


def test_the_limit_of_training_leaves_the_evaluation_whole(scenes):
    opened = open_run(scenes(limit=1), tune=True, evaluate=True)
    assert (len(opened.training), len(opened.tuning.images), len(opened.evaluation.images)) == (1, 1, 3)


def test_a_run_opens_what_it_will_use_and_nothing_else(coco):
    opened = open_run(coco(), tune=False, evaluate=False)
    assert (len(opened.training), opened.tuning, opened.evaluation) == (COUNT, None, None)
    with pytest.raises(ConfigError, match="data set c has no image to score: no val split, 9 training images"):
        open_run(coco(), tune=True, evaluate=True)


def test_a_part_of_a_data_set_is_the_whole_s_at_its_positions(coco):
    whole = open_split(coco(tune_images=0), "train").images
    part = open_split(coco(), "train").images
    assert part.categories == whole.categories
    assert part.adjusted == {"box without area, taken from the mask": 1}
    assert "repaired 1 × box without area" in part.summary()
    for i, image_id in enumerate(ids(part)):
        k = image_id - 1
        assert part.image(i) == whole.image(k)
        assert part.instances(i) == whole.instances(k)
        assert part.crowd_only(i) == whole.crowd_only(k)
        assert part.label_map(i) is None
        assert np.array_equal(np.asarray(part.load_image(i)), np.asarray(whole.load_image(k)))


def test_annotations_of_some_granularities_alone(scenes):
    every = training_images(scenes(), "train")
    objects = training_images(scenes(annotated=("object",)), "train")
    assert objects.categories == every.categories  # the others stay in the vocabulary, as absent
    level = {category.id: category.granularity for category in every.categories}
    assert len(objects) == len(every)
    for i in range(len(every)):
        assert objects.instances(i) == tuple(one for one in every.instances(i) if level[one.category_id] == "object")
        assert objects.image(i) == every.image(i)
    assert {level[one.category_id] for one in every.instances(0)} == {"part", "object", "group"}
    with pytest.raises(ConfigError, match=r"data.annotated='tiny' is unknown; expected one of "):
        training_images(scenes(annotated=("tiny",)), "train")


def test_the_sampler_and_the_views_are_as_described(scenes):
    options = scenes(
        prompt_weights={"group": 1.0},
        negative_prompt_weights={"part": 1.0},
        num_positives=1,
        num_negatives=2,
        flip=1.0,
        zoom=2.0,
    )
    images = training_images(options, "train")
    level = {category.id: category.granularity for category in images.categories}
    sampler = prompt_sampler(options, images)
    present = {one.category_id for one in images.instances(0)}
    prompts = sampler.sample(present, (), np.random.default_rng(0))
    assert [level[prompt.category_id] for prompt in prompts if prompt.present] == ["group"]
    absent = [level[prompt.category_id] for prompt in prompts if not prompt.present]
    assert absent
    assert set(absent) == {"part"}
    views = augmentation(options, images)
    assert (views.flip, views.zoom) == (1.0, 2.0)
    shown = {
        prompt.category_id
        for seed in range(40)
        for prompt in prompt_sampler(scenes(), images).sample(present, (), np.random.default_rng(seed))
    }
    assert {level[category] for category in shown} == {"part", "object", "group"}


@pytest.fixture
def maps_root(tmp_path):
    for i in range(4):
        for folder in ("pictures", "maps"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 8, 3), i, np.uint8)).save(tmp_path / "pictures" / f"{i}.jpg")
        Image.fromarray(np.array([[1, 2, 9, 1]] * 6, np.uint8).repeat(2, axis=1)).save(tmp_path / "maps" / f"{i}.png")
    (tmp_path / "names.txt").write_text("sky\nroad, street\n")
    return tmp_path


def test_any_label_maps(maps_root):
    options = DataOptions(
        name="mine",
        format="label_maps",
        root=str(maps_root),
        splits={"train": ["pictures", "maps"], "val": ["pictures", "maps"]},
        names="names.txt",
        ignore=9,
        offset=1,
        tune_images=1,
    )
    split = open_split(options, "val")
    assert split.labels is split.images
    assert split.coco_file is None
    assert [category.name for category in split.images.categories] == ["sky", "road"]
    assert sorted(np.unique(split.images.label_map(0))) == [-1, 0, 1]
    train = open_split(options, "train")
    assert (len(train.images), len(train.labels)) == (3, 3)
    with pytest.raises(ConfigError, match="data set mine has no split 'test'; it has train, val"):
        open_split(options, "test")


def test_ade20k(shared_data):
    options = DataOptions(
        name="a",
        format="ade20k",
        root=str(shared_data / "ADEChallengeData2016"),
        splits={"train": "training", "val": "validation"},
    )
    split = open_split(options, "val")
    assert len(split.images.categories) == 150
    assert split.labels is split.images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "voc"}, "data.format='voc' is unknown; expected one of scenes, coco"),
        ({"splits": {"test": 3}}, "data.splits='test' is unknown; expected one of train, tune, val"),
        ({"splits": ["train"]}, r"data.splits=\['train'\]; expected train, tune, val by name"),
        ({"tune_images": -1}, "data.tune_images=-1; expected an integer from 0"),
        ({"limit": 1.5}, "data.limit=1.5; expected an integer from 0"),
        ({"seed": None}, "data.seed=None; expected an integer from 0"),
    ],
)
def test_impossible_options_are_refused(scenes, changes, message):
    with pytest.raises(ConfigError, match=message):
        scenes(**changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "scenes", "splits": {"val": "many"}}, "data.splits.val='many'; expected the number of images"),
        (
            {"format": "scenes", "splits": {"val": 0}},
            "data.splits.val=0; expected the number of images to draw, from 1",
        ),
        ({"format": "coco", "splits": {"val": "val2017"}}, "instances_val2017.json: no such file"),
        ({"format": "ade20k", "splits": {"val": "testing"}}, "no split 'testing', expected training or validation"),
        ({"format": "label_maps", "splits": {"val": "val"}}, r"data.splits.val='val'; expected \[folder of images"),
        ({"format": "label_maps", "splits": {"val": ["a", "b"]}}, "a: no such folder"),
    ],
)
def test_splits_that_cannot_be_read(tmp_path, options, message):
    with pytest.raises((ConfigError, DataError), match=message):
        open_split(DataOptions(name="x", root=str(tmp_path), **options), "val")


def test_what_is_held_out_is_taken_from_one_reading(coco, monkeypatch):
    files = []
    read = sources.read_coco
    monkeypatch.setattr(sources, "read_coco", lambda file, *args, **how: files.append(file) or read(file, *args, **how))
    alone = coco(splits={"train": coco().splits["train"]}, tune_images=1, validation_fraction=0.2)
    opened = open_run(alone, tune=True, evaluate=True)
    assert len(files) == 1
    for split, images in (
        ("train", opened.training),
        ("tune", opened.tuning.images),
        ("val", opened.evaluation.images),
    ):
        again = open_split(alone, split).images
        assert [images.image(i) for i in range(len(images))] == [again.image(i) for i in range(len(again))]


def test_few_training_images_are_chosen_by_a_seed_of_their_own(coco):
    def names(split="train", **changes):
        images = training_images(coco(**changes), split)
        return {images.image(i).path.name for i in range(len(images))}

    few, more = ({seed: names(train_images=n, subset_seed=seed) for seed in range(6)} for n in (2, 4))
    assert {len(chosen) for chosen in few.values()} == {2}
    assert len(set(map(frozenset, few.values()))) > 2
    assert all(few[seed] < more[seed] for seed in few)
    assert names(train_images=2) == names(train_images=2, subset_seed=coco().seed)
    assert names(shots=1) == names(shots=1, subset_seed=0)
    assert all(not chosen & names("tune", train_images=2, subset_seed=seed) for seed, chosen in few.items())
    scored = [open_split(coco(train_images=1, subset_seed=n, validation_fraction=0.3), "val").images for n in range(3)]
    assert len({tuple(images.image(i).path.name for i in range(len(images))) for images in scored}) == 1
    (line, unseen) = training_images(coco(train_images=2), "train").remarks[1:3]
    assert line.startswith("data.train_images=2: 2 of 9 images; images by category: ")
    assert unseen.startswith("none of these images shows: ")
    with pytest.raises(ConfigError, match=r"data\.shots=1 and data\.train_images=2; expected one of them"):
        coco(shots=1, train_images=2)
