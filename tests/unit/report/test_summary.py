import math

from metric_keys import keyed

from sam3_hyperet.report.summary import summary as summary_of


def summary(found, models=()):
    return summary_of(keyed(found, models), models)


def metrics(scope="scenes/group", base=0.01, adapted=0.34, key="segm/AP", interval=None):
    found = {f"base/{scope}/{key}": base, f"{scope}/{key}": adapted}
    if interval:
        found |= {f"difference/{scope}/{key}/low": interval[0], f"difference/{scope}/{key}/high": interval[1]}
    return found


def alarms(scope="scenes", base=0.99, adapted=0.85, interval=None):
    return metrics(scope, base, adapted, "presence/accuracy_absent", interval)


def test_sentence_follows_sign_and_size():
    mixed = {**metrics(), **metrics("scenes/object", 0.71, 0.64), "params/added": 8192, "params/added_ratio": 0.0018}
    assert summary(mixed) == (
        "Group-level AP rose from .01 to .34 (+.33); object-level AP fell from .71 to .64 (−.07); "
        "8,192 added parameters (0.18 % of the base)."
    )
    assert summary(metrics(base=0.5, adapted=0.5)) == "Adaptation moved nothing: group-level AP stayed at .500."
    assert "nothing: group-level AP hardly moved (.500 to .503)" in summary(metrics(base=0.5, adapted=0.503))
    assert summary(metrics(base=0.5, adapted=0.51)) == "Group-level AP edged up from .500 to .510 (+.010)."
    assert summary(metrics(base=0.5, adapted=0.4)) == (
        "Adaptation made it worse: group-level AP fell from .50 to .40 (−.10)."
    )
    assert "slipped from .500 to .490 (−.010)" in summary(metrics(base=0.5, adapted=0.49))
    assert "from .04 to .23 (+.19)" in summary(metrics(base=0.041, adapted=0.226))  # it adds up


def test_sentence_with_values_missing():
    assert summary({}) == "Neither an AP nor an mIoU was measured."
    assert summary({"ade20k/fused/mIoU": 0.39}) == (
        "mIoU (fused) on ADE20K is .39; the base model was not evaluated beside it."
    )
    assert summary(metrics(base=math.nan)).startswith("Group-level AP is .34; the base model was not")
    assert "could not be computed for the adapted model (base .50)" in summary(metrics(base=0.5, adapted=-1))
    assert summary(metrics(base=math.nan, adapted=math.inf)).startswith("Neither")


def test_sentence_names_data_sets_where_there_are_several():
    several = {**metrics("coco", 0.3, 0.4), **metrics("coco", 0.3, 0.4, "bbox/AP"), **metrics("scenes/part", 0.1, 0.2)}
    several |= metrics("ade20k/semantic", 0.30, 0.35, "mIoU") | metrics("ade20k/fused", 0.31, 0.39, "mIoU")
    sentence = summary(several)
    assert "AP on COCO rose from .30 to .40" in sentence
    assert "part-level AP on scenes rose" in sentence
    assert "mIoU (fused) on ADE20K rose from .31 to .39" in sentence
    assert "box" not in sentence
    assert "semantic" not in sentence


def test_a_difference_is_what_its_interval_supports():
    assert summary(metrics(base=0.3, adapted=0.35, interval=(0.02, 0.09))) == (
        "Group-level AP rose from .30 to .35 (+.05, 95 % interval +.02 to +.09)."
    )
    assert summary(metrics(base=0.3, adapted=0.35, interval=(-0.01, 0.09))) == (
        "No difference is beyond chance: group-level AP shows no clear change (.30 to .35, 95 % interval −.01 to +.09)."
    )
    assert summary(metrics(base=0.35, adapted=0.3, interval=(-0.09, -0.02))) == (
        "Adaptation made it worse: group-level AP fell from .35 to .30 (−.05, 95 % interval −.09 to −.02)."
    )
    both = metrics(base=0.1, adapted=0.3, interval=(0.1, 0.3)) | metrics("scenes/part", 0.1, 0.2, interval=(0.0, 0.2))
    sentence = summary(both)
    assert sentence.count("95 % interval") == 1
    assert sentence.endswith(
        "(+.20, 95 % interval +.10 to +.30); part-level AP shows no clear change (.10 to .20, ±.00 to +.20)."
    )


def test_more_false_alarms_are_never_left_out():
    many = {k: v for i in range(9) for k, v in metrics(f"scenes/split{i}", 0.1, 0.2).items()}
    sentence = summary(many | alarms() | alarms("scenes/part", 0.994, 0.65))
    assert (
        "4 more below; but false alarms on absent prompts rose from 1 % to 15 % (part prompts: 0.6 % to 35 %)."
        in sentence
    )
    same = summary(metrics(base=0.5, adapted=0.5) | alarms(interval=(-0.2, -0.1)))
    assert same == "Group-level AP stayed at .500; false alarms on absent prompts rose from 1 % to 15 %."
    assert "Adaptation made it worse" in summary(metrics(base=0.5, adapted=0.4) | alarms())
    none = summary(metrics() | alarms(base=1.0, adapted=0.4))
    assert "rose from 0 % to 60 %." in none
    part = summary(metrics() | alarms(adapted=0.99) | alarms("scenes/part"))
    assert "false alarms on absent part prompts rose from 1 % to 15 %." in part


def test_fewer_or_uncertain_false_alarms_are_not_mentioned():
    for quiet in (alarms(adapted=0.999), alarms(adapted=0.987), alarms(interval=(-0.3, 0.01)), {}):
        assert "alarm" not in summary(metrics() | quiet)


def several(values, base=0.5, scope="scenes/group", key="segm/AP", intervals=None):
    found = {f"base/{scope}/{key}": base} | {f"{name}/{scope}/{key}": value for name, value in values.items()}
    for name, (low, high) in (intervals or {}).items():
        found |= {f"difference/{name}/{scope}/{key}/low": low, f"difference/{name}/{scope}/{key}/high": high}
    return found


def test_several_models():
    names = ("one", "two")
    assert summary(several({"one": 0.6, "two": 0.7}, intervals={"two": (0.1, 0.3)}), names) == (
        "Group-level AP is highest with two: .70, base .50 (+.20, 95 % interval +.10 to +.30)."
    )
    assert summary(several({"one": 0.6, "two": 0.4}, intervals={"one": (-0.1, 0.3), "two": (-0.3, 0.1)}), names) == (
        "No difference is beyond chance: no model clearly raises group-level AP "
        "(best: .60 with one, base .50, 95 % interval −.10 to +.30)."
    )
    assert summary(several({"one": 0.2, "two": 0.4}), names) == (
        "Adaptation made it worse: every model lowers group-level AP (least two: .40, base .50)."
    )
    assert summary(several({"one": 0.501, "two": 0.499}), names) == (
        "Adaptation moved nothing: group-level AP stays at .500 with every model."
    )
    absent = several({"one": 0.99, "two": 0.85}, 0.99, "scenes", "presence/accuracy_absent")
    sentence = summary(several({"one": 0.6, "two": math.nan}) | absent, names)
    assert sentence.endswith("; but false alarms on absent prompts rose from 1 % to 15 % with two.")
