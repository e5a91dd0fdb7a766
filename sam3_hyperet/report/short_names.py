"""Names of models as the page shows them: without the words that all of them begin or end with."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TypeVar

from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.report.content import Report
from sam3_hyperet.report.figures.images import Example
from sam3_hyperet.report.figures.score_plots import PrecisionRecall, RiskCoverage
from sam3_hyperet.report.tables import OWN_NAMES

_LONG = 16  # characters of a name that is worth shortening
_MOST = 40  # characters of a name that fits the head of a column
_ENDS = "_-/. "
_WORD_ENDS = re.compile(r"(?<=[_/ ])|(?<=-)(?<!\de-)|(?<=\.)(?!\d)")  # 1e-3 and 0.25 stay whole
_NUMBERS = re.compile(r"[\W\d_]*|\d[\d.]*e-?\d+")  # says nothing
_V = TypeVar("_V")
_Curve = TypeVar("_Curve", PrecisionRecall, RiskCoverage)


def short_names(names: Sequence[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Each name's short form: without common words at both ends, and with an ellipsis if it is still long.

    Different names stay different, each keeps a word that is no number, and none becomes one of `taken`. Short
    names stay as they are.
    """
    if len(names) < 2 or max(map(len, names)) <= _LONG:
        return {name: name for name in names}
    words = [_WORD_ENDS.split(name) for name in names]
    ends = product(range(_common(words) + 1), range(_common([one[::-1] for one in words]) + 1))
    for begin, end in sorted(ends, key=lambda pair: (-sum(pair), -pair[0])):
        found = ["".join(one[begin : len(one) - end]).strip(_ENDS) for one in words]
        is_clear = len(set(found)) == len(found) and set(found).isdisjoint({*taken, *OWN_NAMES})
        if is_clear and not any(map(_NUMBERS.fullmatch, found)):
            break
    else:
        found = list(names)
    clipped = [one if len(one) <= _MOST else f"{one[: _MOST // 2]}…{one[1 - _MOST // 2 :]}" for one in found]
    return dict(zip(names, clipped if len(set(clipped)) == len(found) else found, strict=True))


def shortened(report: Report) -> tuple[Report, dict[str, str]]:
    """The report with its models' short names, and the full name of each that was shortened."""
    firsts = {part for key in report.metrics for part in key.split("/", 2)[:2]} - set(report.models)
    short = short_names(report.models, firsts)
    full = {new: name for name, new in short.items() if new != name}
    if not full:
        return report, {}

    def of_models(values: Mapping[str, _V]) -> dict[str, _V]:
        return {short.get(name, name): value for name, value in values.items()}

    def drawn(examples: Sequence[Example]) -> list[Example]:
        return [replace(one, detections=of_models(one.detections)) for one in examples]

    def curves(found: Sequence[_Curve]) -> list[_Curve]:
        return [replace(one, model=short.get(one.model, one.model)) for one in found]

    confusion = report.confusion and replace(report.confusion, shares=of_models(report.confusion.shares))
    maps = [replace(one, predicted=of_models(one.predicted)) for one in report.semantic_examples]
    named = replace(
        report,
        metrics={_renamed(key, short): value for key, value in report.metrics.items()},
        models=tuple(short.values()),
        described=[replace(one, name=short[one.name]) for one in report.described],
        notes=[_in_text(note, short) for note in report.notes],
        detailed=tuple(short.get(name, name) for name in report.detailed),
        confusion=confusion,
        semantic_examples=maps,
        examples=drawn(report.examples),
        gained=drawn(report.gained),
        lost=drawn(report.lost),
        precision_recall=curves(report.precision_recall),
        risk_coverage=curves(report.risk_coverage),
    )
    return named, full


def full_names(full: Mapping[str, str]) -> Callable[[str], str]:
    """A function from a text to the full names of the models that it names: "" where none was shortened."""

    def found(text: str) -> str:
        if text in full:
            return full[text]
        named = [short for short in full if re.search(rf"(?<!\w){re.escape(short)}(?!\w)", text)]
        return "; ".join(f"{short}: {full[short]}" for short in named)

    return found


def _common(words: Sequence[Sequence[str]]) -> int:
    """How many words all begin with."""
    columns = [len(set(column)) == 1 for column in zip(*words, strict=False)]
    return columns.index(False) if False in columns else len(columns)


def _renamed(key: str, short: Mapping[str, str]) -> str:
    if isinstance(key, MetricKey):
        if key.model not in short:
            return key
        return MetricKey.of(key, key.data, short[key.model])
    parts = key.split("/")
    places = {"difference": (1,), "between": (1, 2)}.get(parts[0], (0,))
    return "/".join(short.get(part, part) if k in places else part for k, part in enumerate(parts))


def _in_text(text: str, short: Mapping[str, str]) -> str:
    for name in sorted(short, key=len, reverse=True):
        text = _replaced(text, name, short[name])
    return text


def _replaced(text: str, name: str, short: str) -> str:
    return re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", lambda _: short, text)
