"""Presence accuracy on present and absent prompts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.metrics.presence import PresenceAccuracy, PresenceEvaluator


def test_counts_and_accuracies() -> None:
    presence = PresenceAccuracy()
    presence.process([0.9, 0.5, 0.4, 0.6, 0.1, 0.2], [True, True, True, False, False, False])
    metrics = presence.evaluate()
    assert metrics["presence/accuracy_present"] == pytest.approx(2 / 3)
    assert metrics["presence/accuracy_absent"] == pytest.approx(2 / 3)
    assert metrics["presence/IL_MCC"] == pytest.approx(1 / 3)
    assert metrics["presence/false_positives"] == 1


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50), st.integers(0, 50))
def test_parts_merge_to_the_whole_and_mcc_is_the_correlation(pairs: list[tuple[float, bool]], cut: int) -> None:
    probability, present = map(np.array, zip(*pairs, strict=True))
    whole, first, second = PresenceAccuracy(), PresenceAccuracy(), PresenceAccuracy()
    whole.process(probability, present)
    first.process(probability[:cut], present[:cut])
    second.process(probability[cut:], present[cut:])
    first.merge(second)
    metrics = whole.evaluate()
    assert first.evaluate() == metrics
    said = probability >= 0.5
    if said.std() > 0 and present.std() > 0:
        assert metrics["presence/IL_MCC"] == pytest.approx(np.corrcoef(said, present)[0, 1], abs=1e-5)
    else:
        assert metrics["presence/IL_MCC"] == 0
    assert ("presence/accuracy_absent" in metrics) == (not present.all())


def test_scalars_and_reset() -> None:
    presence = PresenceAccuracy(threshold=0.3)
    presence.process(0.3, True)
    assert presence.evaluate()["presence/accuracy_present"] == 1
    presence.reset()
    assert "presence/accuracy_present" not in presence.evaluate()


@pytest.mark.parametrize(("probability", "present"), [([0.1], [True, False]), (float("nan"), True), (1.5, True)])
def test_bad_values_are_refused(probability: object, present: object) -> None:
    with pytest.raises(DataError, match="presence"):
        PresenceAccuracy().process(probability, present)


class Answer:
    def __init__(self, presence: float) -> None:
        self.presence = presence


def test_evaluator_counts_pairs_as_the_counter_does() -> None:
    """Weights of the headline are how often a picture counts; a crowd alone is neither present nor absent."""
    rng = np.random.default_rng(0)
    category_of, groups = {0: 30, 2: 7, 3: 12}, {"few": [7, 12]}
    shown = {
        i: (set(rng.choice([7, 12, 30], rng.integers(3)).tolist()), {12} if i % 3 == 0 else set()) for i in range(9)
    }
    evaluator = PresenceEvaluator(category_of, shown.__getitem__, groups, threshold=0.4)
    records, pairs = [], []
    for i, (instances, crowd) in shown.items():
        evaluator.start(i)
        for k in range(5):
            probability = float(rng.random())
            evaluator.add(k, Answer(probability))
            category = category_of.get(k)
            if category is not None and (category in instances or category not in crowd):
                pairs.append((i, category, probability, category in instances))
        records.append(evaluator.finish())
    weights = rng.integers(0, 3, 9)

    def expected(ids: set[int], often: np.ndarray) -> dict[str, float]:
        counter = PresenceAccuracy(threshold=0.4)
        for i, category, probability, present in pairs:
            for _ in range(often[i] if category in ids else 0):
                counter.process(probability, present)
        return counter.evaluate()

    once = np.ones(9, dtype=int)
    few = {f"few/{key}": value for key, value in expected({7, 12}, once).items()}
    assert evaluator.evaluate(records) == {**few, **expected({7, 12, 30}, once)}
    drawn = evaluator.headline(records)(weights)
    few = {f"few/{key}": value for key, value in expected({7, 12}, weights).items()}
    assert drawn == {key: {**few, **expected({7, 12, 30}, weights)}[key] for key in drawn}
    assert len(drawn) == 2 * 3


def test_evaluator_refuses_what_is_no_probability() -> None:
    evaluator = PresenceEvaluator({0: 1}, lambda i: ((), ()))
    evaluator.start(0)
    with pytest.raises(DataError, match="presence: the probability nan is not a number"):
        evaluator.add(0, Answer(float("nan")))
