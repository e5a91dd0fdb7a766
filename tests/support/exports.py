"""One small set of drawn pictures, written to disk as different tools export it.

`EXPORTS["Roboflow"](folder)` writes the whole set below a folder, with the splits that the tool knows, and returns what
`data.root` is to be.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from export_pictures import (
    ALL,
    CATEGORIES,
    HEIGHT,
    SPLITS,
    WIDTH,
    Picture,
    coco_content,
    rle,
    write_json,
    write_pictures,
)
from mask_exports import cvat_masks, cvat_yolo, cvat_yolo_project, roboflow_yolo, yolo

TRAIN_VAL_TEST = {"train": "train", "tune": "val", "val": "test"}
"""What most trees call the splits: tuned on val, scored on test."""


def coco(root: Path) -> Path:
    """COCO's own tree, to which the others are compared."""
    for split, name in TRAIN_VAL_TEST.items():
        write_json(root / "annotations" / f"instances_{name}.json", coco_content(SPLITS[split]))
        write_pictures(root / name, SPLITS[split])
    return root


def coco_images(root: Path) -> Path:
    """The same with all images below one folder, as MMDetection's and Datumaro's users have it, and a year."""
    for split, name in TRAIN_VAL_TEST.items():
        write_json(root / "annotations" / f"instances_{name}2017.json", coco_content(SPLITS[split]))
        write_pictures(root / "images" / f"{name}2017", SPLITS[split])
    write_json(root / "annotations" / "captions_train2017.json", {"images": [], "annotations": []})
    return root


def roboflow(root: Path) -> Path:
    """Roboflow's COCO export: flat folders, renamed files, ids from 0, and a root category that annotates nothing."""
    for split, name in {"train": "train", "tune": "valid", "val": "test"}.items():
        content = coco_content(SPLITS[split], roboflow_name, first_id=1)
        for category in content["categories"]:
            category["supercategory"] = "objects"
        content["categories"].insert(0, {"id": 0, "name": "objects", "supercategory": "none"})
        write_json(root / name / "_annotations.coco.json", {"info": {"year": "2026"}, "licenses": [], **content})
        write_pictures(root / name, SPLITS[split], roboflow_name)
    (root / "README.roboflow.txt").write_text("shop\n")
    return root


def roboflow_name(picture: Picture, copy: int = 0) -> str:
    """What Roboflow calls a picture, or one of its augmented copies."""
    stem, _, ending = picture.name.rpartition("/")[2].rpartition(".")
    return f"{stem.replace(' ', '-')}_{ending}.rf.{copy:02}{picture.data[-20:].hex()[:30]}.jpg"


def rf100_vl(root: Path) -> Path:
    """A data set of RF100-VL: Roboflow's export of boxes alone."""
    for file in roboflow(root).glob("*/_annotations.coco.json"):
        write_json(file, without_masks(json.loads(file.read_text(encoding="utf-8"))))
    return root


def without_masks(content: dict) -> dict:
    """The same with boxes alone."""
    return {**content, "annotations": [{**one, "segmentation": []} for one in content["annotations"]]}


def odinw(root: Path) -> Path:
    """A data set of ODinW, boxes alone, with the other files of its folders."""
    for split, name in {"train": "train", "tune": "valid", "val": "test"}.items():
        for file in ("annotations_without_background", "_annotations.coco"):
            write_json(root / name / f"{file}.json", without_masks(coco_content(SPLITS[split])))
        write_pictures(root / name, SPLITS[split])
    write_json(root / "train" / "fewshot_train_shot1_seed3.json", coco_content(SPLITS["train"][:2]))
    return root


def cvat(root: Path) -> Path:
    """A CVAT task as COCO 1.0: one file for all pictures."""
    content = coco_content(ALL)
    write_json(root / "annotations" / "instances_default.json", {"licenses": [], "info": {}, **content})
    write_pictures(root / "images" / "default", ALL)
    return root


def cvat_project(root: Path) -> Path:
    """A CVAT project with subsets."""
    for split, name in {"train": "Train", "tune": "Validation", "val": "Test"}.items():
        write_json(root / "annotations" / f"instances_{name}.json", coco_content(SPLITS[split]))
        write_pictures(root / "images" / name, SPLITS[split])
    return root


def label_studio(root: Path) -> Path:
    """Label Studio's COCO export: ids from 0, and paths of Windows in which the folder is named."""
    content = coco_content(ALL, lambda picture: f"images\\{label_studio_name(picture)}", first_id=0)
    write_json(root / "result.json", {**content, "info": {"contributor": "Label Studio"}})
    write_pictures(root / "images", ALL, label_studio_name)
    return root


def label_studio_name(picture: Picture) -> str:
    """What Label Studio calls an uploaded picture."""
    return f"{picture.data[-20:].hex()[:8]}-{picture.name.rpartition('/')[2].replace(' ', '_')}"


def one_file(root: Path) -> Path:
    """One COCO file beside its pictures, as converters of labelme's files leave it."""
    write_json(root / "annotations.json", coco_content(ALL))
    write_pictures(root, ALL)
    return root


def files_beside_folders(root: Path) -> Path:
    """A file for each split beside their folders."""
    for split, name in {"train": "train", "tune": "valid", "val": "test"}.items():
        write_json(root / f"{name}_annotations.json", coco_content(SPLITS[split]))
        write_pictures(root / name, SPLITS[split])
    return root


def lvis(root: Path) -> Path:
    """LVIS beside COCO's pictures: named by URLs, with what each does not show, and what more it may show."""
    for split, name in {"train": "train", "val": "val"}.items():
        content = coco_content(SPLITS[split], flat)
        ids = {category["name"]: category["id"] for category in content["categories"]}
        for image, picture in zip(content["images"], SPLITS[split], strict=True):
            image["coco_url"] = f"http://images.cocodataset.org/train2017/{quote(image.pop('file_name'))}"
            shown = {category for category, *_ in picture.boxes}
            image["neg_category_ids"] = [ids[name] for name in CATEGORIES if name not in shown][:1]
            image["not_exhaustive_category_ids"] = []
        write_json(root / f"lvis_v1_{name}.json", content)
        write_pictures(root / "train2017", SPLITS[split], flat)
    return root


def flat(picture: Picture) -> str:
    """A picture's name without folders."""
    return picture.name.replace("/", "-")


def sa_co(root: Path) -> Path:
    """SA-Co's files: a record for each pair of a picture and a phrase, boxes and areas as fractions."""
    for split, name in {"train": "train", "val": "test"}.items():
        images, annotations = [], []
        for picture in SPLITS[split]:
            for phrase in ("car", "dog", "house"):
                number = 10_000_000 + len(images)
                pair = {"id": number, "file_name": picture.name, "text_input": phrase, "width": WIDTH, "height": HEIGHT}
                exhaustive = {"is_instance_exhaustive": 1, "is_pixel_exhaustive": 1}
                images.append({**pair, "queried_category": str(len(images)), **exhaustive})
                for category, *box in picture.boxes:
                    if category == phrase:
                        mask = rle(box)
                        annotations.append(
                            {
                                "id": len(annotations) + 1,
                                "image_id": number,
                                "category_id": 1,
                                "bbox": [box[0] / WIDTH, box[1] / HEIGHT, box[2] / WIDTH, box[3] / HEIGHT],
                                "area": box[2] * box[3] / WIDTH / HEIGHT,
                                "iscrowd": 0,
                                "source": "manual",
                                "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
                            }
                        )
        categories = [{"id": 1, "name": "object", "supercategory": "object"}]
        content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        write_json(root / f"gold_shop_merged_a_release_{name}.json", content)
        write_pictures(root / "shop-images", SPLITS[split])
    return root


EXPORTS: dict[str, Callable[[Path], Path]] = {
    "COCO": coco,
    "COCO, images in one folder": coco_images,
    "COCO, files beside folders": files_beside_folders,
    "COCO, one file": one_file,
    "Roboflow": roboflow,
    "RF100-VL": rf100_vl,
    "ODinW": odinw,
    "CVAT": cvat,
    "CVAT project": cvat_project,
    "Label Studio": label_studio,
    "LVIS": lvis,
    "SA-Co": sa_co,
    "YOLO": yolo,
    "YOLO of Roboflow": roboflow_yolo,
    "YOLO of CVAT": cvat_yolo,
    "YOLO of a CVAT project": cvat_yolo_project,
    "masks of CVAT": cvat_masks,
}
"""By the name of a layout, its writer."""
ONE_SPLIT = {"COCO, one file", "CVAT", "Label Studio", "masks of CVAT"}
"""Layouts without splits, whose validation images are held out of all."""
