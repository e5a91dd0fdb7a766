"""What the page shows of a report, in the form in which its template takes it."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from sam3_hyperet.report import head, tables
from sam3_hyperet.report.content import Report
from sam3_hyperet.report.description import COLUMNS as DESCRIBED
from sam3_hyperet.report.description import alone
from sam3_hyperet.report.figures import score_plots
from sam3_hyperet.report.figures.category_plots import confusion_plots, difference_plots
from sam3_hyperet.report.figures.front_plots import front_plots
from sam3_hyperet.report.figures.gate_plots import gate_plots
from sam3_hyperet.report.figures.images import FAINTEST, Example, Panel, instance_panels, semantic_panels
from sam3_hyperet.report.figures.level_plots import COLUMNS, level_plots, orders_in_words, place_rows, radius_by_level
from sam3_hyperet.report.figures.plots import Plot, model_colors
from sam3_hyperet.report.figures.radius_maps import site_maps
from sam3_hyperet.report.figures.radius_plots import radius_plots
from sam3_hyperet.report.figures.training_plots import training_plots
from sam3_hyperet.report.pairs import pair_table
from sam3_hyperet.report.short_names import full_names, shortened
from sam3_hyperet.report.tables import MISSING, Metric, Row, number, value
from sam3_hyperet.wording import count_of

_IN_SIGHT = ("segm/AP", "mIoU", "segm/cgF1", "presence/accuracy_absent", "presence/accuracy_present")  # else folded
_MOST_ROWS, _OF_SEVERAL = 12, 8  # of a metric in sight; of several models, each of which is a line more
_PRESENCE = "presence/"
_WHOLE = 16  # characters of a name that is not broken
_OPEN_PLOTS = 2  # of training, in sight

_Blocks = list[tuple[Metric, list[Row]]]


def view(report: Report, score_threshold: float) -> dict[str, Any]:
    """The variables of the template."""
    report, full = shortened(report)
    metrics, models = report.metrics, report.models
    along = head.is_along_a_dial(report)
    table = tables.rows(metrics, models)
    categories = tables.category_tables(metrics, models)
    adapted = tables.prefixes(models)
    described = [one for one in DESCRIBED if any(getattr(row, one) for row in report.described)]
    in_sight, folded = _blocks(table, _OF_SEVERAL if len(models) > 1 else _MOST_ROWS)
    training = training_plots(report.history, value(metrics, "train/best_step"))
    shown = {name: _panels(getattr(report, name), score_threshold) for name in ("gained", "lost", "examples")}
    page = {
        "report": report,
        "title": head.title(table, report),
        "what": head.what(report),
        "basis": head.basis(table, report),
        "glance": tables.main_rows(table) if len(models) > 1 and not along else [],
        "alone": alone(report.described),
        "faintest": FAINTEST,
        "short": (short := _short_label(table)),
        "headline": head.lines(report),
        "described": described,
        "strip": head.strip(shown, categories, report),
        "full": full,
        "named": full_names(full),
        "models": list(zip(adapted, _colors(models), strict=True)),
        "several": len(models) > 1,
        "blocks": in_sight,
        "folded_blocks": folded,
        "folded_names": _folded_names(in_sight, folded),
        "has_base": any(row.base is not None for row in table),
        "has_intervals": any(cell.interval for row in table for cell in row.cells),
        "dropped_draws": _dropped_draws(metrics),
        "pairs": pair_table(metrics, models, short),
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
        "level_plots": level_plots(places),
        "level_means": radius_by_level(places),
        "level_orders": orders_in_words(places),
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


def _short_label(table: Sequence[Row]) -> Callable[[Row], str]:
    """A function from a row to what it is of: without the data set where there is one alone."""
    is_alone = len({row.scope[:1] for row in table}) == 1

    def found(row: Row) -> str:
        if not is_alone or row.metric.key not in {metric.key for metric in tables.METRICS}:
            return row.label
        group = " ".join(map(tables.in_words, row.scope[1:]))
        if row.metric.key == "mIoU":
            return group or row.label
        return f"{group}s" if group in tables.GRANULARITIES else group or "all concepts"

    return found


def _colors(models: Sequence[str]) -> Sequence[str]:
    """The page's colour of each adapted model, or of the base alone."""
    return ("base",) if tuple(models) == tables.ALONE else model_colors(max(len(models), 1))[1:]


def _blocks(table: Sequence[Row], most: int) -> tuple[_Blocks, _Blocks]:
    """The rows by metric: those in sight, and those that are folded; box AP is in sight where there are no masks.

    Of rows of a metric whose figures are all the same, as those of two groups of one content, the first is in sight;
    of presence those of the larger groups alone.
    """
    blocks = [(m, found) for m in tables.METRICS if (found := [row for row in table if row.metric is m])]
    has_masks = any(metric.key == "segm/AP" for metric, _ in blocks)
    first = (*_IN_SIGHT, *(() if has_masks else ("bbox/AP",)))
    in_sight = [(metric, _first(metric, found)[:most]) for metric, found in blocks if metric.key in first]
    seen = {id(row) for _, found in in_sight for row in found}
    folded = [(metric, left) for metric, found in blocks if (left := [row for row in found if id(row) not in seen])]
    return (in_sight, folded) if in_sight else (folded, [])


def _folded_names(in_sight: _Blocks, folded: _Blocks) -> str:
    """What is folded, for the line to click on: metrics, and further groups of those in sight."""
    above = {metric.key for metric, _ in in_sight}
    names = [metric.name for metric, _ in folded if metric.key not in above]
    return ", ".join(["other groups"] * (len(names) < len(folded)) + names)


def _first(metric: Metric, rows: Sequence[Row]) -> list[Row]:
    """The rows that a model is judged by: distinct ones; of an mIoU by fusion the fused ones."""
    found = tables.distinct(rows)
    if metric.key.startswith(_PRESENCE):
        return [row for row in found if not tables.is_subset(row, rows)]
    if metric.key == "segm/cgF1":
        return [row for row in found if not row.scope[1:]] or found[:1]
    return [row for row in found if metric.key == "mIoU" and row.label.endswith("fused")] or found


def _panels(examples: Sequence[Example], score_threshold: float) -> list[tuple[Example, list[Panel]]]:
    return [(example, instance_panels(example, score_threshold)) for example in examples]


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
        "training": ("Training", page["training"]),
        "granularity": ("Is the radius granularity?", page["level_plots"]),
        "maps": ("Label maps", page["semantic"]),
        "curves": ("Precision and recall", page["precision_recall"]),
        "confusion": ("Confusion", page["confusion"]),
        "risk": ("Knowing errors", page["risk_coverage"]),
        "gates": ("Gates", page["gates"]),
        "radius": ("Radius", page["radius"]),
        "details": ("Details", page["categories"] or page["rest"]),
        "protocol": ("Protocol", report.protocol),
        "configuration": ("Configuration", report.config),
    }
    return {anchor: title for anchor, (title, there) in parts.items() if there}


def _differences(categories: Mapping[str, list[Row]], report: Report) -> list[Plot]:
    """Bars of one table of APs and one of IoUs for a data set: the one over all, or the fused one.

    Those of the last model come first, as the images are of it.
    """
    kinds: dict[str, str] = {}
    for title in sorted(categories, key=lambda title: (title.count("·"), "fused" not in title)):
        kinds.setdefault(title.rpartition(": ")[2], title)
    plots, models = [], [*enumerate(report.models or ("",))]
    for k, name in reversed([(k, name) for k, name in models if not report.detailed or name in report.detailed]):
        for title in kinds.values():
            counts = {} if title.endswith("IoU") else report.instances
            whose = f"{title}, {name}" if name else title
            plots += difference_plots(whose, categories[title], counts, k, _colors(report.models)[k])
    return plots


def breakable(text: str, only_long: bool = True) -> Markup:
    """A name that may be broken behind its separators: if it is long, or any."""
    if only_long and len(text) <= _WHOLE:
        return Markup(f'<span class="whole">{escape(text)}</span>')
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
