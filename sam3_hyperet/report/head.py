"""The head of a report's page: what was compared, what came of it, what the words rest on, and two images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sam3_hyperet.report import tables
from sam3_hyperet.report.content import Report
from sam3_hyperet.report.figures.images import Example, Panel
from sam3_hyperet.report.summary import COST, Line, dial_headline, headline
from sam3_hyperet.report.tables import Cell, Row, number
from sam3_hyperet.wording import count_of

_COUNTED = 4  # models that are counted one by one


def is_along_a_dial(report: Report) -> bool:
    """Whether the models are one adapter at several dials."""
    return report.front is not None and report.front.chosen is None


def title(table: Sequence[Row], report: Report) -> str:
    """The title of the page, by what was compared and on what; the run's name where that is not known."""
    data = sorted({row.scope[:1] for row in table if row.scope})
    if not data:
        return report.title
    of_models = "Base and adapted model"
    if tuple(report.models) == tables.ALONE or not _has_base(report):
        of_models = "One model" if len(report.models) < 2 else f"{len(report.models)} models"
    elif is_along_a_dial(report):
        of_models = f"An adapter at {count_of(len(report.models) or 1, 'dial')}"
    elif len(report.models) > 1:
        of_models = f"Base and {len(report.models)} adapted models"
    return f"{of_models} on {', '.join(map(tables.data_set, data))}"


def _has_base(report: Report) -> bool:
    return any(key.startswith(f"{tables.BASE}/") for key in report.metrics)


def what(report: Report) -> str:
    """What was compared, for somebody who does not know the project."""
    kind = report.kind or "a SAM 3 model"
    kind = kind[0].upper() + kind[1:]
    if tuple(report.models) == tables.ALONE:
        return f"{kind} as it is, without an adapter."
    if not _has_base(report):
        return ""
    ways = f"in {len(report.models)} ways, " if len(report.models) > 1 else ""
    if is_along_a_dial(report):
        ways = f"by one adapter at {len(report.models)} dials, " if ways else "by an adapter, "
    said = f"{kind} as it is (base) and adapted{' ' if ways else ', '}{ways}on the same images and prompts."
    return f"{said} {report.groups}".strip()


def basis(table: Sequence[Row], report: Report) -> str:
    """What "better" and "worse" rest on, with how many differences chance alone would call so; "" without intervals."""
    cells = [cell for row in table for cell in row.cells if cell.interval]
    if not cells:
        return ""
    better, worse = (_count(cells, verdict) for verdict in ("better", "worse"))
    tested = sum(any(cell.interval for cell in row.cells) for row in table)
    noun = "dial" if is_along_a_dial(report) else "model"
    of_models = f" ({tested:,} metrics, {count_of(len(report.models), noun)})" if len(report.models) > 1 else ""
    by_model = ""
    if 1 < len(report.models) <= _COUNTED:
        columns = zip(report.models, zip(*(row.cells for row in table), strict=True), strict=True)
        counts = (f"{name} {_count(found, 'better')} and {_count(found, 'worse')}" for name, found in columns)
        by_model = f" ({', '.join(counts)})"
    verb = "is" if better == 1 else "are"
    trained = "each model was" if of_models and noun == "model" else "the model was"
    return (
        f"Of {len(cells):,} differences below{of_models}, many of them of the same concepts, {better:,} {verb} "
        f"better and {worse:,} worse{by_model}: their 95 % interval over the images excludes 0. If nothing had "
        f"changed, about {max(1, round(len(cells) / 20)):,} would. The intervals say nothing about training: "
        f"{trained} trained once, and another training could end elsewhere."
    )


def _count(cells: Sequence[Cell], verdict: str) -> int:
    return sum(cell.verdict == verdict for cell in cells if cell.interval)


def lines(report: Report) -> list[Line]:
    """The headline, with how long each of several models was trained if that is the same for all."""
    if report.front is not None and is_along_a_dial(report):
        return dial_headline(report.front)
    found, trained = headline(report.metrics, report.models), {one.training for one in report.described}
    if len(report.described) > 1 and len(trained) == 1 and found[-1].label == COST and (text := trained.pop()):
        found[-1] = replace(found[-1], text=f"{found[-1].text}; {text} each")
    return found


def strip(
    shown: Mapping[str, list[tuple[Example, list[Panel]]]], categories: Mapping[str, list[Row]], report: Report
) -> list[tuple[Example, list[Panel], str]]:
    """Two examples for the head, ground truth and models alone: what gained and what lost, or any.

    Of those that gained most, the first whose category gained as well; of those that lost alike.
    """
    models = report.detailed or report.models
    whose, k = (f"with {models[-1]}, ", report.models.index(models[-1])) if len(report.models) > 1 else ("", 0)
    table = next((found for title, found in categories.items() if title.endswith(": mask AP")), [])
    by_name = {row.scope[0]: row for row in table}

    def change(name: str) -> float:
        return by_name[name].cells[k].difference or 0.0 if name in by_name else 0.0

    chosen = []
    for kind, sign in (("gained", 1), ("lost", -1)):
        agreeing = [one for one in shown[kind] if sign * change(one[0].prompt) > 0] or shown[kind]
        for example, panels in agreeing[:1]:
            row = by_name.get(example.prompt)
            said = f"{kind}: {whose}{example.caption}"
            if row is not None:
                said += f"; AP on all “{example.prompt}” {number(row.base)} → {number(row.cells[k].value)}"
            chosen.append((example, panels[1:], said))
    return chosen or [(example, panels[1:], "") for example, panels in shown["examples"][:2]]
