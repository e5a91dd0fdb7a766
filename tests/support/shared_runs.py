"""A run's folder as `train` leaves it, with metrics of a small evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import save_file

from sam3_hyperet.hub.adapter_info import PACKAGED_BASES
from sam3_hyperet.modeling.adapter_source import FORMAT

METRICS = {
    "precision": "32-true",
    "params/added_ratio": 0.0027,
    "train/steps": 1100,
    "base/shop/images": 120,
    "shop/images": 120,
    "base/shop/part/segm/AP": 0.106,
    "shop/part/segm/AP": 0.178,
    "difference/shop/part/segm/AP": 0.072,
    "difference/shop/part/segm/AP/low": 0.059,
    "difference/shop/part/segm/AP/high": 0.09,
    "base/shop/part/bbox/AP": 0.1,
    "shop/part/bbox/AP": 0.1,
    "base/shop/part/segm/AP/wheel": 0.1,
    "shop/part/segm/AP/wheel": 0.2,
    "base/shop/fused/mIoU": 0.852,
    "shop/fused/mIoU": 0.843,
    "difference/shop/fused/mIoU": -0.009,
    "difference/shop/fused/mIoU/low": -0.016,
    "difference/shop/fused/mIoU/high": -0.003,
    "base/shop/part/presence/accuracy_absent": 1.0,
    "shop/part/presence/accuracy_absent": 0.93,
    "shop/forgetting/object/segm/AP": 0.006,
}
ALONG = {
    "base/coco/segm/AP": 0.5,
    "dial_0.5/coco/segm/AP": 0.49,
    "dial_1/coco/segm/AP": 0.46,
}


def write_adapter(path: Path, base: str = PACKAGED_BASES["tiny_levels"], encoder: str = "", **config: object) -> Path:
    """A small adapter file, of no real model; `encoder` lists the adjusted modules of one other than SAM 3's."""
    tensors = {
        "a.adjustment.gate.weight": np.ones(4, "f4"),
        "a.adjustment.hyperet.matrix.offset": np.ones((4, 4), "f4"),
    }
    options = {"scheme": "B", "gate": "prompt", **config}
    metadata = {"format": FORMAT, "version": "0.1.0", "dial": "0.75", "base": base, "config": json.dumps(options)}
    metadata |= {"encoder": encoder} if encoder else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)
    return path


def write_run(folder: Path, checkpoint: str | None = None, **adapter: object) -> Path:
    """A run's folder with an adapter file of no real model."""
    write_adapter(folder / "adapter.safetensors", **adapter)
    config = {
        "name": "shop",
        "run_dir": str(folder),
        "seed": 0,
        "model": {"name": "tiny_levels" if checkpoint is None else "large", "checkpoint": checkpoint},
        "data": {
            "name": "shop",
            "format": "coco",
            "root": "/home/somebody/shop",
            "groups": {"part": ["wheel", "roof"]},
        },
        "paths": {"coco": "/home/somebody/coco"},
        "launcher": {"account": "grant-1234"},
        "stage": {"number": 1},
        "train": {"batch_size": 1, "accumulate": 8, "devices": 2},
        "protocol": {"max_dets": 100},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "versions.json").write_text(json.dumps({"sam3_hyperet": "0.1.0", "torch": "2.14.1"}))
    return folder
