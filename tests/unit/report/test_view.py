"""Which rows are in sight, and by which names."""

from example_reports import metrics
from metric_keys import keyed

from sam3_hyperet.report.content import Report
from sam3_hyperet.report.tables import rows
from sam3_hyperet.report.view import view


def of(found, models=(), **other):
    return view(Report("run_7", keyed(found, models), [], {}, "", {}, models=models, **other), 0.5)


def test_groups_of_the_same_figures_and_parts_of_others_are_folded():
    found = {}
    values = {"s": 0.1, "s/object": 0.2, "s/objects": 0.2, "s/held_out": 0.3, "s/held_out_parts": 0.4}
    for scope, value in values.items():
        found |= metrics(scope, 0.1, value) | metrics(scope, 0.1, value, "presence/accuracy_absent")
    page = of(found)
    labels = {metric.key: [page["short"](row) for row in rows] for metric, rows in page["blocks"]}
    assert labels["segm/AP"] == ["all concepts", "objects", "held-out", "held-out parts"]
    assert labels["presence/accuracy_absent"] == ["all concepts", "objects", "held-out"]
    folded = {metric.key: [page["short"](row) for row in rows] for metric, rows in page["folded_blocks"]}
    assert folded == {"segm/AP": ["objects"], "presence/accuracy_absent": ["held-out parts", "objects"]}
    assert page["folded_names"] == "other groups"


def test_data_sets_are_named_where_there_are_several():
    page = of(metrics("coco/part") | metrics("ade20k/part"))
    assert [page["short"](row) for _, rows in page["blocks"] for row in rows] == ["ADE20K · part", "COCO · part"]


def test_bars_and_images_are_of_the_same_model():
    names = ("first", "last")
    found = {f"{name}/s/segm/AP/{c}": x for name, x in (("base", 0.1), ("first", 0.5), ("last", 0.3)) for c in "ab"}
    page = of(found, names)
    assert [plot.title for plot in page["differences"]] == ["s: mask AP, last", "s: mask AP, first"]


def test_several_models_stand_beside_the_base_at_a_glance():
    names, found = ("a", "b"), {}
    places = {"s/segm/AP": 0.3, "s/part/segm/AP": 0.2, "s/held_out/segm/AP": 0.1, "s/held_out_parts/segm/AP": 0.05}
    places |= {"s/bbox/AP": 0.4, "s/fused/mIoU": 0.5, "s/semantic/mIoU": 0.6, "s/segm/cgF1": 0.25, "s/unassigned": 0.1}
    for key, value in places.items():
        found |= {f"{name}/{key}": value for name in ("base", *names)}
    page = of(found, names)
    assert [(row.metric.name, page["short"](row)) for row in page["glance"]] == [
        *(("Mask AP", "all concepts"), ("Mask AP", "held-out"), ("mIoU", "fused"), ("cgF1", "all concepts")),
    ]
    assert of(metrics())["glance"] == []  # of one model the table is as short


def test_an_interval_ends_where_a_fraction_ends():
    found = {"base/s/segm/AP": 0.0, "s/segm/AP": 0.006}
    found |= {"difference/s/segm/AP/low": -0.002, "difference/s/segm/AP/high": 0.013}
    (row,) = rows(keyed(found))
    assert row.cells[0].interval == (0.0, 0.013)
    assert row.cells[0].verdict == "same"
