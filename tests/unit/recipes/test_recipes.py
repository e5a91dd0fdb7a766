"""Options of a first run: what they follow from, and files that say the same as the options."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sam3_hyperet.cli.sections import SECTIONS
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.recipes.choices import Choice, Content, data_choices, held_out, recipe_of, run_choices
from sam3_hyperet.recipes.commented import document


def content(train=100, tune=20, val=25, categories=3) -> Content:
    return Content({"train": train, "tune": tune, "val": val}, {f"thing {i}": {"train": i} for i in range(categories)})


def values(choices: list[Choice]) -> dict[str, object]:
    return {choice.key: choice.value for choice in choices}


@pytest.mark.parametrize(
    ("training", "steps"),
    [(1, 6), (9, 56), (80, 500), (100, 560), (1000, 560), (4480, 560), (10_000, 1250), (118_287, 2500)],
)
def test_steps_follow_from_the_number_of_images(training, steps):
    found = values(run_choices("shop", "large", content(training)))
    assert found["train.max_steps"] == steps
    assert found["train.batch_size"] * found["train.accumulate"] == 8
    assert 0 <= found["optim.warmup"] <= steps
    assert 1 <= found["train.validate_every"] <= steps


def test_large_and_tiny():
    large, tiny = (values(run_choices("shop", name, content())) for name in ("large", "tiny"))
    assert (large["train.precision"], large["train.workers"]) == ("auto", None)
    assert "train.precision" not in tiny
    assert tiny["train.batch_size"] == 8
    assert not [choice for choice in run_choices("shop", "tiny", content()) if "H200" in choice.reason]


def test_no_image_to_tune_on():
    assert held_out(1) == 0
    assert (held_out(2), held_out(10), held_out(1000)) == (1, 2, 32)
    assert values(run_choices("shop", "tiny", Content({"train": 1, "val": 1}, {"a": {}})))["train.validate_every"] == 0


def test_few_annotations_are_few_shots():
    """None of their images is held out, so no step is chosen."""
    data = DataOptions("shop", "coco", "/d", {"train": "train"})
    assert recipe_of(data, {"a": 10, "b": 2}) == "few_shot"
    assert recipe_of(data, {"a": 11, "b": 2}) == recipe_of(data, {}) == "own_data"
    assert recipe_of(replace(data, shots=5), {"a": 500}) == "few_shot"
    few = run_choices("shop", "tiny", Content({"train": 20, "val": 4}, {"a": {}}), "few_shot")
    assert values(few)["train.validate_every"] == 0
    assert [choice.reason for choice in few if "the last one is kept" in choice.reason]


def test_every_choice_is_an_option_with_a_reason():
    for choice in run_choices("shop", "large", content()):
        section, _, key = choice.key.partition(".")
        assert choice.reason
        assert (
            key in {field.name for field in fields(SECTIONS[section])} if key else section in ("name", "seed", "scheme")
        )


def test_what_was_recognised_is_all_there():
    data = DataOptions(
        "shop", "label_maps", "/d", {"train": ["a", "b"]}, names=("sky", "yes"), offset=1, ignore=0, zoom=1.5
    )
    found = values(data_choices(data, content(categories=1), "recognised as masks"))
    assert DataOptions(**found) == data
    reasons = {choice.key: choice.reason for choice in data_choices(data, content(categories=1), "recognised as masks")}
    assert reasons["validation_fraction"] == "no validation split: 25 training images are held out by seed"
    assert "data.absent_concepts" in reasons["num_negatives"]
    assert reasons["flip"].endswith("; null, the default: 0.5, and 0 where a name tells left from right")


def test_the_file():
    choices = [Choice("name", "shop", "a name"), Choice("seed", 1, "s"), Choice("train.lr", 0.5, "word " * 40)]
    text = document(["first", "  indented", ""], [*choices, Choice("splits", {"a": ["x", "y: z"]}, "of images")])
    assert text.splitlines() == [
        "# first",
        "#   indented",
        "#",
        "",
        "name: shop # a name",
        "seed: 1 # s",
        "",
        "train:",
        *(f"  # {' '.join(['word'] * n)}" for n in (21, 19)),
        "  lr: 0.5",
        "",
        "splits: # of images",
        '  a: [x, "y: z"]',
    ]


texts = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\x85\u2028\u2029\ufeff")
)
odd = st.one_of(
    texts, st.sampled_from(["yes", "1e3", "~", "null", "${x}", "a: b", "# c", "été", "1_000", "0o7", "=", "!x"])
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(odd, st.lists(odd)), st.lists(st.one_of(odd, st.integers(), st.floats(0, 1), st.booleans())))
def test_files_are_read_back_as_they_were(mapping, listed):
    text = document(["head"], [Choice("colors", mapping, "a reason"), Choice("names", listed, "another")])
    found = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    assert found == {"colors": mapping or None, "names": listed}
