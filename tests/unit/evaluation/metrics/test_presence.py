"""Presence accuracy on present and absent prompts."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.bootstrap import intervals
from sam3_hyperet.evaluation.metrics.evaluator import Prompt
from sam3_hyperet.evaluation.metrics.presence import PresenceEvaluator, presence_metrics
from sam3_hyperet.evaluation.protocol import Protocol


def counted(probability, present, threshold=0.5):
    """(2, 2) counts of pairs, present or absent in rows."""
    counts = np.zeros((2, 2), dtype=np.int64)
    np.add.at(counts, (np.asarray(present, int), (np.asarray(probability) >= threshold).astype(int)), 1)
    return counts


def test_counts_and_accuracies() -> None:
    counts = counted([0.9, 0.5, 0.4, 0.6, 0.1, 0.2], [True, True, True, False, False, False])
    metrics = presence_metrics(counts)
    assert metrics["presence/accuracy_present"] == pytest.approx(2 / 3)
    assert metrics["presence/accuracy_absent"] == pytest.approx(2 / 3)
    assert metrics["presence/IL_MCC"] == pytest.approx(1 / 3)
    assert metrics["presence/false_positives"] == 1


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_mcc_is_the_correlation(pairs: list[tuple[float, bool]]) -> None:
    probability, present = map(np.array, zip(*pairs, strict=True))
    metrics = presence_metrics(counted(probability, present))
    said = probability >= 0.5
    if said.std() > 0 and present.std() > 0:
        assert metrics["presence/IL_MCC"] == pytest.approx(np.corrcoef(said, present)[0, 1], abs=1e-5)
    else:
        assert metrics.get("presence/IL_MCC") == (0 if present.std() > 0 else None)
    assert ("presence/accuracy_absent" in metrics) == (not present.all())


def answer(presence: float) -> SimpleNamespace:
    return SimpleNamespace(prediction=SimpleNamespace(presence=presence))


def test_evaluator_counts_pairs_as_the_counter_does() -> None:
    """Weights of the headline are how often a picture counts; a crowd alone is neither present nor absent."""
    rng = np.random.default_rng(0)
    category_of, groups = {0: 30, 2: 7, 3: 12}, {"few": [7, 12]}
    shown = {
        i: (set(rng.choice([7, 12, 30], rng.integers(3)).tolist()), {12} if i % 3 == 0 else set()) for i in range(9)
    }
    evaluator = PresenceEvaluator(category_of.values(), shown.__getitem__, groups, Protocol(presence_threshold=0.4))
    records, pairs = [], []
    for i, (instances, crowd) in shown.items():
        evaluator.start(i, {})
        for k in range(5):
            probability = float(rng.random())
            evaluator.add(Prompt(str(k), category_of.get(k)), answer(probability))
            category = category_of.get(k)
            if category is not None and (category in instances or category not in crowd):
                pairs.append((i, category, probability, category in instances))
        records.append(evaluator.finish())
    weights = rng.integers(0, 3, 9)

    def expected(ids: set[int], often: np.ndarray) -> dict[str, float]:
        drawn = [(p, present) for i, category, p, present in pairs if category in ids for _ in range(often[i])]
        return presence_metrics(counted(*(list(values) for values in zip(*drawn, strict=True)), threshold=0.4))

    once = np.ones(9, dtype=int)
    few = {f"few/{key}": value for key, value in expected({7, 12}, once).items()}
    assert evaluator.evaluate(records) == {**few, **expected({7, 12, 30}, once)}
    drawn = evaluator.headline(records)(weights)
    few = {f"few/{key}": value for key, value in expected({7, 12}, weights).items()}
    assert drawn == {key: {**few, **expected({7, 12, 30}, weights)}[key] for key in drawn}
    assert len(drawn) == 2 * 3


def test_a_correlation_without_one_side_is_no_value() -> None:
    """Of 12 images one lacks the class: a third of the draws has no absent pair, which is no correlation of 0."""
    evaluator = PresenceEvaluator([1], lambda i: ({1} if i else (), ()), {}, Protocol())
    records = []
    for i in range(12):
        evaluator.start(i, {})
        evaluator.add(Prompt("a", 1), answer(float(i > 0)))
        records.append(evaluator.finish())
    assert evaluator.evaluate(records)["presence/IL_MCC"] == pytest.approx(1, abs=1e-6)
    ends = intervals(evaluator.headline(records), 12, draws=100)
    assert np.isnan(ends["presence/IL_MCC"]).all()
    assert np.isfinite(ends["presence/accuracy_present"]).all()
    assert "presence/IL_MCC" not in evaluator.evaluate(records[1:])
    assert math.isnan(evaluator.headline(records[1:])(np.ones(11, dtype=int))["presence/IL_MCC"])


def test_evaluator_refuses_what_is_no_probability() -> None:
    evaluator = PresenceEvaluator([1], lambda i: ((), ()), {}, Protocol())
    evaluator.start(0, {})
    with pytest.raises(DataError, match="presence: the probability nan is not a number"):
        evaluator.add(Prompt("a", 1), answer(float("nan")))
