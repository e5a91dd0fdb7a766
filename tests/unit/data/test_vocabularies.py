"""Which names training may ask, which are known at all, and which are scored together."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.data.annotations import Category
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split, prompt_sampler, training_images, training_split
from sam3_hyperet.data.vocabularies import COCO_BASE, COCO_NOVEL, VOCABULARIES, absent_concepts, vocabulary_ids
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.options import read_options
from sam3_hyperet.scenes.concepts import CONCEPTS, HELD_OUT

NAMES = ("car", "bus", "tree")


def options_of(data, *overrides):
    config = parse_command("train", [f"data={data}", *overrides])[1]
    return read_options(DataOptions, OmegaConf.to_container(config.data), "data")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two pictures: a car, a bus and a crowd of trees; a bus. As instances and as label maps."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    images, annotations = [], []
    for number, shown in ((1, (0, 1, 2)), (2, (1,))):
        labels = np.full((24, 24), 255, np.uint8)
        for category in shown:
            rows = slice(8 * category, 8 * category + 8)
            labels[rows] = category
            runs = {"size": [24, 24], "counts": [8 * category, *([8, 16] * 23), 8, 16 - 8 * category]}
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": category + 5, "area": 192}
                | {"bbox": [0, 8 * category, 24, 8], "iscrowd": int(category == 2), "segmentation": runs}
            )
        for folder, array in (("val", np.zeros((24, 24, 3), np.uint8)), ("labels", labels)):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(root / folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 24, "width": 24})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": k + 5, "name": name, "supercategory": "thing"} for k, name in enumerate(NAMES)]
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def coco(root):
    def options(**changes):
        values = {"name": "c", "format": "coco", "root": str(root), "splits": {"train": "val", "val": "val"}}
        return DataOptions(**values | {"tune_images": 0} | changes)

    return options


def test_the_split_of_the_literature(shared_data):
    assert (len(COCO_BASE), len(COCO_NOVEL), len(set(COCO_BASE + COCO_NOVEL))) == (48, 17, 65)
    file = shared_data / "coco" / "annotations" / "instances_val2017.json"
    names = {category["name"] for category in json.loads(file.read_text())["categories"]}
    assert set(COCO_BASE + COCO_NOVEL) < names
    left = {
        "traffic light",
        "fire hydrant",
        "stop sign",
        "parking meter",
        "sports ball",
        "baseball bat",
        "potted plant",
    }
    left |= {"baseball glove", "tennis racket", "wine glass", "hot dog", "dining table", "cell phone", "teddy bear"}
    assert names - set(COCO_BASE + COCO_NOVEL) == left | {"hair drier"}


def test_coco_open_vocabulary_trains_on_base_names_and_scores_65(shared_data):
    options = options_of("coco_open_vocabulary", f"paths.coco={shared_data / 'coco'}")
    split = open_split(options, "val")
    assert {category.name for category in split.images.categories} == set(VOCABULARIES["ov_all"])
    assert {name: len(ids) for name, ids in split.groups.items()} == {"ov_base": 48, "ov_novel": 17, "ov_all": 65}
    assert not set(split.groups["ov_base"]) & set(split.groups["ov_novel"])
    assert set(split.groups["ov_all"]) == {category.id for category in split.images.categories}
    for name in ("train", "tune"):
        assert {category.name for category in training_images(options, name).categories} == set(COCO_BASE)
    whole = open_split(options_of("coco", f"paths.coco={shared_data / 'coco'}"), "val").images
    known = set(split.groups["ov_all"])
    for i in range(len(whole)):
        assert [one.id for one in split.images.instances(i)] == [
            one.id for one in whole.instances(i) if one.category_id in known
        ]


def test_other_names_are_never_asked_in_training(coco):
    images = training_images(coco(prompts=("car", "tree")), "train")
    assert [category.name for category in images.categories] == ["car", "tree"]
    assert [{one.category_id for one in images.instances(i)} for i in range(2)] == [{5, 7}, set()]
    assert images.crowd_only(0) == {7}
    assert len(open_split(coco(prompts=("car",)), "train").images.categories) == 3
    sampler, rng = prompt_sampler(coco(num_negatives=2), images), np.random.default_rng(0)
    asked = {prompt.text for _ in range(20) for prompt in sampler.sample({5}, frozenset(), rng)}
    assert asked == {"car", "tree"}


def test_a_vocabulary_restricts_label_maps_too(root):
    options = DataOptions(
        name="m",
        format="label_maps",
        root=str(root),
        splits={"val": ["val", "labels"]},
        names=NAMES,
        vocabulary=("bus",),
    )
    split = open_split(options, "val")
    assert split.labels is split.images
    assert [category.name for category in split.labels.categories] == ["bus"]
    assert np.unique(split.labels.label_map(0)).tolist() == [-1, 1]
    assert [one.category_id for one in split.labels.instances(0)] == [1]


def test_a_vocabulary_of_scenes_is_known_by_name(tmp_path):
    options = DataOptions(
        name="s", format="scenes", root=str(tmp_path), splits={"val": 2}, size=64, vocabulary=("car", "vehicle")
    )
    split = open_split(options, "val")
    assert {category.name for category in split.images.categories} == {"car", "vehicle"}
    assert [category.name for category in split.labels.categories] == ["car"]
    assert open_split(DataOptions(**{**vars(options), "vocabulary": ("vehicle",)}), "val").labels is None


def test_groups_are_ids_by_name(coco):
    split = open_split(coco(groups={"vehicles": ("bus", "car")}), "val")
    assert split.groups == {"vehicles": (5, 6)}
    assert open_split(coco(groups={"vehicles": ("bus",)}, limit=1), "val").groups == {"vehicles": (6,)}
    assert open_split(coco(), "val").groups == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"vocabulary": "ov_old"},
            "data.vocabulary: ov_old not among the data set's .* nor a list .*ov_base, ov_novel",
        ),
        ({"vocabulary": ("car", "cart")}, "data.vocabulary: cart not among the data set's 3 category names"),
        ({"prompts": ("car", "car")}, r"data.prompts=\['car', 'car'\]; expected category names, each once"),
        ({"prompts": (5,)}, r"data.prompts=\[5\]; expected category names"),
        ({"vocabulary": ("car",), "prompts": ("bus",)}, "data.prompts: bus not among the data set's 1 category names"),
        ({"groups": {"g": ()}}, r"data.groups.g=\[\]; expected category names"),
    ],
)
def test_names_that_cannot_be(coco, changes, message):
    with pytest.raises(ConfigError, match=message):
        training_images(coco(**changes), "train")


def test_ids_are_in_the_data_set_s_order():
    categories = [Category(9, "a"), Category(2, "b"), Category(4, "c")]
    assert vocabulary_ids(["c", "a"], categories, "x") == (9, 4)


def test_names_are_a_text_with_commas_as_well():
    categories = [Category(9, "a"), Category(2, "traffic light"), Category(4, "c")]
    assert vocabulary_ids("c, traffic_light", categories, "x") == (2, 4)
    assert vocabulary_ids("a", categories, "x") == (9,)
    assert absent_concepts("dog,A", categories) == ("dog",)


def test_a_list_known_by_its_name_leaves_out_what_the_data_set_has():
    assert absent_concepts("ov_novel", [Category(1, "cat"), Category(2, "pet", ("Dog",))]) == tuple(
        name for name in COCO_NOVEL if name not in ("cat", "dog")
    )


def test_held_out_concepts_of_scenes_are_named_nowhere_in_pretraining(tmp_path):
    values = {"splits": {"train": 3}, "size": 64, "root": str(tmp_path), "prompts": "scenes_known", "synonyms": 1.0}
    options = replace(options_of("scenes_levels"), **values, absent_concepts="wheel, Creature, cup", tune_images=0)
    options = replace(options, validation_fraction=0.0)
    split = training_split(options, "train")
    images, whole = split.images, open_split(replace(options, prompts=()), "train")
    names = {category.id: category.name for category in whole.images.categories}
    assert {names[i] for i in names.keys() - {c.id for c in images.categories}} == set(HELD_OUT)
    for i in range(3):
        of_known = [one for one in whole.images.instances(i) if names[one.category_id] not in HELD_OUT]
        assert list(images.instances(i)) == of_known
    sampler = prompt_sampler(options, images)
    assert sampler.absent_concepts == ("cup",)  # scenes show the others, without annotation
    rng = np.random.default_rng(0)
    asked = {p.text for i in range(3) for _ in range(60) for p in sampler.sample(images.present(i), (), rng)}
    assert "small vehicle" in asked | {"long vehicle"}  # a phrase with the name of a known group
    assert not [text for text in asked if set(text.split()) & set(HELD_OUT)]
    assert any("tall building, standing creature" in remark for remark in images.remarks)
    adapting = prompt_sampler(replace(options, prompts=(), absent_concepts=()), whole.images)
    assert "tall building" in {text for texts in adapting._texts.values() for text in texts}


def test_the_groups_of_scenes_are_the_halves_of_each_level(tmp_path):
    options = replace(options_of("scenes_levels"), splits={"train": 1}, size=64, root=str(tmp_path), tune_images=0)
    groups = {name: set(ids) for name, ids in open_split(options, "train").groups.items()}
    assert groups["known"] == groups["objects"] | groups["known_parts"] | groups["known_groups"]
    assert groups["held_out"] == groups["held_out_parts"] | groups["held_out_groups"]
    assert groups["known"] | groups["held_out"] == {concept.id for concept in CONCEPTS.values()}
    assert (
        sum(
            len(groups[name])
            for name in ("objects", *(f"{h}_{k}" for h in ("known", "held_out") for k in ("parts", "groups")))
        )
        == 25
    )
    for name in ("parts", "groups"):
        members = {c.id for c in CONCEPTS.values() if f"{c.granularity}s" == name}
        assert groups[f"known_{name}"] | groups[f"held_out_{name}"] == members


def test_everyday_nouns_share_no_word_with_a_scene():
    words = {word for c in CONCEPTS.values() for text in (c.name, *c.synonyms) for word in text.split()}
    assert not words & set(VOCABULARIES["everyday"])
