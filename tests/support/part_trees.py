"""Small trees of the part benchmarks, in the layouts of their archives; pictures are noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from export_pictures import write_json
from omegaconf import OmegaConf
from PIL import Image
from pycocotools import mask as coco_mask

from sam3_hyperet.cli.command import CONFIGS, parse_command
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.options import read_options

HEIGHT, WIDTH = 24, 32
PACO_NAMES = {  # as the files have them: objects, then pairs of object and part
    1: "bicycle",
    2: "car_(automobile)",
    3: "mug",
    4: "bicycle:wheel",
    5: "car_(automobile):wheel",
    6: "car_(automobile):roof",
    7: "mug:handle",
}
OTHERS = {  # the other names that the configuration of PACO renames
    8: "drum_(musical_instrument)",
    9: "glass_(drink_container)",
    10: "mouse_(computer_equipment)",
    11: "pan_(for_cooking)",
    12: "slipper_(footwear)",
    13: "tape_(sticky_cloth_or_paper)",
    14: "pipe:colied_tube",
    15: "car_(automobile):runningboard",
    16: "car_(automobile):steeringwheel",
    17: "car_(automobile):turnsignal",
    18: "pipe",
}


def data_options(data: str, root: Path, *overrides: str) -> DataOptions:
    """The options of a data set of the configurations, at another root."""
    config = parse_command("train", [f"data={data}", f"paths.{data}={root}", *overrides])[1]
    return read_options(DataOptions, OmegaConf.to_container(config.data, resolve=True), "data")


def box(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def coco_content(
    names: Mapping[int, str], images: Sequence[dict[str, object]], regions: Sequence[tuple[int, int, np.ndarray]], above
) -> dict[str, object]:
    """A COCO file of regions (image id, category id, mask); above: the supercategory of a name."""
    annotations = []
    for number, (image, category, mask) in enumerate(regions, start=1):
        rle = coco_mask.encode(np.asfortranarray(mask))
        segmentation = {"size": list(rle["size"]), "counts": rle["counts"].decode()}
        annotation = {"id": number, "image_id": image, "category_id": category, "area": int(mask.sum()), "iscrowd": 0}
        annotations.append(annotation | {"bbox": coco_mask.toBbox(rle).tolist(), "segmentation": segmentation})
    categories = [{"id": i, "name": name, "supercategory": above(name)} for i, name in names.items()]
    return {"images": list(images), "annotations": annotations, "categories": categories}


def paco(root: Path) -> Path:
    """Four pictures a split on COCO's folders: a car with wheels and roof, a bicycle with wheels, a mug, a bare car."""
    names = PACO_NAMES | OTHERS
    regions = [
        (1, 2, box(2, 2, 20, 16)),
        (1, 5, box(3, 12, 5, 5)),
        (1, 5, box(14, 12, 5, 5)),
        (1, 6, box(6, 2, 10, 4)),
        (2, 1, box(4, 4, 24, 16)),
        (2, 4, box(4, 12, 7, 7)),
        (2, 4, box(20, 12, 7, 7)),
        (3, 3, box(8, 8, 10, 12)),
        (3, 7, box(17, 11, 4, 5)),
        (4, 2, box(0, 0, 18, 14)),
    ]
    for split, folder in (("train", "train2017"), ("val", "train2017"), ("test", "val2017")):
        first = {"train": 0, "val": 4, "test": 8}[split]
        images = []
        for number in range(1, 5):
            file = f"{folder}/{first + number:012}.jpg"
            noise(root / file, first + number)
            known = [i for image, i, _ in regions if image == number]
            absent = [i for i in (1, 2, 3, 4, 5, 6, 7) if i not in known][:2]
            record = {"id": first + number, "file_name": file, "height": HEIGHT, "width": WIDTH}
            images.append(record | {"neg_category_ids": absent, "not_exhaustive_category_ids": []})
        placed = [(first + image, category, mask) for image, category, mask in regions]
        content = coco_content(names, images, placed, lambda name: "PART" if ":" in name else "OBJECT")
        write_json(root / "annotations" / f"paco_lvis_v1_{split}.json", content)
    return root


def partimagenet(root: Path) -> Path:
    """Two pictures a split: a quadruped with head and body, a car with two tires and a side mirror."""
    names = {0: "Quadruped Head", 1: "Quadruped Body", 25: "Car Tier", 26: "Car Side Mirror"}
    regions = [
        (0, 0, box(2, 2, 6, 6)),
        (0, 1, box(8, 4, 16, 10)),
        (1, 25, box(4, 14, 6, 6)),
        (1, 25, box(20, 14, 6, 6)),
        (1, 26, box(12, 4, 4, 3)),
    ]
    for seed, split in enumerate(("train", "val", "test")):
        images = []
        for number, synset in enumerate(("n02114855", "n02701002")):
            file = f"{synset}_{seed}{number}.JPEG"
            noise(root / "images" / split / file, 10 * seed + number)
            images.append({"id": number, "file_name": file, "height": HEIGHT, "width": WIDTH})
        content = coco_content(names, images, regions, lambda name: name.split()[0])
        write_json(root / "annotations" / split / f"{split}.json", content)
    return root


def labels(path: Path, values: np.ndarray, bits: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint16 if bits == 16 else np.uint8)).save(path)


def ov_parts_names(data: str) -> list[str]:
    """The names of a part benchmark's labels, by its configuration."""
    return list(OmegaConf.load(CONFIGS / "data" / f"{data}.yaml").names)


def part_labels(data: str, seed: int, ignore: int) -> np.ndarray:
    """(H, W) labels: blocks of parts of a seen and an unseen object, and pixels of no class."""
    names = ov_parts_names(data)
    shown = SHOWN[data]
    rng = np.random.default_rng(seed)
    values = np.full((HEIGHT, WIDTH), ignore)
    for k, name in enumerate(shown):
        y, x = divmod(k, 4)
        values[y * 8 : y * 8 + 7, x * 8 : x * 8 + rng.integers(4, 8)] = names.index(name)
    return values


SHOWN = {
    "ade20k_part": ("car's wheel", "car's door", "car's hood", "bus's wheel", "bus's door", "light's shade"),
    "pascal_part": ("cat's head", "cat's tail", "bird's head", "bird's wing", "tvmonitor's screen", "bird's eye"),
}


def ade20k_part(root: Path) -> Path:
    """Two pictures a split: 16-bit maps of parts, and a COCO file of the objects, the last picture not in it."""
    for seed, (split, short) in enumerate((("training", "train"), ("validation", "val"))):
        regions, images = [], []
        for number in range(2):
            file = f"ADE_{short}_{number:08}"
            noise(root / "images" / split / f"{file}.jpg", 10 * seed + number)
            values = part_labels("ade20k_part", 10 * seed + number, 65535)
            labels(root / "annotations_detectron2_part" / split / f"{file}.png", values, 16)
            if number == 0:
                images.append({"id": number, "file_name": f"{file}.jpg", "height": HEIGHT, "width": WIDTH})
                regions += [(number, 0, box(0, 0, 24, 8)), (number, 1, box(24, 0, 8, 8)), (number, 1, box(0, 8, 8, 8))]
        names = {0: "car, auto, automobile", 1: "bus", 2: "light"}
        content = coco_content(names, images, regions, lambda name: "")
        (root / f"ade20k_instance_{short}.json").write_text(json.dumps(content))
    return root


def pascal_part(root: Path) -> Path:
    """Two pictures a split: 8-bit maps of parts, and of VOC's objects."""
    for seed, split in enumerate(("train", "val")):
        for number in range(2):
            file = f"2008_{seed}{number:05}"
            noise(root / "images" / split / f"{file}.jpg", 10 * seed + number)
            values = part_labels("pascal_part", 10 * seed + number, 255)
            labels(root / "annotations_detectron2_part" / split / f"{file}.png", values, 8)
            objects = np.full((HEIGHT, WIDTH), 255)
            objects[:8, :16], objects[:8, 16:], objects[8:16, :8], objects[8:16, 8:16] = 7, 2, 19, 2
            labels(root / "annotations_detectron2_obj" / split / f"{file}.png", objects, 8)
    return root
