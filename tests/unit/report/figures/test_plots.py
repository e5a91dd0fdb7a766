import math
import re

import matplotlib
import numpy as np
import pytest
from plotted_runs import history, shift

from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.report.figures.category_plots import (
    MOST_CONCEPTS,
    TreeConfusion,
    confusion_plots,
    difference_plots,
)
from sam3_hyperet.report.figures.plots import TEXT, WIDTH, model_colors
from sam3_hyperet.report.figures.radius_plots import radius_plots
from sam3_hyperet.report.figures.score_plots import (
    PrecisionRecall,
    RiskCoverage,
    precision_recall_plots,
    risk_coverage_plots,
)
from sam3_hyperet.report.figures.training_plots import training_plots
from sam3_hyperet.report.tables import category_tables

HOSTILE = "<script>&$x$ 猫"


def test_training_plots():
    before = dict(matplotlib.rcParams)
    plots = {plot.title: plot for plot in training_plots(history(), best_step=30)}
    rest = ["Parts of the loss", "Radius while training, mean", "Learning rate"]
    assert list(plots) == ["Loss", "Mask AP on the tuning images", *rest]
    validation = plots["Mask AP on the tuning images"]
    assert [(line.name, line.x[0]) for line in validation.lines] == [("all", 0), ("part", 0)]
    assert validation.note == "Before the first step: the base. The weights of step 30 are kept."
    assert validation.svg.count("stroke-dasharray") == 1  # at the chosen step
    raw, mean, tuning = plots["Loss"].lines
    assert [line.name for line in plots["Loss"].lines] == ["training", "training, running mean", "tuning"]
    assert [line.faint for line in plots["Loss"].lines] == [True, False, False]
    assert mean.y[:3] == pytest.approx((9.0, (9 + 4.5) / 2, (4.5 + 3) / 2))  # of two, a twentieth of forty
    assert (raw.x, len(raw.y), len(tuning.y)) == (mean.x, len(mean.y), 5)
    assert "at step 30" in plots["Loss"].note
    assert all("#0a0b" not in plot.svg and "<style" not in plot.svg for plot in plots.values())
    assert dict(matplotlib.rcParams) == before
    assert training_plots([]) == []
    assert training_plots([{"step": 1, "train/loss": math.nan}]) == []
    assert len(training_plots([{"step": 1, "train/loss": 1.0}])) == 1


def test_what_is_kept_has_a_plot_of_its_own_while_training():
    values = {"tune/segm/AP": 0.1, "tune/kept/segm/AP": 0.9, "tune/part/segm/AP": 0.2, "tune/kept_names/segm/AP": 0}
    history_of = [{"step": step, **values} for step in (0, 9)]
    found = {plot.title: [line.name for line in plot.lines] for plot in training_plots(history_of)}
    by_base = {"Mask AP by the base's own answers on the tuning images": ["kept"]}
    assert found == {"Mask AP on the tuning images": ["all", "part", "kept_names"], **by_base}


def test_radius_plots():
    first, second = radius_plots([shift(), shift("fpn.1", before=(0, 0), after=(0, 0), after_mean=math.nan)])
    assert "var(--adapted)" in first
    assert first.count("stroke-dasharray") == 2
    assert second.count("stroke-dasharray") == 1
    assert radius_plots([]) == []
    with pytest.raises(ValueError, match=r"fpn\.0: 3 edges for 3 and 2 counts"):
        radius_plots([shift(before=(1, 1, 1), after=(1, 2))])


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_text_is_legible_at_page_width():
    (plot,) = risk_coverage_plots([RiskCoverage("base", "score", np.array([0, 1]), np.array([0, 1]))])
    sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", plot.svg)]
    points_per_unit = 0.75 * 440 / (72 * WIDTH)  # two plots on a page of 960 pixels, of 4/3 pixel a point
    assert sizes
    assert min(sizes) == TEXT
    assert min(sizes) * points_per_unit >= 0.99 * TEXT


def test_precision_recall_draws_a_curve_for_each():
    falling = np.linspace(1, 0, 101)
    given = [
        PrecisionRecall(m, t, falling, g) for g in ("part", "object") for m in ("base", "a", "b") for t in (0.5, 0.75)
    ]
    plots = precision_recall_plots(given)
    assert [plot.title for plot in plots] == ["part categories", "object categories"]
    for plot in plots:
        assert [(line.name, line.dashed) for line in plot.lines][:3] == [
            ("base, IoU ≥ .50", False),
            ("base, IoU ≥ .75", True),
            ("a, IoU ≥ .50", False),
        ]
        assert plot.svg.count("stroke-width: 1.6") == 6
        assert plot.svg.count("stroke-dasharray") == 3
        assert {line.color for line in plot.lines} == set(model_colors(2))
        assert {"recall", "precision"} <= set(texts(plot.svg))


def test_curves_without_numbers_are_left_out():
    nothing = np.full(101, math.nan)
    assert precision_recall_plots([]) == []
    assert precision_recall_plots([PrecisionRecall("base", 0.5, nothing)]) == []
    assert risk_coverage_plots([]) == []
    empty = RiskCoverage("base", "score", np.array([]), np.array([]))
    assert risk_coverage_plots([empty, RiskCoverage("base", "score", np.array([1.0]), np.array([0.2]))]) == []
    half = np.where(np.arange(101) < 50, 0.5, math.nan)
    (plot,) = precision_recall_plots([PrecisionRecall("base", 0.5, half), PrecisionRecall("a", 0.5, nothing)])
    assert [(line.name, len(line.x)) for line in plot.lines] == [("base, IoU ≥ .50", 50)]


def test_risk_coverage_has_one_scale():
    x = np.linspace(0, 1, 5000)
    plots = risk_coverage_plots([RiskCoverage("base", "score", x, 0.4 * x), RiskCoverage("a", "radius", x, 0.1 * x)])
    assert [plot.title for plot in plots] == ["Kept by score", "Kept by radius"]
    assert [plot.lines[0].color for plot in plots] == ["base", "adapted"]
    assert len(plots[0].lines[0].x) <= 300
    ticks = [[text for text in texts(plot.svg) if text.endswith("%")] for plot in plots]
    assert ticks[0] == ticks[1]


def category_rows(differences):
    found = {MetricKey("segm/AP", data="s", category=name, model="base"): 0.5 for name in differences}
    found |= {MetricKey("segm/AP", data="s", category=name): 0.5 + change for name, change in differences.items()}
    return category_tables(found)["s: mask AP"] if found else []


def test_difference_bars():
    (plot,) = difference_plots("t", category_rows({"car": 0.25, "dog": -0.1, HOSTILE: 0.0}), {"car": 1200})
    assert {"car (1,200)", "dog", "+.25", "−.10", "&lt;script&gt;&amp;$x$ 猫"} <= set(texts(plot.svg))
    assert not re.search(r"var\(--(better|worse)\)", plot.svg)  # there are no intervals by category
    assert "instances" in plot.note
    assert difference_plots("t", []) == []
    assert difference_plots("t", category_rows({"car": math.nan})) == []


def test_of_many_categories_the_extremes_are_shown():
    rows = category_rows({f"c{i:03d}": (i - 49.5) / 200 for i in range(100)})
    gained, lost = difference_plots("t", rows)
    assert (gained.title, lost.title) == ("t, gained most", "t, lost most")
    assert [text for text in texts(gained.svg) if text.startswith("c")] == [f"c{i:03d}" for i in range(99, 84, -1)]
    assert [text for text in texts(lost.svg) if text.startswith("c")] == [f"c{i:03d}" for i in range(15)]
    assert "49 of 100 categories" in gained.note
    (only,) = difference_plots("t", category_rows({f"c{i}": 0.1 * (i < 3) for i in range(30)}))
    assert only.title == "t, gained most"
    assert difference_plots("t", category_rows({f"c{i}": 0.001 for i in range(30)})) == []


def confused(count, models=("base", "adapted")):
    shares = np.eye(count) * 0.9
    shares[1, 0] = 0.3
    return TreeConfusion(
        tuple(f"n{i}" for i in range(count)), tuple(f"p{i // 2}" for i in range(count)), dict.fromkeys(models, shares)
    )


def test_confusion_in_the_order_of_the_tree():
    plots = confusion_plots(confused(6))
    assert [plot.title for plot in plots] == ["base", "adapted"]
    svg = plots[0].svg
    assert svg.count("fill: var(--adapted)") == 6
    assert svg.count("fill: var(--worse)") == 1
    assert texts(svg).count("90") == 6
    assert texts(svg).count("30") == 1
    assert [text for text in texts(svg) if text.startswith("n")] == [f"n{i}" for i in range(6)] * 2
    assert len(re.findall("fill: none; stroke: var\\(--muted\\)", svg)) >= 3  # a frame for each parent


def test_of_many_concepts_the_most_confused_are_shown():
    given = confused(60)
    given.shares["adapted"][40, 50] = 0.2
    plot = confusion_plots(given)[1]
    shown = [text for text in texts(plot.svg) if re.fullmatch(r"n\d+", text)]
    assert len(shown) == 2 * MOST_CONCEPTS
    assert {"n0", "n1", "n40", "n50"} <= set(shown)
    assert shown[:MOST_CONCEPTS] == sorted(shown[:MOST_CONCEPTS], key=lambda name: int(name[1:]))
    assert f"{MOST_CONCEPTS} of 60" in plot.note


def test_confusion_of_nothing():
    assert confusion_plots(TreeConfusion((), (), {"base": np.zeros((0, 0))})) == []
    assert confusion_plots(TreeConfusion(("a",), ("b",), {"base": np.full((1, 1), math.nan)})) == []
    (plot,) = confusion_plots(TreeConfusion((HOSTILE, "b"), ("p", "p"), {"base": np.array([[1, 0], [math.nan] * 2])}))
    assert texts(plot.svg).count("&lt;script&gt;&amp;$x$ 猫") == 2
