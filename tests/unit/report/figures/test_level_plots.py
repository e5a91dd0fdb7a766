"""The figure and the tables of what the radius tells, from metrics alone."""

from __future__ import annotations

import numpy as np
import pytest

from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.report.content import Report
from sam3_hyperet.report.figures.level_plots import level_plots, orders_in_words, place_rows, radius_by_level
from sam3_hyperet.report.figures.score_plots import RiskCoverage
from sam3_hyperet.report.report import write_report
from sam3_hyperet.report.tables import knowing_rows, other_keys


def keyed(metrics, model=""):
    return {MetricKey(key, data="scenes", model=model): value for key, value in metrics.items()}


def order(key, delta, low, high, elsewhere=None, beyond=None):
    key = f"granularity/{key}"
    found = {f"{key}/delta": delta, f"{key}/delta/low": low, f"{key}/delta/high": high}
    found |= {} if elsewhere is None else {f"{key}/elsewhere": elsewhere}
    return found | ({} if beyond is None else {f"{key}/beyond/low": beyond[0], f"{key}/beyond/high": beyond[1]})


@pytest.mark.parametrize(("beyond", "verdict"), [(None, "coarser"), ((-0.05, 0.5), "open"), ((0.05, 0.5), "coarser")])
def test_the_control_has_a_sampling_error_too(beyond, verdict):
    """δ is above the control's estimate; whether their difference is above 0 is another question."""
    (row,) = place_rows(keyed(order("encoder/part_object", 0.6, 0.4, 0.8, 0.3, beyond)))
    assert row.orders["part_object"].verdict == verdict


BASE = keyed(
    {
        **order("fpn.0/part_object", -1.0, -1.0, -0.4, 0.0),
        **order("text/part_object", 0.2, -0.3, 0.7),
        "granularity/fpn.0/part": 12.5,
        "granularity/fpn.0/rho": -1.0,
        "granularity/part_object/pairs": 7.0,
        "uncertainty/radius/auroc": 0.6,
        "uncertainty/score/auroc": 0.8,
        "uncertainty/both/auroc": 0.85,
        **{f"uncertainty/beyond_score/auroc{end}": x for end, x in (("", 0.05), ("/low", -0.01), ("/high", 0.1))},
    },
    "base",
)
ADAPTED = keyed(
    {**order("fpn.0/part_object", 0.5, 0.1, 0.8, 0.5), **order("encoder/object_group", 0.9, 0.8, 1.0, -0.1)}
)
METRICS = BASE | ADAPTED


def test_a_row_a_model_and_place():
    rows = place_rows(METRICS)
    assert [(row.place, row.model) for row in rows] == [
        *(("fpn.0", "base"), ("fpn.0", "adapted"), ("text", "base"), ("encoder", "adapted")),
    ]
    assert (rows[0].values["part"], rows[0].values["rho"], rows[0].values["group"]) == (12.5, -1.0, None)
    first = rows[0].orders["part_object"]
    assert (first.fraction, first.low, first.high, first.control) == (0.0, 0.0, 0.3, 0.5)
    assert [row.orders[edge].verdict for row in rows for edge in row.orders] == ["finer", "open", "open", "coarser"]
    assert "base 0 of 2 (1 reversed), adapted 1 of 2 (0 reversed); the others" in orders_in_words(rows)
    assert orders_in_words([]) == ""
    assert place_rows({}) == []
    assert {row.model for row in place_rows(ADAPTED)} == {"the model"}  # alone, it may be a base


def test_a_plot_a_step_that_says_what_it_shows():
    plots = level_plots(place_rows(METRICS))
    assert [plot.title for plot in plots] == ["Object farther out than its part", "Group farther out than its object"]
    assert plots[0].note == "Base: reversed at fpn.0; open at text. Adapted: open at fpn.0."
    assert [line.name for line in plots[1].lines] == ["adapted", "the same masks at a random place"]
    assert "encoder" in plots[1].svg
    assert "fpn.0" not in plots[1].svg


def test_mean_radii_by_granularity_are_drawn_in_units_of_the_objects():
    assert radius_by_level(place_rows(METRICS)) == []  # of parts alone there is nothing to compare
    means = {"granularity/fpn.0/part": 2.0, "granularity/fpn.0/object": 4.0, "granularity/fpn.0/group": 5.0}
    (plot,) = radius_by_level(place_rows(keyed(means, "base") | keyed(means)))
    assert [line.name for line in plot.lines] == ["base", "adapted"]
    assert "fpn.0" in plot.svg
    assert plot.svg.count("<use") >= 6  # a mark a level and model


def test_what_the_radius_adds_to_the_score():
    table = knowing_rows(METRICS)
    assert table == {"base": [".60", ".80", ".85", "+.05 (−.01 to +.10)", "–", "–", "–", "–"]}


def test_the_report_asks_whether_the_radius_is_granularity(tmp_path):
    curves = [RiskCoverage("base", "score, highest first", np.linspace(0.1, 1, 9), np.linspace(0, 0.5, 9))]
    report = Report("r", METRICS, [], {}, "", {}, risk_coverage=curves)
    page = write_report(report, tmp_path / "report.html").read_text()
    for text in ("Is the radius granularity?", "reversed at fpn.0", "12.5", "1 − score"):
        assert text in page
    assert not [key for key in other_keys(METRICS) if key.endswith("/low")]
    without = write_report(Report("r", {}, [], {}, "", {}), tmp_path / "none.html").read_text()
    assert "Is the radius granularity?" not in without
