import math
import os
import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest

from sam3_hyperet.evaluation import report as module
from sam3_hyperet.evaluation.plots import radius_plots, training_plots
from sam3_hyperet.evaluation.report import (
    Detection,
    Example,
    RadiusShift,
    Report,
    SemanticExample,
    headline,
    number,
    rows,
    signed,
    write_report,
)

HOSTILE = "<script>alert('x')</script>\"&"


def metrics(scope="scenes/group", base=0.01, adapted=0.34, key="segm/AP"):
    return {f"base/{scope}/{key}": base, f"{scope}/{key}": adapted}


def history():
    lines = [
        {"step": s, "train/loss": 9 / s, "train/loss_mask": 5 / s, "train/lr": 1e-3, "radius/fpn.0/mean": s}
        for s in range(1, 41)
    ]
    return [*lines, *({"step": s, "tune/loss": abs(s - 20) + 2.5} for s in (10, 20, 30, 40))]


def shift(site="fpn.0", **changes):
    values = {"edges": (0.0, 0.5, 1.0), "before": (3, 1), "after": (1, 3), "before_mean": 0.3, "after_mean": 0.6}
    values |= {"before_radius": 6.0, "after_radius": 14.0, "saturation": 0.001}
    return RadiusShift(site, **values | changes)


def full():
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[10:40, 10:40] = True
    labels = np.zeros((64, 64), np.uint8)
    example = Example(picture, HOSTILE, "part", (mask,), (), (Detection(mask, 0.8),), caption=HOSTILE)
    return Report(
        title=HOSTILE,
        metrics={**metrics(), f"scenes/segm/AP/{HOSTILE}": 0.5, HOSTILE: 1.5, "params/added": 8192, "x/segm/AP": -1},
        history=[*history(), {"step": 41, f"train/loss_{HOSTILE}": 1.0, f"radius/{HOSTILE}/mean": 1.0}],
        protocol={HOSTILE: HOSTILE},
        config=f"name: {HOSTILE}",
        versions={"torch": HOSTILE},
        examples=[example],
        semantic_examples=[SemanticExample(picture, labels, labels, labels + 255, (HOSTILE,))],
        radius=[shift(HOSTILE)],
        dropped={HOSTILE: 3},
        notes=[HOSTILE],
    )


class Page(HTMLParser):
    """Tags that are open at the end, elements, and addresses that a browser would load."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.loads, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "link", "hr"):
            self.open.append(tag)
        for name, content in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.loads.append(content)
            if name == "id":
                self.ids.append(content)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_sentence_follows_sign_and_size():
    mixed = {**metrics(), **metrics("scenes/object", 0.71, 0.64), "params/added": 8192, "params/added_ratio": 0.0018}
    assert headline(mixed) == (
        "Group-level AP rose from .01 to .34 (+.33); object-level AP fell from .71 to .64 (−.07); "
        "8,192 added parameters (0.18 % of the base)."
    )
    assert headline(metrics(base=0.5, adapted=0.5)) == "Adaptation moved nothing: group-level AP stayed at .500."
    assert "nothing: group-level AP hardly moved (.500 to .503)" in headline(metrics(base=0.5, adapted=0.503))
    assert headline(metrics(base=0.5, adapted=0.51)) == "Group-level AP edged up from .500 to .510 (+.010)."
    assert headline(metrics(base=0.5, adapted=0.4)) == (
        "Adaptation made it worse: group-level AP fell from .50 to .40 (−.10)."
    )
    assert "slipped from .500 to .490 (−.010)" in headline(metrics(base=0.5, adapted=0.49))
    assert "from .04 to .23 (+.19)" in headline(metrics(base=0.041, adapted=0.226))  # it adds up


def test_sentence_with_values_missing():
    assert headline({}) == "Neither an AP nor an mIoU was measured."
    assert headline({"ade20k/fused/mIoU": 0.39}) == (
        "mIoU (fused) on ADE20K is .39; the base model was not evaluated beside it."
    )
    assert headline(metrics(base=math.nan)).startswith("Group-level AP is .34; the base model was not")
    assert "could not be computed for the adapted model (base .50)" in headline(metrics(base=0.5, adapted=-1))
    assert headline(metrics(base=math.nan, adapted=math.inf)).startswith("Neither")


def test_sentence_names_data_sets_where_there_are_several():
    several = {**metrics("coco", 0.3, 0.4), **metrics("coco", 0.3, 0.4, "bbox/AP"), **metrics("scenes/part", 0.1, 0.2)}
    several |= metrics("ade20k/semantic", 0.30, 0.35, "mIoU") | metrics("ade20k/fused", 0.31, 0.39, "mIoU")
    sentence = headline(several)
    assert "AP on COCO rose from .30 to .40" in sentence
    assert "part-level AP on scenes rose" in sentence
    assert "mIoU (fused) on ADE20K rose from .31 to .39" in sentence
    assert "box" not in sentence
    assert "semantic" not in sentence


def test_rows():
    table = rows(
        {
            **metrics("scenes/object"),
            **metrics("scenes/part"),
            **metrics("scenes/fused", 0.1, 0.2, "unassigned"),
            **metrics("scenes/object/presence", 0.9, 0.8, "accuracy_absent"),
            "scenes/segm/AP/wheel": 0.1,
            "scenes/segm/AP@100/img": 0.1,
        }
    )
    assert [(row.metric.name, row.label, row.verdict) for row in table] == [
        ("Mask AP", "scenes · part", "better"),
        ("Mask AP", "scenes · object", "better"),
        ("Right about what is absent", "scenes · object", "worse"),
        ("Unassigned", "scenes · fused", "worse"),
    ]


def test_numbers():
    assert [number(x) for x in (0.344, 0, 1.0, -0.07, -0.001, None, math.nan)] == [
        *(".34", ".00", "1.00", "−.07", ".00"),
        *("–", "–"),
    ]
    assert [signed(x, 2) for x in (0.33, -0.07, 0.001, -0.001, None)] == ["+.33", "−.07", "±.00", "±.00", "–"]


def test_report_is_self_contained_and_escaped(tmp_path):
    text = write_report(full(), tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "alert" in text
    assert all(address.startswith(("data:image/", "#")) for address in page.loads)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert len(text) < 400_000


def test_report_shows_its_parts(tmp_path):
    text = write_report(full(), tmp_path / "report.html").read_text(encoding="utf-8")
    for part in (
        *("Group-level AP rose", "Training", "Best tuning loss 2.5 at step 20", "Radius before and after"),
        *("nothing above 0.5", "100 % unassigned", "mask AP by category", "Data left out", "Versions"),
    ):
        assert part in text
    assert '<td class="n">–</td>' in text  # the -1
    assert text == write_report(full(), tmp_path / "again.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("figures", [{}, {"ade20k/mIoU": 0.4}, metrics(adapted=math.nan), {"mIoU": 0.4}])
def test_missing_parts_are_left_out(tmp_path, figures):
    report = Report("bare", figures, [], {}, "", {})
    text = write_report(report, tmp_path / "report.html").read_text(encoding="utf-8")
    assert Page(text).open == []
    for absent in ("Training", "Radius before", "<h2>Pictures", "Protocol", "Configuration", "nan"):
        assert absent not in text


def test_threshold_is_stated(tmp_path):
    text = write_report(full(), tmp_path / "report.html", score_threshold=0.9).read_text(encoding="utf-8")
    assert text.count("nothing above 0.9") == 2
    assert "a score of 0.9 or more" in text


def test_write_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(module.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(full(), path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_training_plots():
    before = dict(matplotlib.rcParams)
    plots = {plot.title: plot for plot in training_plots(history(), best_step=30)}
    assert list(plots) == ["Loss", "Parts of the loss", "Radius while training, mean", "Learning rate"]
    assert [line.name for line in plots["Loss"].lines] == ["training", "tuning"]
    assert "at step 30" in plots["Loss"].note
    assert all("#0a0b" not in plot.svg and "<style" not in plot.svg for plot in plots.values())
    assert dict(matplotlib.rcParams) == before
    assert training_plots([]) == []
    assert training_plots([{"step": 1, "train/loss": math.nan}]) == []
    assert len(training_plots([{"step": 1, "train/loss": 1.0}])) == 1


def test_radius_plots():
    first, second = radius_plots([shift(), shift("fpn.1", before=(0, 0), after=(0, 0), after_mean=math.nan)])
    assert "var(--adapted)" in first
    assert first.count("stroke-dasharray") == 2
    assert second.count("stroke-dasharray") == 1
    assert radius_plots([]) == []
    with pytest.raises(ValueError, match=r"fpn\.0: 3 edges for 3 and 2 counts"):
        radius_plots([shift(before=(1, 1, 1), after=(1, 2))])
