"""Names that hold an object and its part, masks of the objects, and what training must not see."""

from __future__ import annotations

import numpy as np
import pytest
from part_trees import ade20k_part, data_options, paco, partimagenet, pascal_part

from sam3_hyperet.data.hierarchy import hierarchy_of
from sam3_hyperet.data.sources import open_run, open_split, prompt_sampler, training_split
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.masks import decode


@pytest.fixture(scope="module")
def paco_root(tmp_path_factory):
    return paco(tmp_path_factory.mktemp("parts") / "paco")


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    return partimagenet(tmp_path_factory.mktemp("parts") / "PartImageNet")


def test_paco_is_read_as_parts_of_objects(paco_root):
    split = open_split(data_options("paco", paco_root), "val")
    found = {c.id: c for c in split.images.categories}
    assert [found[i].name for i in range(1, 8)] == [
        *("bicycle", "car", "mug", "wheel of a bicycle", "wheel of a car", "roof of a car", "handle of a mug")
    ]
    wheel = found[5]
    assert (wheel.granularity, wheel.parents, wheel.synonyms) == ("part", (2,), ("car wheel",))
    assert (wheel.part, wheel.whole) == ("wheel", "car")
    assert found[14].name == "coiled tube of a pipe"
    assert not any(c.supercategory for c in found.values())  # PACO's "OBJECT" is no concept
    tree = hierarchy_of(split.images.categories)
    assert tree.parts["car"][:2] == ("wheel of a car", "roof of a car")
    assert not tree.kinds
    assert split.images.unlabelled(0) >= {3, 7} - {1, 3}  # neither annotated nor listed as absent
    assert split.images.present(0) == {2, 5, 6}
    assert any("8 of 18 categories are parts of 4 objects" in remark for remark in split.images.remarks)


def test_paco_finds_cocos_pictures_elsewhere(paco_root, tmp_path):
    (tmp_path / "paco").mkdir()
    (tmp_path / "paco" / "annotations").symlink_to(paco_root / "annotations")
    split = open_split(data_options("paco", tmp_path / "paco", f"paths.paco_images={paco_root}"), "val")
    assert split.images.image(0).path.is_file()


def test_partimagenet_has_wholes_of_the_parts(animals):
    split = open_split(data_options("partimagenet", animals), "val")
    names = {c.name: c for c in split.images.categories}
    assert list(names) == [
        *("head of a quadruped", "body of a quadruped", "tire of a car", "side mirror of a car", "quadruped", "car")
    ]
    assert names["tire of a car"].parents == (names["car"].id,)
    regions = {one.category_id: decode(one.rle) for one in split.images.instances(0)}
    whole = regions.pop(names["quadruped"].id)
    assert np.array_equal(whole, np.logical_or(*regions.values()))
    assert len(split.images.instances(1)) == 4  # two tires, a mirror, one car
    assert split.images.present(1) == {names[one].id for one in ("tire of a car", "side mirror of a car", "car")}
    assert split.images.counts[names["car"].id] == 3
    assert hierarchy_of(split.images.categories).parts["quadruped"] == ("head of a quadruped", "body of a quadruped")


def test_without_wholes_the_tree_still_has_the_objects(animals):
    categories = open_split(data_options("partimagenet", animals, "data.wholes="), "val").images.categories
    assert hierarchy_of(categories).parts["car"] == ("tire of a car", "side mirror of a car")


def test_training_sees_nothing_of_unseen_objects(paco_root):
    options = data_options("paco", paco_root, "data.unseen=[car]", "data.num_negatives=9")
    images = training_split(options, "train").images
    assert not {c.name for c in images.categories if "car" in c.name or c.whole == "car"}
    assert any("6 of 18 categories are never prompted" in remark for remark in images.remarks)
    sampler, rng = prompt_sampler(options, images), np.random.default_rng(0)
    asked = {
        prompt.text
        for _ in range(50)
        for i in range(len(images))
        for prompt in sampler.sample(images.present(i), images.unlabelled(i), rng)
    }
    assert asked
    assert not [text for text in asked if "car" in text]
    run = open_run(options, tune=True, evaluate=True)
    assert not [c.name for c in run.tuning.images.categories if "car" in c.name]
    assert set(run.tuning.groups) == {"seen"}
    names = {c.id: c.name for c in run.evaluation.images.categories}
    assert {names[i] for i in run.evaluation.groups["unseen"]} == {
        *(f"{part} of a car" for part in ("wheel", "roof", "running board", "steering wheel", "turn signal"))
    }
    assert {names[i] for i in run.evaluation.groups["seen"]} >= {"wheel of a bicycle", "handle of a mug"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.unseen=[lorry]"], "data.unseen: lorry not among"),
        (["data.unseen=[car]", "data.prompts=[car,mug]"], "data.prompts: car of data.unseen=['car'], which training"),
        (["data.unseen=[bicycle,car,mug,pipe]"], "leaves nothing to train on"),
        (["data.renamed={lorry: truck}"], "data.renamed: lorry not among the names"),
        (["data.parts='{object}{part}'"], "expected {object} and {part} with something between"),
        (["data.parts='{object}/{part}'", "data.renamed=null"], "fits none of the categories"),
        (["data.wholes={val: objects}"], "nothing for the split train"),
        (["data.wholes=parts", "data.parts=", "data.renamed=null"], "no category of paco is a part"),
    ],
)
def test_what_cannot_be_meant_is_refused(paco_root, changes, message):
    with pytest.raises(ConfigError) as error:
        training_split(data_options("paco", paco_root, *changes), "train")
    assert message in str(error.value)


def test_two_categories_of_one_new_name_are_refused(paco_root):
    with pytest.raises(DataError, match="two categories are called mug"):
        open_split(data_options("paco", paco_root, "data.renamed={bicycle: mug}"), "val")


def test_pascal_part_has_vocs_objects_above_its_parts(tmp_path):
    options = data_options("pascal_part", pascal_part(tmp_path / "pascal_part"))
    split = open_split(options, "val")
    assert (len(split.labels.categories), len(split.images.categories)) == (116, 136)
    names = {c.name: c.id for c in split.images.categories}
    assert split.labels.categories[115].name == "screen of a tv monitor"
    tree = hierarchy_of(split.images.categories)
    assert tree.parts["potted plant"] == ("pot of a potted plant", "plant of a potted plant")
    cat = next(one for one in split.images.instances(0) if one.category_id == names["cat"])
    assert decode(cat.rle)[:8, :16].all()
    assert decode(cat.rle).sum() == 128
    assert split.images.present(0) >= {names["bird"], names["tv monitor"], names["wing of a bird"]}
    assert set(np.unique(split.labels.label_map(0))) == {
        -1,
        *(
            names[one]
            for one in (
                "head of a cat",
                "tail of a cat",
                "head of a bird",
                "wing of a bird",
                "screen of a tv monitor",
                "eye of a bird",
            )
        ),
    }
    training = training_split(options, "train")
    assert (len(training.labels.categories), len(training.images.categories)) == (74, 89)
    assert set(np.unique(training.labels.label_map(0))) == {
        -1,
        *(names[one] for one in ("head of a cat", "tail of a cat", "screen of a tv monitor")),
    }


def test_ade20k_part_has_16_bit_labels_and_objects_of_a_coco_file(tmp_path):
    split = open_split(data_options("ade20k_part", ade20k_part(tmp_path / "ade20k_part")), "val")
    assert len(split.labels.categories) == 234
    names = {c.name: c.id for c in split.images.categories}
    assert {"car", "bus", "light"} <= names.keys()
    bus = next(one for one in split.images.instances(0) if one.category_id == names["bus"])
    assert decode(bus.rle).sum() == 128  # two of them, one region
    assert split.images.unlabelled(1) == {names[one] for one in ("car", "bus", "light")}  # of no record
    assert any(remark.startswith("objects without masks of their own: person") for remark in split.images.remarks)


def test_objects_that_do_not_fit_the_pictures_are_refused_with_the_remedy(tmp_path):
    root = pascal_part(tmp_path / "pascal_part")
    (root / "annotations_detectron2_obj" / "val" / "2008_100001.png").unlink()
    with pytest.raises(DataError, match=r"data\.wholes=parts takes the union of the parts instead"):
        open_split(data_options("pascal_part", root), "val")
