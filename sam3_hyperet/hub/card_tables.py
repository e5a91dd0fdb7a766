"""The tables of a model card: metrics beside the base's with intervals, what got worse, metrics along the dial."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sam3_hyperet.hub.run_info import metrics_at_dials
from sam3_hyperet.report.tables import MISSING, Row, between, direction, is_kept, number, rows, signed, value
from sam3_hyperet.report.text_tables import markdown_text

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_SHOWN = ("segm/AP", "bbox/AP", "mIoU", "presence/accuracy_absent", "hierarchy/consistency")


def card_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """The rows of a card: mask AP, or box AP where there are no masks, mIoU, absent prompts and the concept tree.

    By labels alone: agreement with the base is no result.
    """
    found = [row for row in rows(metrics) if row.metric.key in _SHOWN and not is_kept(row)]
    with_masks = {row.scope for row in found if row.metric.key == "segm/AP"}
    fused = {row.scope[:1] for row in found if row.metric.key == "mIoU" and row.scope[-1] == "fused"}
    kept = []
    for row in found:
        of_boxes = row.metric.key == "bbox/AP" and row.scope in with_masks
        of_parts = row.metric.key == "mIoU" and row.scope[:1] in fused and row.scope[-1] != "fused"
        is_measured = row.cells[0].value is not None
        if is_measured and not of_boxes and not of_parts:
            kept.append(row)
    return kept


def metric_table(found: Sequence[Row]) -> str:
    """A pipe table of rows."""
    lines = ["| metric | data | base | adapted | difference (95 % interval) |", "| --- | --- | ---: | ---: | ---: |"]
    for row in found:
        cell = row.cells[0]
        interval = f" ({between(cell.interval)})" if cell.interval else ""
        texts = [row.metric.name, row.label, number(row.base, 3), number(cell.value, 3)]
        texts.append(signed(cell.difference) + interval)
        lines.append(f"| {' | '.join(map(markdown_text, texts))} |")
    return "\n".join(lines)


def worse_rows(found: Sequence[Row]) -> list[Row]:
    """Rows in which the adapted model is worse than the base by more than chance explains."""
    return [row for row in found if row.cells[0].supported and row.cells[0].verdict == "worse"]


def untested_rows(found: Sequence[Row]) -> list[Row]:
    """Rows in which the adapted model is worse than the base, without an interval that tells whether by chance."""
    untested = [row for row in found if row.cells[0].open and row.cells[0].interval is None]
    return [r for r in untested if direction(r.cells[0].difference or 0.0, r.metric.lower_is_better) == "worse"]


def dial_table(metrics: Mapping[str, Any]) -> str:
    """Mask AP and absent prompts along the dial; "" where it was not tried."""
    along = metrics_at_dials(metrics)
    names = [key for key in next(iter(along.values()), {}) if key.endswith(("segm/AP", "presence/accuracy_absent"))]
    names = [name for name in names if any(value(found, name) is not None for found in along.values())]
    if not names:
        return ""
    lines = ["| dial | " + " | ".join(map(markdown_text, names)) + " |", "| --- " + "| ---: " * len(names) + "|"]
    for dial, found in along.items():
        cells = [number(value(found, name), 3) for name in names]
        lines.append(f"| {dial:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def evaluation_results(found: Sequence[Row], split: str | None) -> "list[EvalResult]":
    """The rows as the hub lists results: each with its base's value, the difference and its interval."""
    from huggingface_hub import EvalResult

    results = []
    for row in found:
        cell = row.cells[0]
        if cell.value is None or not row.scope:
            continue
        beside = {"base": row.base, "difference": cell.difference}
        compared: dict[str, Any] = {name: round(x, 4) for name, x in beside.items() if x is not None}
        if cell.interval:
            compared["interval_95"] = [round(end, 4) for end in cell.interval]
        results.append(
            EvalResult(
                task_type="image-segmentation",
                dataset_type=row.scope[0],
                dataset_name=row.label.partition(" · ")[0],
                dataset_split=split,
                metric_type="/".join((*row.scope[1:], row.metric.key)),
                metric_name=" · ".join((row.metric.name, *row.scope[1:])),
                metric_value=round(cell.value, 4),
                metric_args=compared or None,
            )
        )
    return results


def shown(x: object) -> str:
    """A value for people: "–" for none."""
    return MISSING if x is None else markdown_text(f"{x:,}" if isinstance(x, int) else str(x))
