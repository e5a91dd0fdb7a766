"""What the head of the page says."""

from dataclasses import replace

import pytest
from example_reports import full, metrics, three_models
from metric_keys import keyed

from sam3_hyperet.report.content import Report
from sam3_hyperet.report.tables import ALONE
from sam3_hyperet.report.view import view


def of(found, models=(), **other):
    return view(Report("run_7", keyed(found, models), [], {}, "", {}, models=models, **other), 0.5)


@pytest.fixture(scope="module")
def several():
    """The page of three adapted models."""
    return view(three_models(), 0.5)


def test_the_title_says_what_was_compared_and_on_what(several):
    assert of(metrics())["title"] == "Base and adapted model on scenes"
    assert of(metrics("coco") | metrics("ade20k/fused", key="mIoU"))["title"] == (
        "Base and adapted model on ADE20K, COCO"
    )
    assert several["title"] == "Base and 3 adapted models on scenes"
    assert of({"scenes/segm/AP": 0.4}, ALONE)["title"] == "One model on scenes"
    assert of({"a/s/segm/AP": 0.4, "b/s/segm/AP": 0.3}, ("a", "b"))["title"] == "2 models on s"
    assert view(replace(full(), front=replace(full().front, chosen=None)), 0.5)["title"].startswith("An adapter at")
    assert of({})["title"] == "run_7"


def test_what_the_base_is_comes_from_its_size():
    kind = "a tiny model of SAM 3's architecture (4.7 million parameters)"
    assert of(metrics(), kind=kind)["what"].startswith("A tiny model of SAM 3's architecture (4.7")
    assert of(metrics(), kind="SAM 3 (848 million parameters)")["what"].startswith("SAM 3 (848 million parameters) as")


def test_what_better_rests_on_is_counted(several):
    found = {k: v for i in range(40) for k, v in metrics(f"s/g{i}", 0.1, 0.3, interval=(0.1, 0.3)).items()}
    found |= {k: v for i in range(20) for k, v in metrics(f"s/h{i}", 0.1, 0.2, interval=(-0.1, 0.3)).items()}
    text = of(found)["basis"]
    assert text.startswith("Of 60 differences below, ")
    assert "40 are better and 0 worse" in text
    assert "If nothing had changed, about 3 would." in text
    assert "the model was trained once" in text
    of_three = several["basis"]
    assert "each model was trained once" in of_three
    assert (
        "203 are better and 116 worse (euclidean 63 and 36, lorentz 70 and 40, lora_of_rank_16 70 and 40): " in of_three
    )
    assert of(metrics())["basis"] == ""  # nothing was tested


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


def test_along_a_dial_there_is_one_training_and_a_front_in_place_of_a_table(several):
    report = three_models()
    along = replace(report, front=replace(full().front, chosen=None), detailed=("lorentz",))
    page = view(along, 0.5)
    assert "3 dials" in page["basis"]
    assert "the model was trained once" in page["basis"]
    assert page["glance"] == []
    assert page["strip"][0][2].startswith("gained: with lorentz, ")
    assert several["glance"]
