"""A folder with what the commands of the documentation name: small data, weights of a micro model, files of boxes.

Data sets lie in `data/`, which stands for `/data/` of the documentation.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from documented import REPOSITORY, fenced_blocks
from export_pictures import HEIGHT, SPLITS, WIDTH, coco_content, rle, write_json, write_pictures
from part_trees import ade20k_part, paco, partimagenet, pascal_part
from PIL import Image


def write_stand_ins(folder: Path) -> None:
    """Write everything but runs and adapters, which commands make. `large` is the micro model by then."""
    data = folder / "data"
    _coco_trees(data)
    _label_maps(data)
    for tree, name in (
        (ade20k_part, "ADE20KPart234"),
        (pascal_part, "PascalPart116"),
        (paco, "paco"),
        (partimagenet, "PartImageNet"),
    ):
        tree(data / name)
    for split in ("train2017", "val2017"):  # COCO's images, of which PACO's are some
        shutil.copytree(data / "paco" / split, data / "coco" / split, dirs_exist_ok=True)
    write_pictures(folder / "photos", SPLITS["tune"])
    write_pictures(folder / "fields", SPLITS["tune"][:1])
    Image.new("RGB", (160, 120), (90, 140, 60)).save(folder / "aerial.tif")
    write_json(folder / "boxes.json", {"0007.png": [{"prompt": "wheel", "box": [30, 20, 32, 24], "positive": True}]})
    _scored_files(folder)
    _weights(folder)
    _files_of_the_documentation(folder)


def _files_of_the_documentation(folder: Path) -> None:
    """The plan and the data files that its pages show."""
    for page, name in (("ablation", "plan"), ("data", "shop"), ("data", "fields")):
        blocks = fenced_blocks(REPOSITORY / "docs" / f"{page}.md")
        begins = "question:" if name == "plan" else f"name: {name}"
        (content,) = (text for language, _, text in blocks if language == "yaml" and text.startswith(begins))
        (folder / f"{name}.yaml").write_text(content.replace("/data/", "data/"), encoding="utf-8")


def _coco_trees(data: Path) -> None:
    """One's own folder, in COCO's layout, and COCO's, whose splits have a year."""
    for root, year in ((data / "shop", ""), (data / "coco", "2017")):
        for split in ("train", "val"):
            write_json(root / "annotations" / f"instances_{split}{year}.json", coco_content(SPLITS[split]))
            write_pictures(root / f"{split}{year}", SPLITS[split])


def _label_maps(data: Path) -> None:
    """The trees of label maps, two classes in each picture."""
    ade, voc, ade847 = data / "ADEChallengeData2016", data / "VOCdevkit" / "VOC2010", data / "ADE20K_2021_17_01"
    for split, short in (("training", "train"), ("validation", "val")):
        _pairs(ade / "images" / split, ade / "annotations" / split, [f"ADE_{short}_00000001"], (1, 2), ".jpg")
        maps = ade847 / "annotations_detectron2" / split
        _pairs(ade847 / "images_detectron2" / split, maps, [f"{short}_1"], (0, 1), ".jpg", ".tif", bits=16)
        city = data / "cityscapes"
        photo, labels = city / "leftImg8bit" / short / "aachen", city / "gtFine" / short / "aachen"
        _pairs(photo, labels, ["aachen_1"], (7, 26), "_leftImg8bit.png", "_gtFine_labelIds.png")
        _pairs(voc / "JPEGImages", voc / "SegmentationClassContext", [short], (1, 2), ".jpg")
        lists = voc / "ImageSets" / "SegmentationContext"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{short}.txt").write_text(f"{short}\n")
    (ade / "objectInfo150.txt").write_text(object_info())
    (ade847 / "names.txt").write_text("".join(f"thing{number}\n" for number in range(847)))
    camvid = data / "camvid"
    for split in ("train", "val", "test"):
        _pairs(camvid / split, camvid / f"{split}annot", ["0001TP"], (0, 8), ".png")
    names = "sky building pole road pavement tree sign fence car pedestrian bicyclist"
    (camvid / "classes.txt").write_text("\n".join(names.split()) + "\n")


def object_info() -> str:
    """ADE20K's table of classes, with names of our own."""
    rows = (f"{number}\t0.1\t1\t1\t0\tthing{number}" for number in range(1, 151))
    return "\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows]) + "\n"


def _pairs(
    images: Path,
    maps: Path,
    names: Iterable[str],
    labels: tuple[int, int],
    image_ending: str,
    label_ending: str = ".png",
    bits: int = 8,
) -> None:
    values = np.full((HEIGHT, WIDTH), labels[0], np.uint16 if bits == 16 else np.uint8)
    values[:, WIDTH // 2 :] = labels[1]
    for folder in (images, maps):
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray((values % 5 * 50).astype(np.uint8)).convert("RGB").save(images / f"{name}{image_ending}")
        Image.fromarray(values).save(maps / f"{name}{label_ending}")


def _scored_files(folder: Path) -> None:
    """Files of `score`: annotations and results of COCO and SA-Co, and label maps."""
    shutil.copy(folder / "data" / "coco" / "annotations" / "instances_val2017.json", folder)
    truth = json.loads((folder / "instances_val2017.json").read_text(encoding="utf-8"))
    keys = ("image_id", "category_id", "bbox")
    results = [{**{key: one[key] for key in keys}, "score": 0.5} for one in truth["annotations"]]
    write_json(folder / "detections.json", results)
    pair = {"id": 1, "file_name": "a.png", "text_input": "car", "width": WIDTH, "height": HEIGHT}
    mask = rle((4, 4, 20, 20))
    outline = {"size": mask["size"], "counts": mask["counts"].decode()}  # type: ignore[attr-defined]
    one = {"image_id": 1, "category_id": 1, "segmentation": outline}
    gold = {**one, "id": 1, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
    images = [{**pair, "is_instance_exhaustive": 1}]
    write_json(
        folder / "saco_gold.json",
        {"images": images, "annotations": [gold], "categories": [{"id": 1, "name": "object"}]},
    )
    write_json(folder / "results.json", [{**one, "score": 0.9}])
    (folder / "objectInfo150.txt").write_text(object_info())
    for name in ("annotations/validation", "maps"):
        _pairs(folder / "thrown_away", folder / name, ["ADE_val_1"], (1, 2), ".png")


def _weights(folder: Path) -> None:
    """Checkpoints in SAM 3's own layout, with a tensor of the tracker, and a base that `pretrain` would have left."""
    import torch

    from sam3_hyperet.modeling.build import build_model
    from sam3_hyperet.modeling.config import packaged_file

    model = build_model("large", checkpoint="random")
    weights = {f"detector.{name}": tensor for name, tensor in model.state_dict().items()}
    for name in ("sam3.pt", "checkpoint.pt"):
        torch.save({**weights, "tracker.memory": torch.ones(3)}, folder / name)
    for base in (folder / "runs" / "pretrain-levels-102" / "base.safetensors", folder / "bases" / "one.safetensors"):
        base.parent.mkdir(parents=True)
        base.symlink_to(packaged_file("tiny_levels"))
