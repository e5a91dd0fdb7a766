"""The rule by which a run chooses its best step: what it may say, what is refused, and what is chosen."""

from __future__ import annotations

import math

import pytest

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.training.choice import Rule
from sam3_hyperet.training.options import TrainOptions
from sam3_hyperet.training.progress import Progress

RULE = "max group/segm/AP where object/segm/AP >= base-0.02"
KNOWN = {"segm/AP": 0.0, "group/segm/AP": 0.0, "object/segm/AP": 0.0, "novel/segm/AP": math.nan}


@pytest.mark.parametrize(
    ("text", "metric", "highest", "conditions"),
    [
        ("loss", "loss", False, ()),
        ("segm/AP", "segm/AP", True, ()),
        ("forgetting/object/segm/AP", "forgetting/object/segm/AP", False, ()),
        ("min presence/IL_MCC", "presence/IL_MCC", False, ()),
        (RULE, "group/segm/AP", True, ("object/segm/AP >= base-0.02",)),
        (
            " max  salt and pepper/segm/AP where a/mIoU>=.5 and fused/mIoU <= base + 0.1 and loss<=base ",
            "salt and pepper/segm/AP",
            True,
            ("a/mIoU >= 0.5", "fused/mIoU <= base+0.1", "loss <= base"),
        ),
    ],
)
def test_what_a_rule_says(text, metric, highest, conditions):
    rule = Rule.parse(text)
    assert (rule.metric, rule.highest, tuple(map(str, rule.conditions))) == (metric, highest, conditions)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected loss, a metric such as segm/AP, or a rule such as max group/segm/AP where"),
        ("segm/AP > 0.3", "expected loss, a metric"),
        ("segm/AP where mIoU > 0.3", "'mIoU > 0.3' is no condition; expected METRIC >= NUMBER"),
        ("segm/AP where mIoU >= best", "'mIoU >= best' is no condition"),
        ("segm/AP where mIoU >= .3 and", "'mIoU >= .3 and' is no condition"),
        ("segm/AP where mIoU >= .3 or loss <= 2", "'mIoU >= .3 or loss <= 2' is no condition"),
        (
            "max segm/AP where forgetting/object/segm/AP <= base+0.02",
            "forgetting/object/segm/AP is a difference from the base already; expected a number in place of base",
        ),
    ],
)
def test_what_is_no_rule(text, message):
    with pytest.raises(ConfigError) as error:
        TrainOptions(max_steps=4, batch_size=1, validate_every=2, best=text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"patience": 2},
            "train.validate_every=0, but train.patience=2 (of the experiment, where you did not give it)",
        ),
        ({"patience": 2}, "needs validation; add train.patience=0, or validate"),
        (
            {"best": "segm/AP", "patience": 2},
            "but train.best=segm/AP and train.patience=2 (of the experiment, where you did not give it) needs "
            "validation; add train.best=loss train.patience=0, or validate",
        ),
        ({"best": RULE, "validate_every": 2, "validate_images": 0}, "which train.validate_images=0 never measures"),
        ({"ema": 1.0}, "train.ema=1.0; expected a fraction from 0 to below 1"),
    ],
)
def test_options_that_need_each_other(options, message):
    with pytest.raises(ConfigError) as error:
        TrainOptions(max_steps=4, batch_size=1, **options)
    assert message in str(error.value)


def test_metrics_that_there_are_not():
    Rule.parse(RULE).check(KNOWN, "the images")
    Rule.parse("loss").check({}, "the images")
    with pytest.raises(
        ConfigError, match=r"have no metric 'grup/segm/AP'; expected one of loss, .*did you mean group/"
    ):
        Rule.parse("max grup/segm/AP").check(KNOWN, "the images")
    with pytest.raises(
        ConfigError, match=r"no metric 'segm/AP were loss'; .*, or a rule such as max group/segm/AP where"
    ):
        Rule.parse("max segm/AP were loss").check(KNOWN, "the images")
    with pytest.raises(ConfigError, match=r"novel/segm/AP is undefined: the images show nothing of it; expected other"):
        Rule.parse("max segm/AP where novel/segm/AP >= base").check(KNOWN, "the images")
    with pytest.raises(ConfigError, match=r"segm/cgF1 is undefined: the images show nothing of it, or all of it each;"):
        Rule.parse("segm/cgF1").check({"segm/cgF1": math.nan}, "the images")


def test_a_bound_that_is_kept_exactly_is_kept():
    """In floats .98 - .02 is more than .96."""
    for text, sign in (("segm/AP >= base-0.02", -1), ("loss <= base+0.02", 1)):
        (condition,) = Rule.parse(f"max mIoU where {text}").conditions
        for k in range(2, 99):
            assert condition.shortfall({condition.metric: (k + 2 * sign) / 100}, {condition.metric: k / 100}) == 0
            assert condition.shortfall({condition.metric: (k + 3 * sign) / 100}, {condition.metric: k / 100}) > 0.009


def chosen(text, *validations, base=(0.0, 0.70)):
    """The best step, its shortfall and how many validations followed it, of pairs of AP of groups and of objects."""
    rule, progress = Rule.parse(text), Progress()
    progress.base = dict(zip(("group/segm/AP", "object/segm/AP"), base, strict=True))
    for group, objects in validations:
        progress.count_step(skipped=False)
        progress.count_validation({"group/segm/AP": group, "object/segm/AP": objects}, rule)
    return progress.best_step, pytest.approx(progress.shortfall), progress.waited


def test_the_best_step():
    assert chosen("group/segm/AP", (0.1, 0), (0.3, 0), (0.3, 0), (0.2, 0)) == (2, 0, 2)
    assert chosen(RULE, (0.1, 0.70), (0.5, 0.60), (0.3, 0.69), (0.4, 0.67)) == (3, 0, 1)
    assert chosen(RULE, (math.nan, 0.70), (0.1, 0.70)) == (2, 0, 0)


def test_without_a_step_that_fulfils_the_rule_the_nearest_is_kept():
    assert chosen(RULE, (0.1, 0.50), (0.2, 0.61), (0.5, 0.55)) == (2, 0.07, 1)
    assert chosen(RULE, (0.1, math.nan), (0.2, 0.61)) == (2, 0.07, 0)
