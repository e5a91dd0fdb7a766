"""Label maps: real CamVid, both ways to make instances, and every kind of wrong file."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sam3_hyperet.data.label_maps import IGNORED, read_label_maps
from sam3_hyperet.errors import DataError
from sam3_hyperet.masks import decode

NAMES = ["sky", "tree_top, crown", "road"]
LABELS = np.full((20, 30), 255, np.uint8)
LABELS[:5] = 0
LABELS[10:, :8] = 2
LABELS[12:, 20:] = 2
LABELS[7:9, 14:16] = 2


@pytest.fixture
def folders(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "a.jpg")
    Image.fromarray(LABELS).save(tmp_path / "labels" / "a.png")
    return tmp_path / "images", tmp_path / "labels"


@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101), ("test", 233)])
def test_real_camvid(shared_data, split, count):
    root = shared_data / "camvid"
    images = read_label_maps(root / split, root / f"{split}annot", root / "classes.txt", ignore=11)
    assert len(images) == count
    assert [c.id for c in images.categories] == list(range(11))
    assert (images.categories[0].name, images.categories[6].name) == ("sky", "sign symbol")
    for i in range(0, len(images), 20):
        labels = images.label_map(i)
        stored = np.asarray(Image.open(root / f"{split}annot" / f"{images.image(i).path.stem}.png"))
        assert np.array_equal(labels, np.where(stored == 11, IGNORED, stored.astype(int)))
        found = images.instances(i)
        assert {one.category_id for one in found} == set(np.unique(labels).tolist()) - {IGNORED}
        assert all(np.array_equal(decode(one.rle), labels == one.category_id) for one in found)
        assert images.load_image(i).size == (240, 180)


def test_names_have_synonyms_and_no_underscores(folders, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n\n")
    for names in (NAMES, tmp_path / "names.txt"):
        _, tree, _ = read_label_maps(*folders, names, ignore=255).categories
        assert (tree.id, tree.name, tree.synonyms) == (1, "tree top", ("crown",))


def test_offset_and_a_name_at_the_ignored_label(folders):
    Image.fromarray(np.where(LABELS == 255, 3, LABELS) + np.uint8(1)).save(folders[1] / "a.png")
    images = read_label_maps(*folders, [*NAMES, "void"], ignore=4, offset=1)
    assert [c.name for c in images.categories] == ["sky", "tree top", "road"]
    assert np.array_equal(images.label_map(0), np.where(LABELS == 255, IGNORED, LABELS.astype(int)))


def test_palettes_are_read_as_indices_and_16_bits_as_they_are(folders):
    expected = np.where(LABELS == 255, IGNORED, LABELS.astype(int))
    picture = Image.fromarray(LABELS).convert("P")
    picture.putdata(LABELS.reshape(-1).tolist())
    picture.putpalette([200, 100, 50] * 256)
    picture.save(folders[1] / "a.png")
    with Image.open(folders[1] / "a.png") as stored:
        assert stored.mode == "P"
    assert np.array_equal(read_label_maps(*folders, NAMES, ignore=255).label_map(0), expected)
    deep = LABELS.astype(np.uint16)
    deep[LABELS == 255] = 60_000
    Image.fromarray(deep).save(folders[1] / "a.png")
    assert np.array_equal(read_label_maps(*folders, NAMES, ignore=60_000).label_map(0), expected)


def test_files_in_subfolders_are_paired_by_their_endings(folders):
    images, labels = folders
    (images / "town").mkdir()
    (labels / "town").mkdir()
    (images / "a.jpg").rename(images / "town" / "x_leftImg8bit.jpg")
    (labels / "a.png").rename(labels / "town" / "x_labelIds.png")
    Image.new("RGB", (1, 1)).save(labels / "town" / "x_color.png")
    found = read_label_maps(
        images, labels, NAMES, ignore=255, image_ending="_leftImg8bit.jpg", label_ending="_labelIds.png"
    )
    assert found.image(0).path == images / "town" / "x_leftImg8bit.jpg"
    assert (found.image(0).height, found.image(0).width) == (20, 30)


@pytest.mark.parametrize(("side", "ending"), [(0, "_rgb.jpg"), (1, "_labels.png")])
def test_the_ending_that_a_refusal_names_pairs_the_files(folders, side, ending):
    file = next(folders[side].iterdir())
    file.rename(file.with_name(f"a{ending}"))
    with pytest.raises(DataError) as refused:
        read_label_maps(*folders, NAMES, ignore=255)
    option, _, value = str(refused.value).rpartition("data.")[2].partition("=")
    assert value == ending
    assert len(read_label_maps(*folders, NAMES, ignore=255, **{option: value})) == 1


def save(folder, name="a.png", mode=None, array=LABELS):
    def act(images, labels):
        picture = Image.fromarray(array)
        (picture.convert(mode) if mode else picture).save({"images": images, "labels": labels}[folder] / name)

    return act


def remove(folder, name):
    def act(images, labels):
        ({"images": images, "labels": labels}[folder] / name).unlink()

    return act


def write(folder, name, content):
    def act(images, labels):
        ({"images": images, "labels": labels}[folder] / name).write_bytes(content)

    return act


PAIRING = {
    "picture without label map": (save("images", "b.png"), r"images: 1 image without a label map in .*labels: b"),
    "label map without picture": (save("labels", "b.png"), r"labels: 1 label map without an image in .*images: b"),
    "no label map at all": (remove("labels", "a.png"), r"labels: no file ends in \.png"),
    "two pictures of one name": (save("images", "a.png"), "has the same name"),
}


@pytest.mark.parametrize("kind", PAIRING)
def test_files_that_do_not_pair_are_errors(folders, kind):
    act, message = PAIRING[kind]
    act(*folders)
    with pytest.raises(DataError, match=message):
        read_label_maps(*folders, NAMES, ignore=255)


def test_a_missing_folder_is_an_error(folders, tmp_path):
    with pytest.raises(DataError, match="none: no such folder"):
        read_label_maps(tmp_path / "none", folders[1], NAMES, ignore=255)


CONTENT = {
    "colours": (
        save("labels", array=np.full((20, 30, 3), [1, 2, 0], np.uint8), mode="RGB"),
        "found RGB pixels, expected a label map of a single channel; if its colours are classes, name them",
    ),
    "floats": (save("labels", "a.tif", mode="F"), "found F pixels"),
    "empty": (write("labels", "a.png", b""), "not a readable label map"),
    "no picture": (write("labels", "a.png", b"text"), "not a readable label map"),
    "label unknown": (save("labels", array=np.full((20, 30), 7, np.uint8)), "label 7, expected 0 to 2, or 255 for no"),
}


@pytest.mark.parametrize("kind", CONTENT)
def test_label_maps_that_are_wrong_are_errors(folders, kind):
    act, message = CONTENT[kind]
    if kind == "floats":
        (folders[1] / "a.png").unlink()
    act(*folders)
    with pytest.raises(DataError, match=rf"a\.(png|tif): .*{message}"):
        read_label_maps(*folders, NAMES, ignore=255).label_map(0)


def test_a_truncated_label_map_is_an_error(folders):
    noise = np.random.default_rng(0).integers(0, 3, (200, 300), np.uint8)
    Image.fromarray(noise).save(folders[1] / "a.png")
    content = (folders[1] / "a.png").read_bytes()
    (folders[1] / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.png: not a readable label map"):
        read_label_maps(*folders, NAMES, ignore=255).instances(0)


def test_a_label_map_of_another_size_is_an_error(folders):
    Image.fromarray(LABELS[:, :29]).save(folders[1] / "a.png")
    images = read_label_maps(*folders, NAMES, ignore=255)
    with pytest.raises(DataError, match=r"a\.jpg: image 0 is 30x20 pixels, its annotations are for 29x20"):
        images.load_image(0)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "has no names"),
        (["sky", ""], "name 2 is ''"),
        (["sky", "sky"], "name 2 is 'sky', as name 1 is"),
        (["sky", 3], "name 2 is 3, expected text"),
        (["a" * 10_000], "name 1 is .*expected 1 to 200"),
    ],
)
def test_wrong_names_are_errors(folders, names, message):
    with pytest.raises(DataError, match=message):
        read_label_maps(*folders, names, ignore=255)


def test_wrong_files_of_names_are_errors(folders, tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: no such file"):
        read_label_maps(*folders, tmp_path / "none.txt", ignore=255)
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="it is UTF-16; expected a text in UTF-8"):
        read_label_maps(*folders, tmp_path / "names.txt", ignore=255)


@pytest.mark.parametrize(
    "content",
    [
        '["sky", "tree", "road"]',
        '{"0": "sky", "1": "tree", "2": "road"}',
        '{"road": 2, "tree": 1, "sky": 0}',
        '[{"id": 2, "name": "road"}, {"id": 0, "name": "sky"}, {"id": 1, "name": "tree"}]',
        '[{"png_index": 0, "class_name": "sky"}, {"png_index": 1, "class_name": "tree"}, '
        '{"png_index": 2, "class_name": "road"}]',
    ],
)
def test_names_in_json(content, folders, tmp_path):
    (tmp_path / "classes.json").write_text(content)
    images = read_label_maps(*folders, tmp_path / "classes.json", ignore=255)
    assert [c.name for c in images.categories] == ["sky", "tree", "road"]
    assert np.array_equal(images.label_map(0), np.where(LABELS == 255, IGNORED, LABELS.astype(int)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"0": "sky", "3": "road"}', "its labels are .0, 3., expected consecutive ones"),
        ('{"sky": "a", "road": 1}', "expected class names, or names by label"),
        ('[{"name": "sky"}]', "found the label None of 'sky'"),
        ('{"sky": 0, "road": 0}', "'sky' and 'road' have the label 0"),
    ],
)
def test_wrong_names_in_json_are_errors(content, message, folders, tmp_path):
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_label_maps(*folders, tmp_path / "classes.json", ignore=255)


def test_maps_of_objects_may_have_16_bits(folders, tmp_path):
    """As Cellpose, StarDist and ImageJ number more than 255 objects."""
    numbers = np.zeros(LABELS.shape, np.uint16)
    numbers[:3], numbers[11:, :4], numbers[11:, 4:12], numbers[7:9] = 256, 1, 40_000, 7
    (tmp_path / "objects").mkdir()
    Image.fromarray(numbers).save(tmp_path / "objects" / "a.png")
    images = read_label_maps(*folders, NAMES, ignore=255, offset=0, objects=tmp_path / "objects")
    expected = [(0, 256), (2, 1), (2, 7), (2, 40_000)]
    assert [one.category_id for one in images.instances(0)] == [category for category, _ in expected]
    for one, (category, number) in zip(images.instances(0), expected, strict=True):
        assert np.array_equal(decode(one.rle), (numbers == number) & (category == LABELS))
