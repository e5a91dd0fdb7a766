"""What the head of the page says, and which rows are in sight."""

from dataclasses import replace

from example_reports import full, metrics, three_models
from metric_keys import keyed

from sam3_hyperet.report.content import Report
from sam3_hyperet.report.description import alone
from sam3_hyperet.report.tables import ALONE, rows
from sam3_hyperet.report.view import view


def of(found, models=(), **other):
    return view(Report("run_7", keyed(found, models), [], {}, "", {}, models=models, **other), 0.5)


def test_the_title_says_what_was_compared_and_on_what():
    assert of(metrics())["title"] == "Base and adapted model on scenes"
    assert of(metrics("coco") | metrics("ade20k/fused", key="mIoU"))["title"] == (
        "Base and adapted model on ADE20K, COCO"
    )
    assert view(three_models(), 0.5)["title"] == "Base and 3 adapted models on scenes"
    assert of({"scenes/segm/AP": 0.4}, ALONE)["title"] == "One model on scenes"
    assert of({"a/s/segm/AP": 0.4, "b/s/segm/AP": 0.3}, ("a", "b"))["title"] == "2 models on s"
    assert view(replace(full(), front=replace(full().front, chosen=None)), 0.5)["title"].startswith("An adapter at")
    assert of({})["title"] == "run_7"


def test_what_the_base_is_comes_from_its_size():
    kind = "a tiny model of SAM 3's architecture (4.7 million parameters)"
    assert of(metrics(), kind=kind)["what"].startswith("A tiny model of SAM 3's architecture (4.7")
    assert of(metrics(), kind="SAM 3 (848 million parameters)")["what"].startswith("SAM 3 (848 million parameters) as")


def test_what_better_rests_on_is_counted():
    found = {k: v for i in range(40) for k, v in metrics(f"s/g{i}", 0.1, 0.3, interval=(0.1, 0.3)).items()}
    found |= {k: v for i in range(20) for k, v in metrics(f"s/h{i}", 0.1, 0.2, interval=(-0.1, 0.3)).items()}
    text = of(found)["basis"]
    assert text.startswith("Of 60 differences below, ")
    assert "40 are better and 0 worse" in text
    assert "If nothing had changed, about 3 would." in text
    assert "the model was trained once" in text
    assert "each model was trained once" in view(three_models(), 0.5)["basis"]
    assert of(metrics())["basis"] == ""  # nothing was tested


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


def test_models_that_differ_in_one_thing_alone_are_named():
    one, other, third = three_models().described
    assert alone([one, replace(other, geometry="euclidean")]) == (
        "In one of these alone differ lorentz and euclidean (geometry)."
    )
    assert alone([one, replace(other, geometry="", structure="")]).startswith("No two of these")
    far = replace(third, adapter="lora", geometry="")
    assert alone([one, replace(other, structure="diagonal"), far]) == (
        "In one of these alone differ lorentz and euclidean (structure)."
    )


def test_an_interval_ends_where_a_fraction_ends():
    found = {"base/s/segm/AP": 0.0, "s/segm/AP": 0.006}
    found |= {"difference/s/segm/AP/low": -0.002, "difference/s/segm/AP/high": 0.013}
    (row,) = rows(keyed(found))
    assert row.cells[0].interval == (0.0, 0.013)
    assert row.cells[0].verdict == "same"


def test_the_head_shows_an_image_whose_category_moved_as_the_image_did():
    report = three_models()
    misleading = replace(report.gained[0], prompt="bush")
    found = dict(report.metrics)
    for category, base, last in (("bush", 0.5, 0.4), ("window", 0.1, 0.3)):
        ends = (("base", base), ("euclidean", base), ("lorentz", base), ("lora_of_rank_16", last))
        found |= keyed({f"{name}/scenes/segm/AP/{category}": value for name, value in ends}, report.models)
    page = view(replace(report, metrics=found, gained=[misleading, *report.gained], lost=[misleading]), 0.5)
    assert [(example.prompt, said) for example, _, said in page["strip"]] == [
        ("window", "gained: with lora_of_rank_16, F1 of the image .20 → .60; AP on all “window” .10 → .30"),
        ("bush", "lost: with lora_of_rank_16, F1 of the image .20 → .60; AP on all “bush” .50 → .40"),
    ]
