"""`sam3-hyperet score`: the metrics of prediction files that anyone made."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from sam3_hyperet.cli.command import check_output, parse_command
from sam3_hyperet.cli.composition import plain
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.metrics.instances.cg_f1 import SCORE_THRESHOLD
from sam3_hyperet.evaluation.scoring.cg_f1 import cg_f1_of_files
from sam3_hyperet.evaluation.scoring.coco_ap import score_coco_files
from sam3_hyperet.evaluation.scoring.label_maps import read_names, score_label_folders
from sam3_hyperet.files import write_json
from sam3_hyperet.version import versions

_PACKAGES = ("pycocotools", "faster-coco-eval", "numpy", "pillow")
_SOURCES = ("gt", "labels", "predictions", "names")


def main(argv: list[str] | None = None) -> None:
    """Print the metrics, and write them if `out=` says where."""
    subcommand, config = parse_command("score", argv)
    options: dict[str, Any] = plain(config)
    if options["out"] is not None:
        check_output(options["out"], options["predictions"], *_truths(options))
    protocol, metrics = {"coco": _coco, "cgf1": _cg_f1, "semantic": _semantic}[subcommand](options)
    _print_table(protocol | metrics)
    if options["out"] is not None:
        sources = {f"source/{key}": str(options[key]) for key in _SOURCES if key in options}
        of_packages = {f"version/{name}": version for name, version in versions(*_PACKAGES).items()}
        write_json(str(options["out"]), protocol | sources | metrics | of_packages)


def _coco(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Protocol and metrics of a COCO results file; options: configs/score/coco.yaml."""
    types = options["iou_types"]
    chosen = (types.split(",") if isinstance(types, str) else types) if types else None
    groups = options["groups"] or {}
    if not isinstance(groups, dict) or not all(isinstance(ids, list) for ids in groups.values()):
        raise ConfigError(f"score coco: groups is {groups!r}, expected {{name:[id,…],…}}")
    protocol = {
        "protocol": "COCO AP",
        "protocol/max_detections": "100 per image and category; AP@100/img: 100 per image",
        "protocol/absent": "-1",
    }
    return protocol, score_coco_files(str(options["gt"]), str(options["predictions"]), chosen, groups, _say())


def _cg_f1(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Protocol and metrics of results on SA-Co's files; options: configs/score/cgf1.yaml."""
    truths, iou_type = list(map(str, _truths(options))), str(options["iou_type"])
    protocol = {
        "protocol": "cgF1",
        "protocol/iou_type": iou_type,
        "protocol/claim": f"a detection of a score of at least {SCORE_THRESHOLD}",
        "protocol/annotators": len(truths),
    }
    return protocol, cg_f1_of_files(truths, str(options["predictions"]), iou_type)


def _semantic(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Protocol and metrics of a folder of label maps; options: configs/score/semantic.yaml."""
    for key in ("offset", "ignore"):
        if not isinstance(options[key], int | None) or isinstance(options[key], bool):
            raise ConfigError(f"score semantic: {key} is {options[key]!r}, expected an integer")
    encoding = read_names(str(options["names"]), options["offset"], options["ignore"])
    protocol = {
        "protocol": "semantic mIoU",
        "protocol/classes": len(encoding.names),
        "protocol/offset": encoding.offset,
        "protocol/ignore": encoding.ignore,
        "protocol/unassigned": f"the value {encoding.ignore} in a prediction; counts as missed",
    }
    return protocol, score_label_folders(str(options["labels"]), str(options["predictions"]), encoding, _say())


def _say() -> Callable[[str], None]:
    return partial(Console().print, markup=False, soft_wrap=True, highlight=False)


def _truths(options: Mapping[str, Any]) -> list[Any]:
    truths = options.get("gt")
    return truths if isinstance(truths, list) else [truths]


def _print_table(values: Mapping[str, Any]) -> None:
    table = Table("metric", "value")
    table.columns[1].justify = "right"
    for key, value in values.items():
        if value != -1:
            table.add_row(key, f"{value:.4f}" if isinstance(value, float) else str(value))
        elif "/AP/" not in key:  # a category that does not occur has no row
            table.add_row(key, "–")
    Console().print(table)
