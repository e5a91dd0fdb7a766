"""`sam3-hyperet score`: the metrics of prediction files that anyone made."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from sam3_hyperet.cli.command import check_output, parse_command, write_json
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.metrics.instances.cg_f1 import SCORE_THRESHOLD
from sam3_hyperet.evaluation.scoring.cg_f1 import cg_f1_of_files
from sam3_hyperet.evaluation.scoring.coco_ap import score_coco_files
from sam3_hyperet.evaluation.scoring.label_maps import read_names, score_label_folders
from sam3_hyperet.version import __version__

_PACKAGES = ("pycocotools", "faster-coco-eval", "numpy", "pillow")


def main(argv: list[str] | None = None) -> None:
    """Print the metrics, and write them if `out=` says where."""
    subcommand, config = parse_command("score", argv)
    if config.out is not None:
        truths = config.get("gt")
        check_output(config.out, config.predictions, *(truths if isinstance(truths, ListConfig) else [truths]))
    report = {"coco": score_coco, "cgf1": score_cgf1, "semantic": score_semantic}[subcommand](config)
    _print_table(report)
    if config.out is not None:
        write_json(str(config.out), report)


def score_coco(config: DictConfig) -> dict[str, Any]:
    """The flat report of a COCO results file; options: configs/score/coco.yaml."""
    options = _options(config)
    types = options["iou_types"]
    chosen = (types.split(",") if isinstance(types, str) else types) if types else None
    groups = options["groups"] or {}
    if not isinstance(groups, dict) or not all(isinstance(ids, list) for ids in groups.values()):
        raise ConfigError(f"score coco: groups is {groups!r}, expected {{name:[id,…],…}}")
    metrics = score_coco_files(str(options["gt"]), str(options["predictions"]), chosen, groups)
    protocol = {
        "protocol": "COCO AP",
        "protocol/max_detections": "100 per image and category; AP@100/img: 100 per image",
        "protocol/absent": "-1",
    }
    return protocol | _sources(options, "gt", "predictions") | metrics | _versions()


def score_cgf1(config: DictConfig) -> dict[str, Any]:
    """The flat report of results on SA-Co's files; options: configs/score/cgf1.yaml."""
    options = _options(config)
    truths = options["gt"] if isinstance(options["gt"], list) else [options["gt"]]
    metrics = cg_f1_of_files([str(path) for path in truths], str(options["predictions"]), str(options["iou_type"]))
    protocol = {
        "protocol": "cgF1",
        "protocol/iou_type": options["iou_type"],
        "protocol/claim": f"a detection of a score of at least {SCORE_THRESHOLD}",
        "protocol/annotators": len(truths),
    }
    return protocol | _sources(options, "gt", "predictions") | metrics | _versions()


def score_semantic(config: DictConfig) -> dict[str, Any]:
    """The flat report of a folder of label maps; options: configs/score/semantic.yaml."""
    options = _options(config)
    for key in ("offset", "ignore"):
        if not isinstance(options[key], int | None) or isinstance(options[key], bool):
            raise ConfigError(f"score semantic: {key} is {options[key]!r}, expected an integer")
    encoding = read_names(str(options["names"]), options["offset"], options["ignore"])
    metrics = score_label_folders(str(options["labels"]), str(options["predictions"]), encoding)
    protocol = {
        "protocol": "semantic mIoU",
        "protocol/classes": len(encoding.names),
        "protocol/offset": encoding.offset,
        "protocol/ignore": encoding.ignore,
        "protocol/unassigned": f"the value {encoding.ignore} in a prediction; counts as missed",
    }
    return protocol | _sources(options, "labels", "predictions", "names") | metrics | _versions()


def _options(config: DictConfig) -> dict[str, Any]:
    return {str(key): value for key, value in OmegaConf.to_object(config).items()}  # type: ignore[union-attr]


def _sources(options: Mapping[str, Any], *keys: str) -> dict[str, str]:
    return {f"source/{key}": str(options[key]) for key in keys}


def _versions() -> dict[str, str]:
    versions = {"version/sam3_hyperet": __version__}
    for package in _PACKAGES:
        try:
            versions[f"version/{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[f"version/{package}"] = "not installed"
    return versions


def _print_table(report: Mapping[str, Any]) -> None:
    table = Table("metric", "value")
    table.columns[1].justify = "right"
    for key, value in report.items():
        if key.startswith(("version/", "source/")):
            continue
        if value == -1 and "/AP/" in key:
            continue  # a category that does not occur
        if value == -1:  # of what does not occur
            table.add_row(key, "–")
        else:
            table.add_row(key, f"{value:.4f}" if isinstance(value, float) else str(value))
    Console().print(table)
