"""Short names of models: nothing is lost, on the page as well."""

from __future__ import annotations

from dataclasses import replace

import pytest
from example_reports import three_models
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3_hyperet.report.report import write_report
from sam3_hyperet.report.short_names import short_names, shortened

WORDS = st.sampled_from(["run", "seed0", "lr", "1e-3", "0.25", "base", "a", "B", "7", "x" * 25, "é", ""])
NAMES = st.lists(st.tuples(WORDS, st.sampled_from("_-/. ")), min_size=1, max_size=6).map(
    lambda parts: "".join(word + end for word, end in parts)
)
ANY = st.text(min_size=1, max_size=40)  # of longer ones the middle is cut out, letters or not
MANY = st.lists(st.one_of(NAMES, NAMES.map("scenes_levels_101_{}_seed0".format), ANY), unique=True)


@settings(max_examples=60)
@given(MANY, st.lists(WORDS))
def test_names_stay_apart_and_say_something(names, taken):
    found = short_names(names, taken)
    assert list(found) == names
    assert len(set(found.values())) == len(names)
    for name, short in found.items():
        assert len(short) <= len(name)
        if short != name:
            assert any(map(str.isalpha, short))
            assert short not in {"base", "adapted", *taken}
            start, _, end = short.partition("…") if "…" not in name else (short, "", "")
            assert start in name
            assert end in name


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["scenes_101_B_lorentz_gate_seed0", "scenes_101_B_euclidean_gate_seed0", "scenes_101_lora_seed0"],
            ["B_lorentz_gate", "B_euclidean_gate", "lora"],
        ),
        (["shop/2026-11-27/seed0", "shop/2026-11-27/seed1"], ["seed0", "seed1"]),
        (["with_hyperet_lr_1e-3", "with_hyperet_lr_1e-4"], ["lr_1e-3", "lr_1e-4"]),
        (["shop_experiment_1", "shop_experiment_2"], ["experiment_1", "experiment_2"]),  # a number says nothing
        (["experiment_base_size", "experiment_large_size"], ["base_size", "large_size"]),  # base is the base
        (["dial_0.25", "dial_0.5"], ["dial_0.25", "dial_0.5"]),  # short as they are
        (["only_one_name_that_is_long"], ["only_one_name_that_is_long"]),
        (["same_name_of_two_folders", "same_name_of_two_folders-2"], ["folders", "folders-2"]),
        (["a" * 30 + "b" * 30, "c" * 60], ["a" * 20 + "…" + "b" * 19, "c" * 20 + "…" + "c" * 19]),
    ],
)
def test_common_ends_are_left_out(names, expected):
    assert list(short_names(names).values()) == expected


def test_a_name_of_a_data_set_is_not_taken(reported):
    report = reported("run_of_scenes_today", "run_of_levels_today", "run_of_lorentz_today")
    assert [one.name for one in shortened(report)[0].described] == ["scenes_today", "levels_today", "lorentz_today"]


@pytest.fixture
def reported():
    """A report of three models by other names."""

    def rename(*names):
        report = three_models()
        new = dict(zip(report.models, names, strict=True))

        def of(key):
            parts = key.split("/")
            return "/".join(new.get(part, part) for part in parts)

        one = report.gained[0]
        example = replace(one, detections={new.get(name, name): found for name, found in one.detections.items()})
        return replace(
            report,
            metrics={of(key): value for key, value in report.metrics.items()},
            models=names,
            described=[replace(one, name=new[one.name]) for one in report.described],
            gained=[example],
            lost=[],
            examples=[],
            notes=[f"Radii are those of {names[-1]}."],
        )

    return rename


def test_the_page_shows_short_names_and_full_ones_where_it_describes_them(reported, tmp_path):
    names = [f"scenes_levels_101_{one}_seed0" for one in ("B_lorentz", "B_euclidean", "lora")]
    report = reported(*names)
    page = write_report(report, tmp_path / "report.html").read_text("utf-8")
    short = write_report(reported("B_lorentz", "B_euclidean", "lora"), tmp_path / "short.html").read_text("utf-8")
    for name in names:
        assert f'title="{name}"' in page
        assert page.count(name.replace("_", "_<wbr>")) == 1  # where the model is described
    assert ">Radii are those of lora.</li>" in page
    assert short.count("<td") == page.count("<td")  # every figure is found under its name
    assert [key for key in report.metrics if key.startswith(names[0])]  # the report's own keys are as they were
