"""What was lost on classes that were not adapted to."""

from __future__ import annotations

import pytest

from sam3_hyperet.evaluation.metric_table import forgetting

BASE = {"part/segm/AP": 0.5, "part/presence/accuracy_absent": 0.9, "group/segm/AP": 0.1, "segm/AP": 0.4, "mIoU": 0.3}
ADAPTED = {"part/segm/AP": 0.3, "part/presence/accuracy_absent": 0.95, "group/segm/AP": 0.6, "segm/AP": 0.5}


def test_what_is_lost_is_positive_and_of_the_named_groups_alone():
    assert forgetting(BASE, ADAPTED, ["part"]) == {
        "forgetting/part/segm/AP": pytest.approx(0.2),
        "forgetting/part/presence/accuracy_absent": pytest.approx(-0.05),
    }


def test_a_whole_data_set():
    assert forgetting(BASE, ADAPTED, [""]) == {"forgetting/segm/AP": pytest.approx(-0.1)}


def test_what_is_undefined_is_not_compared():
    assert forgetting({"segm/AP": -1.0, "presence/IL_MCC": -1.0}, {"segm/AP": 0.5, "presence/IL_MCC": 0.0}, [""]) == {
        "forgetting/presence/IL_MCC": -1.0
    }
