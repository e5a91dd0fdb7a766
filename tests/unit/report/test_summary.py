import math

import pytest
from example_reports import metrics
from metric_keys import keyed

from sam3_hyperet.report.summary import LENGTH, duration
from sam3_hyperet.report.summary import headline as headline_of


def headline(found, models=()):
    return {line.label: line.text for line in headline_of(keyed(found, models), models)}


def gained(scope="scenes/group", base=0.01, adapted=0.34, key="segm/AP"):
    return metrics(scope, base, adapted, key, (adapted - base - 0.01, adapted - base + 0.01))


def presence(base, adapted, kind="absent", scope="scenes"):
    return gained(scope, base, adapted, f"presence/accuracy_{kind}")


def test_three_lines_say_what_is_better_what_worse_and_at_what_cost():
    mixed = {**gained(), **gained("scenes/object", 0.71, 0.64), "params/added": 8192, "params/added_ratio": 0.0018}
    assert headline({**mixed, "train/steps": 1200, "train/seconds": 310.9}) == {
        "Better": "group mask AP .010 → .340 (+.320 to +.340)",
        "Worse": "object mask AP .710 → .640 (−.080 to −.060)",
        "Cost": "8,192 added parameters, 0.18 % of the base; 1,200 steps in 5 min 11 s",
    }
    lines = headline_of(keyed(mixed))
    assert [line.verdict for line in lines] == ["better", "worse", ""]
    assert headline(gained()) == {
        "Better": "group mask AP .010 → .340 (+.320 to +.340)",
        "Worse": "nothing beyond chance",
    }


def test_nothing_is_called_better_without_an_interval():
    assert headline(metrics()) == {"Higher": "group mask AP .010 → .340", "Lower": "nothing"}
    assert [line.verdict for line in headline_of(keyed(metrics()))] == ["", ""]
    open_ = metrics(base=0.3, adapted=0.35, interval=(-0.01, 0.09))
    assert headline(open_) == {
        "Same": "no difference beyond chance; the largest is group mask AP .300 → .350 (−.010 to +.090)"
    }
    assert headline(metrics(base=0.5, adapted=0.503)) == {"Same": "nothing moved: at most group mask AP .500 → .503"}
    both = headline(gained() | metrics("scenes/part", 0.1, 0.3))
    assert both["Better"] == "group mask AP .010 → .340 (+.320 to +.340)"  # what was not tested is not named


def test_values_that_are_missing():
    assert headline({}) == {"Measured": "neither an AP nor an mIoU"}
    assert headline({"ade20k/fused/mIoU": 0.39}) == {"Measured": "mIoU (fused) .390"}
    assert headline(metrics(base=math.nan)) == {"Measured": "group mask AP .340"}
    assert headline(metrics(base=0.5, adapted=-1) | gained("scenes/part"))["Better"].startswith("part mask AP")


def test_data_sets_are_named_where_there_are_several():
    several = {**gained("coco", 0.3, 0.4), **gained("coco", 0.3, 0.4, "bbox/AP"), **gained("scenes/part", 0.1, 0.2)}
    several |= gained("ade20k/semantic", 0.30, 0.35, "mIoU") | gained("ade20k/fused", 0.31, 0.39, "mIoU")
    text = headline(several)["Better"]
    assert "mask AP on COCO .300 → .400" in text
    assert "part mask AP on scenes" in text
    assert "box" not in text
    assert "semantic" not in text


def test_recall_and_false_alarms_that_explode_are_named_whatever_else_there_is():
    many = {k: v for i in range(9) for k, v in gained(f"scenes/split_{i}", 0.1, 0.5 + i / 100).items()}
    lost = {k: v for i in range(9) for k, v in gained(f"scenes/lost_{i}", 0.9, 0.1).items()}
    explodes = presence(0.1, 0.98, "present", "scenes/part") | presence(0.2, 0.5, "present")
    explodes |= presence(0.994, 0.65, scope="scenes/part") | presence(0.99, 0.85)
    lines = headline(many | lost | explodes)
    assert "present parts accepted .100 → .980" in lines["Better"]
    assert lines["Better"].startswith("split 8 mask AP .100 → .580 (")
    assert lines["Better"].endswith("8 more measures")
    assert "false alarms for parts 0.6 % → 35 %" in lines["Worse"]
    assert all(len(text) <= LENGTH for text in lines.values())
    quiet = headline(gained() | presence(0.99, 0.987))
    assert quiet["Worse"] == "nothing beyond chance"


def test_false_alarms_that_triple_are_named_though_they_are_half_a_point():
    tripled = metrics("coco", 0.998, 0.9935, "presence/accuracy_absent", (-0.0048, -0.0042))
    lines = headline_of(keyed(gained("coco") | tripled))
    assert [(line.label, line.text, line.verdict) for line in lines[1:]] == [
        ("Worse", "false alarms 0.2 % → 0.65 % (+0.42 to +0.48 points)", "worse")
    ]
    assert headline(presence(0.97, 0.985))["Better"] == "false alarms 3 % → 1.5 % (−2.5 to −0.5 points)"
    chance = metrics("coco", 0.998, 0.9965, "presence/accuracy_absent", (-0.004, 0.001))
    assert headline(gained("coco") | chance)["Worse"] == "nothing beyond chance"
    names = [f"m{k}" for k in range(6)]
    many = several({name: 0.99 - k / 1000 for k, name in enumerate(names)}, 0.998, "coco", "presence/accuracy_absent")
    ends = {
        f"difference/{name}/coco/presence/accuracy_absent/{end}": -0.001 for name in names for end in ("low", "high")
    }
    assert headline(many | ends, names)["Worse"] == "all 6 models: false alarms 0.2 % → 1 % … 1.5 %"
    assert headline({"coco/presence/accuracy_absent": 0.9935}) == {"Measured": "false alarms 0.65 %"}


def test_of_a_base_that_accepts_nothing_it_is_said():
    trivial = presence(0.0, 0.89, "present", "scenes/held_out") | presence(1.0, 0.85, scope="scenes/held_out")
    found = headline(trivial | presence(0.97, 0.95, scope="scenes/known"))
    assert found["Better"].startswith("present held-out concepts accepted .000 → .890")
    assert found["Worse"] == "false alarms for held-out concepts 0 % → 15 % (the base accepts none) (+14 to +16 points)"


def several(values, base=0.5, scope="scenes/group", key="segm/AP", intervals=None):
    found = {f"base/{scope}/{key}": base} | {f"{name}/{scope}/{key}": value for name, value in values.items()}
    for name, (low, high) in (intervals or {}).items():
        found |= {f"difference/{name}/{scope}/{key}/low": low, f"difference/{name}/{scope}/{key}/high": high}
    return found


def test_several_models():
    names = ("one", "two")
    ends = {"one": (0.05, 0.15), "two": (0.1, 0.3)}
    best = headline(
        several({"one": 0.6, "two": 0.7}, intervals=ends) | {"one/params/added": 8, "two/params/added": 9}, names
    )
    assert best == {
        "Better": "both models: group mask AP .500 → .600 / .700",
        "Worse": "nothing beyond chance",
        "Cost": "8 (one), 9 (two) added parameters",
    }
    ends = {"one": (0.05, 0.15), "two": (-0.3, -0.1)}
    split = headline(several({"one": 0.6, "two": 0.3}, intervals=ends), names)
    assert split["Better"] == "one alone: group mask AP .500 → .600 / .300"
    assert split["Worse"] == "two alone: group mask AP .500 → .600 / .300"


def test_what_most_models_share_comes_first_and_is_not_the_best_of_them():
    names = ("one", "two", "three")
    up = dict.fromkeys(names, (0.05, 0.15))
    shared = several({"one": 0.6, "two": 0.6, "three": 0.61}, scope="scenes/held_out_parts", intervals=up)
    lucky = several({"one": 0.5, "two": 0.5, "three": 0.9}, intervals={"three": (0.2, 0.6)})
    assert headline(lucky | shared, names)["Better"] == "all 3 models: held-out parts mask AP .500 → .600 / .600 / .610"
    assert headline(lucky, names)["Better"] == "three alone: group mask AP .500 → .500 / .500 / .900"
    two = several({"one": 0.6, "two": 0.6, "three": 0.5}, intervals={name: up[name] for name in names[:2]})
    assert headline(two, names)["Better"] == "2 of 3 models: group mask AP .500 → .600 / .600 / .500"


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (310.9, "5 min 11 s"), (10_920, "3 h 2 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_agreement_with_the_base_is_said_and_never_called_worse():
    """The base is its own truth, so that every other model has less: no finding, whatever the interval is."""
    kept = metrics("scenes/kept", 1.0, 0.95, interval=(-0.08, -0.02)) | metrics(
        "scenes/kept", 1.0, 0.9, "presence/accuracy_absent"
    )
    assert headline({**gained("scenes"), **kept}) == {
        "Better": "mask AP .010 → .340 (+.320 to +.340)",  # of all concepts: the base's answers are no group of them
        "Worse": "nothing beyond chance",
        "Agreement": "mask AP with the base's own answers as the truth (1.000: all are kept): .950",
    }
    same = headline({**metrics("scenes", 0.3, 0.3, interval=(-0.01, 0.01)), **kept})
    assert list(same) == ["Same", "Agreement"]
    names = [f"m{k}" for k in range(6)]
    several = {f"{name}/scenes/kept/segm/AP": k / 10 for k, name in enumerate(names)}
    several |= {f"{name}/scenes/segm/AP": 0.3 for name in names}
    both = {"base/scenes/segm/AP": 0.1, "base/scenes/kept/segm/AP": 1.0}
    assert headline({**both, **several}, names)["Agreement"].endswith(": .000 … .500")
    spared = metrics("scenes/kept", 0.93, 0.9)
    assert headline({**gained("scenes"), **spared})["Agreement"].endswith(" (.930: the base as it is scored): .900")
    assert "Agreement" not in headline({"scenes/segm/AP": 0.1, "scenes/kept/segm/AP": 1.0})  # the base alone
    assert all(len(text) <= LENGTH for text in headline({**both, **several}, names).values())
