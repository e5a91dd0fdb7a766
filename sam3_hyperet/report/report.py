"""The report of a run: one HTML file that opens with a summary, then shows the evidence.

Parts without data are left out; a value that is not finite, or COCO's -1 for "nothing to find", is shown as "–".
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined

from sam3_hyperet import sam3_host as host
from sam3_hyperet.choices import BF16
from sam3_hyperet.evaluation.compare import Comparison
from sam3_hyperet.evaluation.dial import DialFront
from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.evaluation.models import BASE
from sam3_hyperet.files import replacing
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.dial import dial_of
from sam3_hyperet.report import evidence, tables
from sam3_hyperet.report.examples import examples, extremes, semantic_examples
from sam3_hyperet.report.figures import score_plots
from sam3_hyperet.report.figures.category_plots import TreeConfusion, confusion_plots, difference_plots
from sam3_hyperet.report.figures.front_plots import front_plots
from sam3_hyperet.report.figures.gate_plots import PromptGates, gate_plots
from sam3_hyperet.report.figures.images import Example, SemanticExample, instance_panels, semantic_panels
from sam3_hyperet.report.figures.level_plots import COLUMNS, level_plots, place_rows
from sam3_hyperet.report.figures.plots import Plot, model_colors
from sam3_hyperet.report.figures.radius_maps import RadiusMap, site_maps
from sam3_hyperet.report.figures.radius_plots import RadiusShift, radius_plots
from sam3_hyperet.report.figures.training_plots import training_plots
from sam3_hyperet.report.summary import dial_summary, summary
from sam3_hyperet.report.tables import MISSING, Row, number, value
from sam3_hyperet.training import run_log
from sam3_hyperet.version import versions
from sam3_hyperet.wording import count_of

_RADIUS_MAPS = 3
_EXTREMES = 3  # images that gained most, and as many that lost most
_FACTS = {"params/trainable": "trainable parameters", "params/total": "parameters in all"}
_FACTS |= {"train/seconds": "seconds of training", "train/best_step": "best step"}
_FACTS |= {"train/skipped_steps": "steps skipped"}
_BF16_MEASURED = "beside fp32, on the tiny model and scenes, AP moved by up to .0014, mIoU by .002, box AP by .0013"
_TABLES = {"md": tables.markdown_table, "tex": tables.latex_table}


@dataclass(frozen=True)
class Report:
    """All that a report shows; `metrics` as in metrics.json, `history` the lines of metrics.jsonl.

    models: names of the adapted models where there are several; a curve's `model` is one of them, "adapted" or "base".
    """

    title: str
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, float]]
    protocol: Mapping[str, str]
    config: str
    versions: Mapping[str, str]
    models: Sequence[str] = ()
    examples: Sequence[Example] = ()
    gained: Sequence[Example] = ()  # where adaptation helped and, in `lost`, harmed most
    lost: Sequence[Example] = ()
    semantic_examples: Sequence[SemanticExample] = ()
    radius: Sequence[RadiusShift] = ()
    radius_maps: Sequence[RadiusMap] = ()
    precision_recall: Sequence[score_plots.PrecisionRecall] = ()
    risk_coverage: Sequence[score_plots.RiskCoverage] = ()
    confusion: TreeConfusion | None = None
    instances: Mapping[str, int] = field(default_factory=dict)  # in the ground truth, by category
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    front: DialFront | None = None
    gates: PromptGates | None = None
    detailed: Sequence[str] = ()  # the models that curves and images are of; none for all


def write_comparison(compared: Comparison, run_dir: Path, config_text: str, front: DialFront | None = None) -> None:
    """Write report.html, comparison.md and comparison.tex; examples and radii are those of the last model.

    Along a dial, these and the curves are of one model, for the others are between it and the base.
    """
    names, comparison = evidence.adapted_names(compared), evidence.detailed(compared)
    task, last = comparison.task, comparison.results[-1].model.name
    notes, is_part = list(compared.notes), len(comparison.results) < len(compared.results)
    if front is not None and front.chosen is not None:
        notes.append(f"The adapter is at {front.choice()}.")
    if is_part:
        notes.append(f"Curves, images and radii are those of the base and of {last}, which is called adapted there.")
    elif names:
        notes.append(f"Images and radii are those of {last}.")
    gained, lost = extremes(comparison, _EXTREMES) if task.shown else ([], [])
    report = Report(
        title=run_dir.name,
        metrics=comparison.metrics,
        history=run_log.read_history(run_dir / run_log.FILE),
        protocol=protocol_facts(compared),
        config=config_text,
        versions=versions(),
        models=names,
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
    write_report(report, run_dir / "report.html")
    write_tables(report, run_dir)


def protocol_facts(comparison: Comparison) -> dict[str, str]:
    """How the metrics were computed, for people."""
    split, task = comparison.task.split, comparison.task
    images = f"{len(task.positions)} of {count_of(len(split.images), 'image')}"
    prompted = task.protocol.prompted_by or "absent ones included"
    facts = {
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
        facts["adapter" if len(adapters) == 1 else f"adapter {name}"] = f"SHA-256 {digest}…"
    dials = {one.model.name: dial_of(one.model.model) for one in comparison.results if one.model.name != BASE}
    facts |= {f"dial of {name}": f"{dial:g}" for name, dial in dials.items() if dial != 1.0}
    facts |= {key: str(value) for key, value in asdict(task.protocol).items()}
    return facts | ({"precision": f"{BF16}; {_BF16_MEASURED}"} if task.protocol.precision == BF16 else {})


def write_report(report: Report, path: Path, *, score_threshold: float = 0.5) -> Path:
    """Write one self-contained HTML file, whole or not at all; its folder is made.

    score_threshold: the images show the detections whose score is at least that.
    Raises DataError, naming the prompt, for masks that do not fit their image.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"share": number, "signed": tables.signed, "figure": _figure, "between": tables.between}
    source = files("sam3_hyperet.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    return _write_whole(Path(path), environment.from_string(source).render(_view(report, score_threshold)))


def write_tables(report: Report, folder: Path) -> list[Path]:
    """Write the main table as comparison.md and comparison.tex into a folder, which is made."""
    texts = {kind: table(report.metrics, report.models) for kind, table in _TABLES.items()}
    return [_write_whole(Path(folder) / f"comparison.{kind}", text) for kind, text in texts.items()]


def _write_whole(path: Path, text: str) -> Path:
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))
    return path


def _view(report: Report, score_threshold: float) -> dict[str, Any]:
    """What the template shows."""
    metrics, models = report.metrics, report.models
    along = report.front is not None and report.front.chosen is None
    table = tables.rows(metrics, models)
    categories = tables.category_tables(metrics, models)
    adapted = tables.prefixes(models)
    counts = [key for key in metrics if isinstance(key, MetricKey) and key.metric == "images" and key.model != BASE]
    facts = dict.fromkeys(counts[:1], "images scored") | _FACTS
    return {
        "report": report,
        "summary": dial_summary(report.front) if along else summary(metrics, models),
        "models": list(zip(adapted, model_colors(len(adapted))[1:], strict=True)),
        "blocks": [(m, found) for m in tables.METRICS if (found := [row for row in table if row.metric is m])],
        "has_base": any(row.base is not None for row in table),
        "has_intervals": any(cell.interval for row in table for cell in row.cells),
        "facts": [(text, facts[key]) for key in facts if (text := _figure(value(metrics, key), key)) != MISSING],
        "front": tables.front_rows(report.front) if report.front else [],
        "gates": report.gates.rows() if report.gates else [],
        "gate_plots": gate_plots(report.gates) if report.gates else [],
        "front_plots": front_plots(report.front) if report.front else [],
        "training": training_plots(report.history, value(metrics, "train/best_step")),
        "precision_recall": score_plots.precision_recall_plots(report.precision_recall),
        "differences": _differences(categories, report),
        "confusion": confusion_plots(report.confusion) if report.confusion else [],
        "risk_coverage": score_plots.risk_coverage_plots(report.risk_coverage),
        "knowing": tables.knowing_rows(metrics, models),
        "levels": (places := place_rows(metrics, models)),
        "level_columns": COLUMNS,
        "level_plots": level_plots(places),
        "radius": list(zip(report.radius, radius_plots(report.radius), strict=True)),
        "radius_maps": site_maps(report.radius_maps),
        "score_threshold": score_threshold,
        "instance_panels": partial(instance_panels, score_threshold=score_threshold),
        "semantic_panels": semantic_panels,
        "categories": categories,
        "rest": tables.other_keys(metrics),
        "values": lambda key: [value(metrics, f"{prefix}{key}") for prefix in ("base/", *adapted.values())],
    }


def _differences(categories: Mapping[str, list[Row]], report: Report) -> list[Plot]:
    """Bars for every model, of one table of APs and one of IoUs for a data set: the one over all, or the fused one."""
    kinds: dict[str, str] = {}
    for title in sorted(categories, key=lambda title: (title.count("·"), "fused" not in title)):
        kinds.setdefault(title.rpartition(": ")[2], title)
    plots = []
    for title in kinds.values():
        counts = {} if title.endswith("IoU") else report.instances
        for k, name in enumerate(report.models or ("",)):
            if report.detailed and name not in report.detailed:
                continue
            plots += difference_plots(f"{title}, {name}" if name else title, categories[title], counts, k)
    return plots


def _figure(x: float | None, key: str = "") -> str:
    """Any metric: counts with commas, seconds and rates short, ratios as percent, fractions to three places."""
    if x is None or not math.isfinite(x):
        return MISSING
    if key.endswith("_ratio"):
        return f"{100 * x:.2g} %"
    if float(x).is_integer() and (abs(x) > 1 or "step" in key or key.startswith("params/")):
        return f"{x:,.0f}".replace("-", "−")
    return number(x, 3) if abs(x) <= 1 else f"{x:,.1f}".replace("-", "−")
