"""What the page shows of a report, in the form in which its template takes it."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup, escape

from sam3_hyperet.report import tables
from sam3_hyperet.report.content import Report
from sam3_hyperet.report.description import COLUMNS as DESCRIBED
from sam3_hyperet.report.figures import score_plots
from sam3_hyperet.report.figures.category_plots import confusion_plots, difference_plots
from sam3_hyperet.report.figures.front_plots import front_plots
from sam3_hyperet.report.figures.gate_plots import gate_plots
from sam3_hyperet.report.figures.images import Example, Panel, instance_panels, semantic_panels
from sam3_hyperet.report.figures.level_plots import COLUMNS, level_plots, place_rows, radius_by_level
from sam3_hyperet.report.figures.plots import Plot, model_colors
from sam3_hyperet.report.figures.radius_maps import site_maps
from sam3_hyperet.report.figures.radius_plots import radius_plots
from sam3_hyperet.report.figures.training_plots import training_plots
from sam3_hyperet.report.pairs import pair_table
from sam3_hyperet.report.short_names import full_names, shortened
from sam3_hyperet.report.summary import COST, Line, dial_headline, headline
from sam3_hyperet.report.tables import MISSING, Metric, Row, number, value
from sam3_hyperet.wording import count_of

_IN_SIGHT = ("segm/AP", "mIoU", "presence/accuracy_absent", "presence/accuracy_present")  # others are folded
_MOST_ROWS, _OF_SEVERAL = 12, 8  # of a metric in sight; of several models, each of which is a line more
_OPEN_PLOTS = 2  # of training, in sight

_Blocks = list[tuple[Metric, list[Row]]]


def view(report: Report, score_threshold: float) -> dict[str, Any]:
    """The variables of the template."""
    report, full = shortened(report)
    metrics, models = report.metrics, report.models
    along = report.front is not None and report.front.chosen is None
    table = tables.rows(metrics, models)
    categories = tables.category_tables(metrics, models)
    adapted = tables.prefixes(models)
    described = [one for one in DESCRIBED if any(getattr(row, one) for row in report.described)]
    in_sight, folded = _blocks(table, _OF_SEVERAL if len(models) > 1 else _MOST_ROWS)
    training = training_plots(report.history, value(metrics, "train/best_step"))
    shown = {name: _panels(getattr(report, name), score_threshold) for name in ("gained", "lost", "examples")}
    page = {
        "report": report,
        "what": _what(report, along),
        "headline": dial_headline(report.front) if along and report.front else _headline(report),
        "described": described,
        "strip": _strip(shown, 1 if len(models) > 1 else 2),
        "full": full,
        "named": full_names(full),
        "models": list(zip(adapted, _colors(models), strict=True)),
        "several": len(models) > 1,
        "blocks": in_sight,
        "folded_blocks": folded,
        "has_base": any(row.base is not None for row in table),
        "has_intervals": any(cell.interval for row in table for cell in row.cells),
        "dropped_draws": _dropped_draws(metrics),
        "pairs": pair_table(metrics, models),
        "extreme": report.models[-1] if len(report.models) > 1 else "",
        "front": tables.front_rows(report.front) if report.front else [],
        "gates": report.gates.rows() if report.gates else [],
        "gate_plots": gate_plots(report.gates) if report.gates else [],
        "front_plots": front_plots(report.front) if report.front else [],
        "training": training[:_OPEN_PLOTS],
        "more_training": training[_OPEN_PLOTS:],
        "precision_recall": score_plots.precision_recall_plots(report.precision_recall),
        "differences": _differences(categories, report),
        "confusion": confusion_plots(report.confusion) if report.confusion else [],
        "risk_coverage": score_plots.risk_coverage_plots(report.risk_coverage),
        "knowing": tables.knowing_rows(metrics, models),
        "levels": (places := place_rows(metrics, models)),
        "level_columns": COLUMNS,
        "level_plots": [*radius_by_level(places), *level_plots(places)],
        "radius": list(zip(report.radius, radius_plots(report.radius), strict=True)),
        "radius_maps": site_maps(report.radius_maps),
        "score_threshold": score_threshold,
        "shown": shown,
        "semantic": [semantic_panels(example) for example in report.semantic_examples],
        "categories": categories,
        "rest": tables.other_keys(metrics),
        "values": lambda key: [value(metrics, f"{prefix}{key}") for prefix in ("base/", *adapted.values())],
    }
    return page | {"contents": _contents(page)}


def _what(report: Report, along: bool) -> str:
    """What was compared, for somebody who does not know the project."""
    if tuple(report.models) == tables.ALONE:
        return "A SAM 3 model as it is, without an adapter."
    if not any(key.startswith(f"{tables.BASE}/") for key in report.metrics):
        return ""
    ways = f"in {len(report.models)} ways, " if len(report.models) > 1 else ""
    if along:
        ways = f"by one adapter at {len(report.models)} dials, " if ways else "by an adapter, "
    return f"A SAM 3 model as it is (base) and adapted{' ' if ways else ', '}{ways}on the same images and prompts."


def _headline(report: Report) -> list[Line]:
    """The headline, with how long each of several models was trained if that is the same for all."""
    lines, trained = headline(report.metrics, report.models), {one.training for one in report.described}
    if len(report.described) > 1 and len(trained) == 1 and lines[-1].label == COST and (text := trained.pop()):
        lines[-1] = replace(lines[-1], text=f"{lines[-1].text}; {text} each")
    return lines


def _colors(models: Sequence[str]) -> Sequence[str]:
    """The page's colour of each adapted model, or of the base alone."""
    return ("base",) if tuple(models) == tables.ALONE else model_colors(max(len(models), 1))[1:]


def _blocks(table: Sequence[Row], most: int) -> tuple[_Blocks, _Blocks]:
    """The rows by metric: those in sight, and those that are folded; box AP is in sight where there are no masks."""
    blocks = [(m, found) for m in tables.METRICS if (found := [row for row in table if row.metric is m])]
    has_masks = any(metric.key == "segm/AP" for metric, _ in blocks)
    first = (*_IN_SIGHT, *(() if has_masks else ("bbox/AP",)))
    in_sight = [(metric, _first(found)[:most]) for metric, found in blocks if metric.key in first]
    seen = {id(row) for _, found in in_sight for row in found}
    folded = [(metric, left) for metric, found in blocks if (left := [row for row in found if id(row) not in seen])]
    return (in_sight, folded) if in_sight else (folded, [])


def _first(rows: Sequence[Row]) -> Sequence[Row]:
    """Of an mIoU by fusion the fused ones, which are what the model is judged by; all rows of other metrics."""
    fused = [row for row in rows if row.metric.key == "mIoU" and row.label.endswith("fused")]
    return fused or rows


def _panels(examples: Sequence[Example], score_threshold: float) -> list[tuple[Example, list[Panel]]]:
    return [(example, instance_panels(example, score_threshold)) for example in examples]


def _strip(
    shown: Mapping[str, list[tuple[Example, list[Panel]]]], gained: int
) -> list[tuple[Example, list[Panel], str]]:
    """Two or three examples for the head, the models' panels alone: what gained and what lost, or any."""
    chosen = [(*one, "gained") for one in shown["gained"][:gained]] + [(*one, "lost") for one in shown["lost"][:1]]
    chosen = chosen or [(*one, "") for one in shown["examples"][: gained + 1]]
    return [(example, panels[2:], kind) for example, panels, kind in chosen]


def _dropped_draws(metrics: Mapping[str, float]) -> str:
    """How many draws have no value of a metric, for people; "" where all have one."""
    found = [count for key, count in metrics.items() if key.endswith("/dropped")]
    if not found:
        return ""
    most = f"up to {count_of(int(max(found)), 'draw')}"
    return f"Of {count_of(len(found), 'metric')} {most} had no value and were left out (…/dropped in metrics.json)."


def _contents(page: Mapping[str, Any]) -> dict[str, str]:
    """The titles of the parts that there are, by their anchors."""
    report = page["report"]
    parts = {
        "models": ("Models", report.described),
        "dial": ("Dial", page["front"]),
        "results": ("Results", page["blocks"]),
        "pairs": ("Adapted models beside each other", page["pairs"]),
        "categories": ("By category", page["differences"]),
        "images": ("Images", any(page["shown"].values())),
        "maps": ("Label maps", page["semantic"]),
        "training": ("Training", page["training"]),
        "granularity": ("Radius and granularity", page["level_plots"]),
        "curves": ("Precision and recall", page["precision_recall"]),
        "confusion": ("Confusion", page["confusion"]),
        "risk": ("Risk", page["risk_coverage"]),
        "gates": ("Gates", page["gates"]),
        "radius": ("Radius", page["radius"]),
        "details": ("Details", page["categories"] or page["rest"]),
        "protocol": ("Protocol", report.protocol),
        "configuration": ("Configuration", report.config),
    }
    return {anchor: title for anchor, (title, there) in parts.items() if there}


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


def breakable(text: str) -> Markup:
    """A name that may be broken behind its separators."""
    return Markup(re.sub(r"([_/\-])(?=\w)", r"\1<wbr>", str(escape(text))))


def figure(x: float | None, key: str = "") -> str:
    """Any metric: counts with commas, seconds and rates short, ratios as percent, fractions to three places."""
    if x is None or not math.isfinite(x):
        return MISSING
    if key.endswith("_ratio"):
        return f"{100 * x:.2g} %"
    if float(x).is_integer() and (abs(x) > 1 or "step" in key or key.startswith("params/")):
        return f"{x:,.0f}".replace("-", "−")
    return number(x, 3) if abs(x) <= 1 else f"{x:,.1f}".replace("-", "−")
