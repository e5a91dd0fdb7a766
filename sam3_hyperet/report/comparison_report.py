"""The report of a comparison of models: report.html, and the main table as comparison.md and comparison.tex."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from sam3_hyperet import sam3_host as host
from sam3_hyperet.choices import BF16
from sam3_hyperet.evaluation.compare import Comparison
from sam3_hyperet.evaluation.dial import DialFront
from sam3_hyperet.evaluation.models import BASE
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.dial import dial_of
from sam3_hyperet.report import evidence
from sam3_hyperet.report.content import Report
from sam3_hyperet.report.description import descriptions, facts, kind_of_base
from sam3_hyperet.report.examples import examples, extremes, semantic_examples
from sam3_hyperet.report.report import write_report, write_tables
from sam3_hyperet.training import run_log
from sam3_hyperet.training.run_files import HISTORY_FILE, REPORT_FILE
from sam3_hyperet.version import versions
from sam3_hyperet.wording import count_of, without_folders

_RADIUS_MAPS = 3
_EXTREMES = 3  # images that gained most, and as many that lost most
_BF16_MEASURED = "beside fp32, on the tiny model and scenes, AP moved by up to .0014, mIoU by .002, box AP by .0013"


def write_comparison(
    compared: Comparison, run_dir: Path, config_text: str, front: DialFront | None = None, base: str = ""
) -> None:
    """Write report.html, comparison.md and comparison.tex; radii, gained and lost are those of the last model.

    Along a dial, these, images and curves are of one model, for the others are between it and the base.
    base: name of the base weights.
    """
    names, comparison = evidence.adapted_names(compared), evidence.detailed(compared)
    task, last = comparison.task, comparison.results[-1].model.name
    notes, is_part = list(compared.notes), len(comparison.results) < len(compared.results)
    if front is not None and front.chosen is not None:
        notes.append(f"The adapter is at {front.choice()}.")
    if is_part:
        notes.append(f"Curves, images and radii are those of the base and of {last}, which is called adapted there.")
    elif len(names) > 1:
        notes.append(f"Images that gained and lost most, bars, radius maps: those of {last}, the last of the models.")
    described = descriptions(compared)
    gained, lost = extremes(comparison, _EXTREMES) if task.shown else ([], [])
    report = Report(
        title=run_dir.name,
        metrics=comparison.metrics,
        history=run_log.read_history(run_dir / HISTORY_FILE),
        protocol=protocol_facts(compared),
        config=_without_folders(config_text),
        versions=versions(),
        models=names,
        kind=kind_of_base(compared),
        groups=compared.data.groups_note,
        facts=facts(compared, described, base),
        described=described if len(described) > 1 else (),
        examples=examples(comparison),
        gained=examples(comparison, gained),
        lost=examples(comparison, lost),
        semantic_examples=semantic_examples(comparison),
        radius=evidence.radius_shifts(comparison.results[-1]),
        radius_maps=evidence.radius_maps(comparison, list(dict.fromkeys(i for i, _ in task.shown))[:_RADIUS_MAPS]),
        precision_recall=evidence.precision_recall(comparison),
        risk_coverage=evidence.risk_coverage(comparison),
        confusion=evidence.tree_confusion(comparison),
        instances=evidence.instance_counts(comparison),
        dropped=dict(task.split.images.dropped),
        notes=notes,
        front=front,
        gates=evidence.gates_of_prompts(comparison),
        detailed=(last,) if is_part else (),
    )
    write_report(report, run_dir / REPORT_FILE)
    write_tables(report, run_dir)


def _without_folders(config_text: str) -> str:
    """A configuration whose absolute paths are their last names: the report is passed on."""

    def shown(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shown(one) for key, one in value.items()}
        if isinstance(value, list):
            return [shown(one) for one in value]
        return without_folders(value) if isinstance(value, str) else value

    return OmegaConf.to_yaml(OmegaConf.create(shown(OmegaConf.to_container(OmegaConf.create(config_text)))))


def protocol_facts(comparison: Comparison) -> dict[str, str]:
    """How the metrics were computed, for people."""
    split, task = comparison.task.split, comparison.task
    images = f"{len(task.positions)} of {count_of(len(split.images), 'image')}"
    prompted = task.protocol.prompted_by or "absent ones included"
    found = {
        "data": f"{comparison.data.name}, {split.name} split, {images}",
        "vocabulary": f"{count_of(len(task.vocabulary), 'prompt')}, {prompted}",
        "boxes": "SAM 3's own, not clamped to the image",
        "resolution": f"{resolution(comparison.results[-1].model.model)} pixels, square",
        "sam3": host.SAM3_VERSION,
        "threads": str(torch.get_num_threads()),
    }
    adapters = {one.model.name: one.model.adapter_file for one in comparison.results if one.model.adapter_file}
    for name, file in adapters.items():
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        found["adapter" if len(adapters) == 1 else f"adapter {name}"] = f"SHA-256 {digest}…"
    dials = {one.model.name: dial_of(one.model.model) for one in comparison.results if one.model.name != BASE}
    found |= {f"dial of {name}": f"{dial:g}" for name, dial in dials.items() if dial != 1.0}
    found |= {key: str(value) for key, value in asdict(task.protocol).items()}
    return found | ({"precision": f"{BF16}; {_BF16_MEASURED}"} if task.protocol.precision == BF16 else {})
