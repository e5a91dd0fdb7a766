"""Every reader of files, with valid files for it to spoil; a reader uses all that it reads, as a tool would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from export_pictures import write_json
from exports import EXPORTS
from hostile_trees import RLE, write_tree
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open

import sam3_hyperet as hy
from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.of_run import read_yaml, sections_of_runs
from sam3_hyperet.cli.run_options import read_run
from sam3_hyperet.data import coco_json
from sam3_hyperet.data.ade20k import read_object_info
from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.data.coco import read_coco_images
from sam3_hyperet.data.hierarchy import read_tree
from sam3_hyperet.data.image_files import read_image
from sam3_hyperet.data.label_maps import read_label_values
from sam3_hyperet.data.notes import data_notes
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.scoring.cg_f1 import cg_f1_of_files
from sam3_hyperet.evaluation.scoring.coco_ap import score_coco_files
from sam3_hyperet.evaluation.scoring.label_maps import read_names, score_label_folders
from sam3_hyperet.layouts.table import explicit
from sam3_hyperet.modeling.checkpoint import load_base
from sam3_hyperet.modeling.config import ModelOptions
from sam3_hyperet.modeling.layouts.transformers_folder import save_transformers
from sam3_hyperet.options import read_options
from sam3_hyperet.training.run_log import read_history
from sam3_hyperet.training.state import read_state, restore_state, save_state


@dataclass(frozen=True)
class Reader:
    """write: makes the valid files below a folder and returns those to spoil. read: reads them from there.

    kind: what the files are where their endings do not say it. seal: what is done to a file once it is spoiled.
    """

    write: Callable[[Path], list[Path]]
    read: Callable[[Path], object]
    kind: str = ""
    seal: Callable[[Path], None] = lambda path: None


class Models:
    """The tiny model, built when it is first needed, and never without adapters twice."""

    _base: object = None

    @classmethod
    def base(cls):
        if cls._base is None:
            cls._base = hy.build_model("tiny", checkpoint="random")
        return cls._base


def _base(name: str, **options: bool) -> Callable[[Path], list[Path]]:
    def write(root: Path) -> list[Path]:
        tensors = dict(Models.base().named_parameters())
        if name.endswith(".pt"):
            torch.save({key: tensor.detach() for key, tensor in tensors.items()}, root / name, **options)
        else:
            save_transformers(Models.base(), root / "folder")
            (root / "folder" / "model.safetensors").rename(root / name)
        return [root / name]

    return write


def _parts(root: Path) -> list[Path]:
    _base("model.safetensors")(root)
    with safe_open(root / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "model.safetensors")}
    write_json(root / "model.safetensors.index.json", index)  # type: ignore[arg-type]
    return [root / "model.safetensors.index.json"]


def _adapter(**options: object) -> Callable[[Path], list[Path]]:
    def write(root: Path) -> list[Path]:
        model = hy.adapted_copy(Models.base(), hy.HyperETConfig(**options))
        hy.save_adapter(model, root / "adapter.safetensors")
        return [root / "adapter.safetensors"]

    return write


def _tree(*names: str) -> Callable[[Path], list[Path]]:
    def write(root: Path) -> list[Path]:
        adapter = root / "none"
        adapter.touch()
        write_tree(root / "tree", adapter)
        return [root / "tree" / name for name in names]

    return write


def _loaded(images: AnnotatedImages) -> list[Image.Image]:
    return [images.load_image(i) for i in range(len(images))]


def _export(name: str) -> Callable[[Path], list[Path]]:
    def write(root: Path) -> list[Path]:
        files = [path for path in EXPORTS[name](root / "shop").rglob("*") if path.is_file()]
        images = [path for path in files if path.suffix.lower() == ".png"]
        return sorted(set(files) - set(images)) * 3 + sorted(images)[:2]

    return write


def _open_export(root: Path) -> None:
    options = DataOptions(name="", format="auto", root=str(root / "shop"), splits={}, tune_images=0)
    options, _ = explicit(options)
    for split in ("train", "val"):
        images = open_split(options, split).images
        data_notes(images)
        for i in range(min(2, len(images))):
            images.load_image(i)
            images.instances(i)
            images.label_map(i)
            images.unlabelled(i)


def _open_large(root: Path) -> None:
    """As a file of many megabytes is read, with an index beside it."""
    usual, coco_json.LARGE = coco_json.LARGE, 1
    try:
        _open_export(root)
    finally:
        coco_json.LARGE = usual


def _index(root: Path) -> list[Path]:
    _export("COCO")(root)
    _open_large(root)
    return sorted(root.rglob(".*.index"))


def _picture(name: str, **options: object) -> Callable[[Path], list[Path]]:
    def write(root: Path) -> list[Path]:
        pixels = np.arange(16 * 24 * 3).reshape(16, 24, 3).astype(np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(root / name, exif=exif, **options)
        return [root / name]

    return write


def _labels(root: Path) -> list[Path]:
    values = np.arange(16 * 24).reshape(16, 24) % 3
    image = Image.fromarray(values.astype(np.uint8)).convert("P")
    image.save(root / "labels.png")
    Image.fromarray(values.astype(np.uint16)).save(root / "labels.tif")
    return [root / "labels.png", root / "labels.tif"]


def _pairs(root: Path) -> list[Path]:
    image = {"id": 1, "file_name": "a.png", "text_input": "car", "height": 16, "width": 24, "is_instance_exhaustive": 1}
    truth = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 8, 8], "area": 64, "iscrowd": 0}
    content = {
        "images": [image],
        "annotations": [truth | {"segmentation": RLE}],
        "categories": [{"id": 1, "name": "o"}],
    }
    write_json(root / "gt.json", content)
    found = {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [2, 2, 8, 8], "segmentation": RLE}
    write_json(root / "found.json", [found])  # type: ignore[arg-type]
    return [root / "gt.json", root / "found.json"]


def _concepts(root: Path) -> list[Path]:
    tree = [{"id": n, "name": f"c{n}", "granularity": "object", "parents": [n - 1] if n else []} for n in range(4)]
    write_json(root / "concepts.json", tree)  # type: ignore[arg-type]
    return [root / "concepts.json"]


def _text(name: str, content: str) -> Callable[[Path], list[Path]]:
    def write(root: Path) -> list[Path]:
        (root / name).write_text(content)
        return [root / name]

    return write


def _run(root: Path) -> list[Path]:
    _, config = parse_command("train", [f"run_dir={root}"])
    (root / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    return [root / "config.yaml"]


def _open_run(root: Path) -> None:
    sections = sections_of_runs([str(root)], ["model", "data"], root)
    for name, cls in (("model", ModelOptions), ("data", DataOptions)):
        read_options(cls, _plain(sections[name]), name)
    read_run(_plain(read_yaml(root / "config.yaml", "config.yaml")))


def _plain(config: object) -> dict[str, object]:
    return OmegaConf.to_container(config)  # type: ignore[return-value]


def _small() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def _state(root: Path) -> list[Path]:
    save_state(root / "state.pt", *_small(), {"step": 3, "best": 0.5})
    content = (root / "state.pt").read_bytes()[:-32]
    (root / "state.pt").write_bytes(content)  # without its checksum, which `_seal` writes
    return [root / "state.pt"]


def _seal(path: Path) -> None:
    if path.is_file():
        content = path.read_bytes()
        path.write_bytes(content + hashlib.blake2b(content, digest_size=32).digest())


def _records(root: Path) -> list[Path]:
    RecordStore(root).prepare({"a": 1})
    RecordStore(root).write(0, {"scores": np.ones(3, np.float32), "hits": np.zeros((2, 3), bool)})
    return [root / "000000.npz", root / "fingerprint.json"]


def _open_records(root: Path) -> None:
    RecordStore(root).read(0)
    RecordStore(root)._mismatch({"a": 1})


YAML = "name: shop\nformat: coco\nroot: /data\nsplits:\n  train: train\n  val: [val, val.json]\nignore: 255\nshots: 3\n"
INFO = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t9\t9\t1\twall\n2\t0.1\t9\t9\t0\tbuilding, edifice\n"
HISTORY = "".join(json.dumps({"step": n, "train/loss": 0.5, "train/seconds": 1.0}) + "\n" for n in range(4))
READERS: dict[str, Reader] = {
    "base, torch.save": Reader(_base("a.pt"), lambda root: load_base(Models.base(), root / "a.pt")),
    "base, transformers": Reader(
        _base("model.safetensors"), lambda root: load_base(Models.base(), root / "model.safetensors")
    ),
    "base, in parts": Reader(_parts, lambda root: load_base(Models.base(), root / "model.safetensors.index.json")),
    "adapter": Reader(_adapter(), lambda root: hy.adapted_copy(Models.base(), root / "adapter.safetensors")),
    "adapter, bitfit": Reader(
        _adapter(adapter="bitfit"), lambda root: hy.adapted_copy(Models.base(), root / "adapter.safetensors")
    ),
    "predict annotations=": Reader(
        _tree("coco/annotations/instances_val.json"),
        lambda root: _loaded(
            read_coco_images(root / "tree/coco/annotations/instances_val.json", root / "tree/coco/val")
        ),
    ),
    "COCO results": Reader(
        _tree("detections.json", "coco/annotations/instances_val.json"),
        lambda root: score_coco_files(root / "tree/coco/annotations/instances_val.json", root / "tree/detections.json"),
    ),
    "SA-Co results": Reader(_pairs, lambda root: cg_f1_of_files([root / "gt.json"], root / "found.json")),
    "label-map results": Reader(
        _tree("maps/labels/1.png", "maps/predictions/1.png", "maps/names.txt"),
        lambda root: score_label_folders(
            root / "tree/maps/labels", root / "tree/maps/predictions", read_names(root / "tree/maps/names.txt")
        ),
    ),
    "label maps": Reader(_labels, lambda root: [read_label_values(root / f"labels.{end}") for end in ("png", "tif")]),
    "objectInfo150.txt": Reader(_text("info.txt", INFO), lambda root: read_object_info(root / "info.txt")),
    "concepts.json": Reader(_concepts, lambda root: read_tree(root / "concepts.json")),
    "data=own.yaml": Reader(
        _text("own.yaml", YAML),
        lambda root: read_options(DataOptions, _plain(read_yaml(root / "own.yaml", "data=own.yaml")), "data"),
    ),
    "run": Reader(_run, _open_run),
    "state.pt": Reader(
        _state, lambda root: restore_state(root / "state.pt", read_state(root / "state.pt"), *_small()), seal=_seal
    ),
    "metrics.jsonl": Reader(_text("metrics.jsonl", HISTORY), lambda root: read_history(root / "metrics.jsonl")),
    "records": Reader(_records, _open_records),
    **{
        f"image.{end}": Reader(
            _picture(f"a.{end}", **options), lambda root, end=end: read_image(root / f"a.{end}", upright=True)
        )
        for end, options in {"png": {}, "jpg": {}, "webp": {}, "tif": {"compression": "tiff_lzw"}, "bmp": {}}.items()
    },
    "COCO, large": Reader(lambda root: [path for path in _export("COCO")(root) if path.suffix == ".json"], _open_large),
    "COCO index": Reader(_index, _open_large),
    **{f"export {name}": Reader(_export(name), _open_export) for name in EXPORTS},
}
"""By what is read."""
