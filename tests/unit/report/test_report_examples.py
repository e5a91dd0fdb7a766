import numpy as np
import pytest

from sam3_hyperet.report.examples import gained_and_lost


def record(instances, claimed, right, unknown=(False, False)):
    """Of a picture with two categories."""
    hits = np.zeros((2, 10), np.uint16)
    hits[:, 0] = right
    return {
        "instances": np.array(instances, np.uint16),
        "claimed": np.array(claimed, np.uint16),
        "segm_hits": hits,
        "unknown": np.array(unknown),
    }


def test_extremes_are_the_largest_changes_and_their_category():
    base = [record((2, 1), (2, 0), (2, 0)), record((1, 0), (1, 0), (1, 0)), record((1, 1), (1, 1), (1, 1))]
    adapted = [record((2, 1), (2, 1), (2, 1)), record((1, 0), (1, 3), (1, 0)), record((1, 1), (1, 1), (1, 1))]
    (gained,), (lost,) = gained_and_lost(base, adapted, 3)
    assert (gained.position, gained.category_id, gained.adapted) == (0, 1, 1.0)
    assert gained.base == pytest.approx(0.8)
    assert (gained.of_category, lost.of_category) == ((0.0, 1.0), (1.0, 0.0))
    assert (lost.position, lost.category_id) == (1, 1)  # false alarms for what is not there
    assert (lost.base, lost.adapted) == (1.0, pytest.approx(0.4))
    assert gained_and_lost(base, adapted, 0) == ([], [])


def test_order_and_number():
    base = [record((4, 0), (4, 0), (2, 0))] * 5
    adapted = [record((4, 0), (4, 0), (right, 0)) for right in (3, 4, 2, 0, 1)]
    gained, lost = gained_and_lost(base, adapted, 1)
    assert [one.position for one in gained] == [1]
    assert [one.position for one in lost] == [3]
    assert [one.position for one in gained_and_lost(base, adapted, 9)[1]] == [3, 4]


def test_nothing_there_and_nothing_claimed_is_right():
    nothing, alarm = record((0, 0), (0, 0), (0, 0)), record((0, 0), (0, 2), (0, 0))
    gained, lost = gained_and_lost([nothing, alarm, nothing], [nothing, nothing, alarm], 5)
    assert [(one.position, one.base, one.adapted) for one in (*gained, *lost)] == [(1, 0.0, 1.0), (2, 1.0, 0.0)]


def test_claims_where_annotations_lack_instances_are_no_false_alarms():
    quiet, alarm = (record((1, 0), (1, n), (1, 0), unknown=(False, True)) for n in (0, 3))
    assert gained_and_lost([quiet], [alarm], 1) == ([], [])
