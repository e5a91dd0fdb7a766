"""`datasets/prepare_label_maps.py` on small trees as the archives unpack; Cityscapes' label ids become train ids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from sam3_hyperet.cli.command import exit_cleanly, parse_command
from sam3_hyperet.cli.prepare import main
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.options import read_options

LABEL_IDS = np.array([[0, 7, 8, 33], [255, 19, 29, 1]], np.uint8)
TRAIN_IDS = np.array([[255, 0, 1, 18], [255, 6, 255, 255]], np.uint8)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def picture_like(labels: np.ndarray) -> np.ndarray:
    return np.zeros((*labels.shape, 3), np.uint8)


def opened(data: str, root: Path, *overrides: str):
    config = parse_command("train", [f"data={data}", f"data.root={root}", *overrides])[1]
    return open_split(read_options(DataOptions, OmegaConf.to_container(config.data), "data"), "val")


@pytest.fixture
def cityscapes(tmp_path):
    root = tmp_path / "cityscapes"
    for split, city in (("train", "aachen"), ("val", "munster")):
        name = f"{city}_000000_000019"
        save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", picture_like(LABEL_IDS))
        save(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", LABEL_IDS)
        save(root / "gtFine" / split / city / f"{name}_gtFine_color.png", picture_like(LABEL_IDS))
        save(root / "gtFine" / split / city / f"{name}_gtFine_instanceIds.png", LABEL_IDS)
    return root


def test_cityscapes_label_ids_become_train_ids(cityscapes, capsys):
    before = {path: path.read_bytes() for path in cityscapes.rglob("*.png")}
    main(["data=cityscapes", f"root={cityscapes}", "counts=null"])
    said = " ".join(capsys.readouterr().out.split())
    assert "converted 2 label maps to" in said
    assert f"data=cityscapes data.root={cityscapes} paths.cityscapes_labels=gtFine_trainIds" in said
    assert all(path.read_bytes() == content for path, content in before.items())
    made = cityscapes / "gtFine_trainIds/val/munster/munster_000000_000019_gtFine_labelTrainIds.png"
    assert np.array_equal(np.asarray(Image.open(made)), TRAIN_IDS)
    assert [path.name for path in cityscapes.iterdir() if path.name.startswith(".")] == []
    split = opened("cityscapes", cityscapes, "paths.cityscapes_labels=gtFine_trainIds")
    assert split.labels.categories[18].name == "bicycle"
    assert np.array_equal(split.labels.label_map(0), np.where(TRAIN_IDS == 255, -1, TRAIN_IDS.astype(int)))
    manifest = json.loads((cityscapes / "prepared.json").read_text())
    assert manifest["splits"]["val"]["labelled"] == 0.5
    main(["data=cityscapes", f"root={cityscapes}", "counts=null"])
    assert "converted" not in capsys.readouterr().out


def test_train_ids_that_are_there_are_used(cityscapes, capsys):
    for path in list(cityscapes.rglob("*_labelIds.png")):
        save(path.with_name(path.name.replace("labelIds", "labelTrainIds")), TRAIN_IDS)
    main(["data=cityscapes", f"root={cityscapes}", "counts=null"])
    assert "converted" not in capsys.readouterr().out
    assert not (cityscapes / "gtFine_trainIds").exists()
    assert len(opened("cityscapes", cityscapes).labels) == 1


def test_a_conversion_is_there_whole_or_not_at_all(cityscapes, capsys):
    broken = next((cityscapes / "gtFine/val").rglob("*_labelIds.png"))
    broken.write_bytes(b"no picture")
    with pytest.raises(SystemExit):
        exit_cleanly(main)(["data=cityscapes", f"root={cityscapes}", "counts=null"])
    assert "labelIds.png: not a readable label map" in capsys.readouterr().err
    assert {path.name for path in cityscapes.iterdir()} == {"leftImg8bit", "gtFine"}


def test_official_counts_are_expected(cityscapes, capsys):
    with pytest.raises(SystemExit):
        exit_cleanly(main)(["data=cityscapes", f"root={cityscapes}"])
    said = capsys.readouterr()
    assert "2 checks failed (train: pictures, val: pictures)" in said.err
    assert "cityscapes-dataset.com" in said.err
    assert "│ 2,975" in said.out
    assert "│ 500" in said.out


def test_pascal_context_takes_the_listed_pictures(tmp_path):
    labels = np.array([[0, 1], [59, 40]], np.uint8)
    for name in ("2008_000002", "2008_000003", "2008_000004"):
        save(tmp_path / "JPEGImages" / f"{name}.jpg", picture_like(labels))
        if name != "2008_000004":
            save(tmp_path / "SegmentationClassContext" / f"{name}.png", labels)
    lists = tmp_path / "ImageSets/SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2008_000002\n")
    (lists / "val.txt").write_bytes(b"2008_000003\r\n")
    main(["data=pascal_context59", f"root={tmp_path}"])
    split = opened("pascal_context59", tmp_path)
    assert [split.images.image(i).path.name for i in range(len(split.images))] == ["2008_000003.jpg"]
    assert len(split.images.categories) == 59
    assert [split.images.categories[k].name for k in (0, 39, 58)] == ["aeroplane", "potted plant", "wood"]
    assert split.images.label_map(0).tolist() == [[-1, 0], [58, 39]]
    (lists / "val.txt").write_text("2008_000004\n2008_000009\n")
    with pytest.raises(SystemExit):
        exit_cleanly(main)(["data=pascal_context59", f"root={tmp_path}"])


def test_ade847_is_16_bit_with_names_of_ones_own(tmp_path):
    labels = np.array([[0, 846], [65535, 300]], np.uint16)
    for split in ("training", "validation"):
        save(tmp_path / "images_detectron2" / split / "a.jpg", picture_like(labels))
        save(tmp_path / "annotations_detectron2" / split / "a.tif", labels)
    (tmp_path / "names.txt").write_text("".join(f"thing {n}, synonym {n}\n" for n in range(847)))
    main(
        ["data=ade847", f"root={tmp_path}", "counts={ade847:{train:{pictures:1},val:{pictures:1}}}"],
    )
    split = opened("ade847", tmp_path)
    assert split.labels.label_map(0).tolist() == [[0, 846], [-1, 300]]
    assert split.labels.categories[846].name == "thing 846"


def test_real_camvid_is_complete(shared_data, tmp_path):
    main(["data=camvid_groups", f"root={shared_data / 'camvid'}", f"out={tmp_path / 'camvid.json'}", "workers=2"])
    manifest = json.loads((tmp_path / "camvid.json").read_text())
    assert [split["pictures"] for split in manifest["splits"].values()] == [367, 101, 233]
    assert [split["categories"] for split in manifest["splits"].values()] == [17] * 3  # the 11 and those above them


def test_a_map_without_a_labelled_pixel_fails(tmp_path, capsys):
    for split in ("train", "val", "test"):
        save(tmp_path / split / "a.png", np.zeros((4, 4, 3), np.uint8))
        save(tmp_path / f"{split}annot" / "a.png", np.full((4, 4), 11, np.uint8))
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    with pytest.raises(SystemExit):
        exit_cleanly(main)(["data=camvid", f"root={tmp_path}", "counts=null"])
    assert "3 checks failed (train: readable" in capsys.readouterr().err
