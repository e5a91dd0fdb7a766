"""The report of a run: one HTML file that opens with a summary, then shows the evidence.

Whatever is missing is left out; a value that is not finite, or COCO's -1 for "nothing to
find", is shown as "–".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from sam3_hyperet import sam3_host as host
from sam3_hyperet.evaluation.compare import Comparison
from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.evaluation.models import BASE
from sam3_hyperet.files import replacing
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.report.evidence import (
    adapted_names,
    instance_counts,
    precision_recall,
    radius_maps,
    radius_shifts,
    risk_coverage,
    tree_confusion,
)
from sam3_hyperet.report.examples import examples, extremes, semantic_examples
from sam3_hyperet.report.figures.category_plots import TreeConfusion, confusion_plots, difference_plots
from sam3_hyperet.report.figures.images import Example, Panel, SemanticExample, instance_panels, semantic_panels
from sam3_hyperet.report.figures.plots import Plot, model_colors
from sam3_hyperet.report.figures.radius_maps import RadiusMap, site_maps
from sam3_hyperet.report.figures.radius_plots import RadiusShift, radius_plots
from sam3_hyperet.report.figures.score_plots import (
    PrecisionRecall,
    RiskCoverage,
    precision_recall_plots,
    risk_coverage_plots,
)
from sam3_hyperet.report.figures.training_plots import training_plots
from sam3_hyperet.report.summary import summary
from sam3_hyperet.report.tables import (
    METRICS,
    MISSING,
    Row,
    between,
    category_tables,
    latex_table,
    markdown_table,
    number,
    other_keys,
    prefixes,
    rows,
    signed,
    value,
)
from sam3_hyperet.training.run_log import FILE as HISTORY_FILE
from sam3_hyperet.training.run_log import read_history
from sam3_hyperet.version import versions

_RADIUS_MAPS = 3
_EXTREMES = 3  # images that gained most, and as many that lost most
_FACTS = (
    ("params/trainable", "trainable parameters"),
    ("params/total", "parameters in all"),
    ("train/seconds", "seconds of training"),
    ("train/best_step", "best step"),
    ("train/skipped_steps", "steps skipped"),
)


@dataclass(frozen=True)
class Report:
    """All that a report shows; `metrics` as in metrics.json, `history` the lines of metrics.jsonl.

    models: names of the adapted models where there are several (see `tables`); the curves' `model` is one of
    them, "adapted" where there are not, or "base".
    gained, lost: where adaptation helped and harmed most, as `examples`.
    instances: ground-truth instances by category.
    """

    title: str
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, float]]
    protocol: Mapping[str, str]
    config: str
    versions: Mapping[str, str]
    models: Sequence[str] = ()
    examples: Sequence[Example] = ()
    gained: Sequence[Example] = ()
    lost: Sequence[Example] = ()
    semantic_examples: Sequence[SemanticExample] = ()
    radius: Sequence[RadiusShift] = ()
    radius_maps: Sequence[RadiusMap] = ()
    precision_recall: Sequence[PrecisionRecall] = ()
    risk_coverage: Sequence[RiskCoverage] = ()
    confusion: TreeConfusion | None = None
    instances: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_comparison(comparison: Comparison, run_dir: Path, config_text: str) -> None:
    """Write report.html, comparison.md and comparison.tex; examples and radii are those of the last model."""
    names, task = adapted_names(comparison), comparison.task
    gained, lost = extremes(comparison, _EXTREMES) if task.shown else ([], [])
    report = Report(
        title=run_dir.name,
        metrics=comparison.metrics,
        history=read_history(run_dir / HISTORY_FILE),
        protocol=protocol_facts(comparison),
        config=config_text,
        versions=versions(),
        models=names,
        examples=examples(comparison),
        gained=examples(comparison, gained),
        lost=examples(comparison, lost),
        semantic_examples=semantic_examples(comparison),
        radius=radius_shifts(comparison.results[-1]),
        radius_maps=radius_maps(comparison, list(dict.fromkeys(i for i, _ in task.shown))[:_RADIUS_MAPS]),
        precision_recall=precision_recall(comparison),
        risk_coverage=risk_coverage(comparison),
        confusion=tree_confusion(comparison),
        instances=instance_counts(comparison),
        dropped=dict(task.split.images.dropped),
        notes=[f"Images and radii are those of {names[-1]}."] if names else (),
    )
    write_report(report, run_dir / "report.html")
    write_tables(report, run_dir)


def protocol_facts(comparison: Comparison) -> dict[str, str]:
    """How the metrics were computed, for people."""
    split, task = comparison.task.split, comparison.task
    facts = {
        "data": f"{comparison.data.name}, {split.name} split, {len(task.positions)} of {len(split.images)} images",
        "vocabulary": f"{len(task.vocabulary)} prompts, absent ones included",
        "boxes": "SAM 3's own, not clamped to the image",
        "resolution": f"{resolution(comparison.results[-1].model.model)} pixels, square",
        "sam3": host.SAM3_VERSION,
        "threads": str(torch.get_num_threads()),
    }
    files = {one.model.name: one.model.adapter_file for one in comparison.results if one.model.adapter_file}
    for name, file in files.items():
        facts["adapter" if len(files) == 1 else f"adapter {name}"] = (
            f"SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}…"
        )
    return facts | {key: str(value) for key, value in asdict(task.protocol).items()}


def write_report(report: Report, path: Path, *, score_threshold: float = 0.5) -> Path:
    """Write one self-contained HTML file, whole or not at all; its folder is made.

    score_threshold: the images show the detections whose score is at least that.
    Raises DataError, naming the prompt, for masks that do not fit their image.
    """
    return _write_whole(Path(path), _template().render(_view(report, score_threshold)))


def write_tables(report: Report, folder: Path) -> list[Path]:
    """Write the main table as comparison.md and comparison.tex into a folder, which is made."""
    texts = {"md": markdown_table(report.metrics, report.models), "tex": latex_table(report.metrics, report.models)}
    return [_write_whole(Path(folder) / f"comparison.{kind}", text) for kind, text in texts.items()]


def _write_whole(path: Path, text: str) -> Path:
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))
    return path


def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"share": number, "signed": signed, "figure": _figure, "between": between}
    source = files("sam3_hyperet.report").joinpath("report.html.j2")
    return environment.from_string(source.read_text(encoding="utf-8"))


def _view(report: Report, score_threshold: float) -> dict[str, Any]:
    """What the template shows."""
    metrics, models = report.metrics, report.models
    table = rows(metrics, models)
    categories = category_tables(metrics, models)
    adapted = prefixes(models)
    counts = [key for key in metrics if isinstance(key, MetricKey) and key.metric == "images" and key.model != BASE]
    facts = (*((key, "images scored") for key in counts[:1]), *_FACTS)
    rest = [
        (key, value(metrics, f"base/{key}"), [value(metrics, f"{prefix}{key}") for prefix in adapted.values()])
        for key in other_keys(metrics)
    ]
    return {
        "report": report,
        "summary": summary(metrics, models),
        "models": list(zip(adapted, model_colors(len(adapted))[1:], strict=True)),
        "blocks": [(m, found) for m in METRICS if (found := [row for row in table if row.metric is m])],
        "has_base": any(row.base is not None for row in table),
        "has_intervals": any(cell.interval for row in table for cell in row.cells),
        "facts": [(text, name) for key, name in facts if (text := _figure(value(metrics, key), key)) != MISSING],
        "training": _drawn(training_plots(report.history, value(metrics, "train/best_step"))),
        "precision_recall": _drawn(precision_recall_plots(report.precision_recall)),
        "differences": _drawn(_differences(categories, report)),
        "confusion": _drawn(confusion_plots(report.confusion) if report.confusion else []),
        "risk_coverage": _drawn(risk_coverage_plots(report.risk_coverage)),
        "radius": list(zip(report.radius, map(Markup, radius_plots(report.radius)), strict=True)),
        "radius_maps": [(maps, [Markup(bar.gradient) for bar in maps.bars]) for maps in site_maps(report.radius_maps)],
        "score_threshold": score_threshold,
        "gained": _panels(report.gained, score_threshold),
        "lost": _panels(report.lost, score_threshold),
        "examples": _panels(report.examples, score_threshold),
        "semantic": [semantic_panels(e) for e in report.semantic_examples],
        "categories": list(categories.items()),
        "rest": rest,
    }


def _drawn(plots: Iterable[Plot]) -> list[tuple[Plot, Markup]]:
    return [(plot, Markup(plot.svg)) for plot in plots]


def _panels(examples: Sequence[Example], score_threshold: float) -> list[tuple[Example, list[Panel]]]:
    return [(example, instance_panels(example, score_threshold)) for example in examples]


def _differences(categories: Mapping[str, list[Row]], report: Report) -> list[Plot]:
    """Bars for every model, of one table of APs and one of IoUs for a data set: the one over all, or the fused one."""
    plots = []
    kinds: dict[str, str] = {}
    for title in sorted(categories, key=lambda title: (title.count("·"), "fused" not in title)):
        kinds.setdefault(title.rpartition(": ")[2], title)
    for title in kinds.values():
        for k, name in enumerate(report.models or ("",)):
            counts = {} if title.endswith("IoU") else report.instances
            plots += difference_plots(f"{title}{', ' + name if name else ''}", categories[title], counts, k)
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
