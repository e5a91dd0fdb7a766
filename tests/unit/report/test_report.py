import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from metric_keys import keyed
from plotted_runs import history, shift

from sam3_hyperet.evaluation.dial import DialFront
from sam3_hyperet.report.figures.category_plots import TreeConfusion
from sam3_hyperet.report.figures.gate_plots import PromptGates
from sam3_hyperet.report.figures.images import Detection, Example, SemanticExample
from sam3_hyperet.report.figures.radius_maps import RadiusMap
from sam3_hyperet.report.figures.score_plots import PrecisionRecall, RiskCoverage
from sam3_hyperet.report.report import Report, write_report, write_tables
from sam3_hyperet.report.tables import METRICS
from sam3_hyperet.training.choice import Rule

HOSTILE = "<script>alert('x')</script>\"&"


def metrics(scope="scenes/group", base=0.01, adapted=0.34, key="segm/AP"):
    return {f"base/{scope}/{key}": base, f"{scope}/{key}": adapted}


def full():
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[10:40, 10:40] = True
    labels = np.zeros((64, 64), np.uint8)
    example = Example(picture, HOSTILE, "part", (mask,), (), (Detection(mask, 0.8),), caption=HOSTILE)
    gain = f"a$b${HOSTILE.replace('<', '').replace('>', '')}"
    values = {0.0: {gain: 0.1, "k": 0.7}, 0.5: {gain: 0.3, "k": 0.69}, 1.0: {gain: 0.4, "k": 0.5}}
    rule = Rule.parse(f"max {gain} where k >= base-0.02")
    return Report(
        title=HOSTILE,
        metrics=keyed(
            {
                **metrics(),
                **metrics(key=f"segm/AP/{HOSTILE}"),
                "difference/scenes/group/segm/AP/low": 0.28,
                "difference/scenes/group/segm/AP/high": 0.37,
                HOSTILE: 1.5,
                "params/added": 8192,
                "x/segm/AP": -1,
            }
        ),
        history=[*history(), {"step": 41, f"train/loss_{HOSTILE}": 1.0, f"radius/{HOSTILE}/mean": 1.0}],
        protocol={HOSTILE: HOSTILE},
        config=f"name: {HOSTILE}",
        versions={"torch": HOSTILE},
        examples=[example],
        semantic_examples=[SemanticExample(picture, labels, labels, labels + 255, (HOSTILE,))],
        radius=[shift(HOSTILE)],
        gained=[example],
        radius_maps=[RadiusMap(picture, HOSTILE, np.full((4, 4), 0.2), np.eye(4))],
        precision_recall=[PrecisionRecall(HOSTILE, 0.5, np.linspace(1, 0, 101), HOSTILE)],
        risk_coverage=[RiskCoverage(HOSTILE, HOSTILE, np.linspace(0, 1, 9), np.linspace(0, 0.5, 9))],
        confusion=TreeConfusion((HOSTILE, "dog"), (HOSTILE, HOSTILE), {HOSTILE: np.eye(2)}),
        instances={HOSTILE: 7},
        dropped={HOSTILE: 3},
        notes=[HOSTILE],
        front=DialFront(rule, values[0.0], values, HOSTILE, 0.5),
        gates=PromptGates({HOSTILE: {HOSTILE: 1.25}, "$a$": {HOSTILE: 0.5}}, {HOSTILE: HOSTILE, "$a$": "$part$"}),
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
    assert len(text) < 600_000


def test_report_shows_its_parts(tmp_path):
    text = write_report(full(), tmp_path / "report.html").read_text(encoding="utf-8")
    for part in (
        *("Group-level AP rose", "Training", "Tuning loss 2.5 at step 20", "Radius before and after"),
        *("nothing above 0.5", "100 % unassigned", "mask AP by category", "Data left out", "Versions"),
        *("By category", "Precision and recall", "Confusion within", "where it is wrong", "Radius over images"),
        *("Gained most", "Others, evenly spread", "+.280 to +.370", "(7)"),
        *(
            "1, as trained",
            "0, base",
            "at .680",
            "The ring is the dial",
            "Gate of every prompt (2)",
            "chosen by max a$b$",
            ">$part$<",
        ),
    ):
        assert part in text
    assert '<td class="n">–</td>' in text  # the -1
    assert text == write_report(full(), tmp_path / "again.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("figures", [{}, {"ade20k/mIoU": 0.4}, metrics(adapted=math.nan), {"mIoU": 0.4}])
def test_missing_parts_are_left_out(tmp_path, figures):
    report = Report("bare", keyed(figures), [], {}, "", {})
    text = write_report(report, tmp_path / "report.html").read_text(encoding="utf-8")
    assert Page(text).open == []
    for absent in ("Training", "Radius", "<h2>Images", "Protocol", "Configuration", "nan", "<h2>By", "95 %", "tree"):
        assert absent not in text


def test_threshold_is_stated(tmp_path):
    text = write_report(full(), tmp_path / "report.html", score_threshold=0.9).read_text(encoding="utf-8")
    assert text.count("nothing above 0.9") == 4
    assert "a score of 0.9 or more" in text


def test_write_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(full(), path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_several_models(tmp_path):
    names = ("a", HOSTILE, "c")
    figures = {"base/scenes/group/segm/AP": 0.1} | {f"{name}/scenes/group/segm/AP": 0.2 for name in names}
    figures |= {f"{name}/scenes/images": 9 for name in names}
    text = write_report(
        Report("t", keyed(figures, names), [], {}, "", {}, models=names), tmp_path / "r.html"
    ).read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert text.count('class="better">+.100') == 3
    assert text.count('class="bar"') == 4
    assert "scenes/images" in text  # once, not below each model's name
    assert "/scenes/images" not in text


def test_a_wide_table_scrolls_in_a_box_of_its_own(tmp_path):
    """On a screen of 400 pixels the page itself is never wider."""
    text = write_report(full(), tmp_path / "r.html").read_text("utf-8")
    tables = re.findall(r"(.*)\n<table( class=\"pairs\")?", text)
    assert {above for above, of_texts in tables if not of_texts} == {'<div class="wide">'}


def test_tables_are_written(tmp_path):
    paths = write_tables(full(), tmp_path / "new")
    assert [path.name for path in paths] == ["comparison.md", "comparison.tex"]
    assert all("Mask AP" in path.read_text("utf-8") for path in paths)


def test_every_metric_of_the_main_table_is_explained(tmp_path):
    every = {key: value for metric in METRICS for key, value in metrics(key=metric.key).items()}
    text = write_report(Report("t", keyed(every), [], {}, "", {}), tmp_path / "r.html").read_text("utf-8")
    assert text.count('<tr class="name">') == len(METRICS)
    assert "<span></span></th>" not in text
