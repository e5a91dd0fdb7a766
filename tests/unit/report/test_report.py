import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from example_reports import HOSTILE, full, metrics
from metric_keys import keyed

from sam3_hyperet.report.content import Report
from sam3_hyperet.report.description import ModelDescription
from sam3_hyperet.report.report import write_report, write_tables
from sam3_hyperet.report.tables import ALONE, METRICS


class Page(HTMLParser):
    """Tags that are open at the end, elements, and addresses that a browser would load."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.loads, self.ids, self.classes = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "link", "hr", "wbr"):
            self.open.append(tag)
        for name, content in attributes:
            if name == "class":
                self.classes.append(content)
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.loads.append(content)
            if name == "id":
                self.ids.append(content)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The text of a page with all parts."""
    return write_report(full(), tmp_path_factory.mktemp("page") / "new" / "report.html").read_text(encoding="utf-8")


def test_report_is_self_contained_and_escaped(written):
    text, page = written, Page(written)
    assert page.open == []
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "alert" in text
    assert all(address.startswith(("data:image/", "#")) for address in page.loads)
    assert len(page.ids) == len(set(page.ids))
    anchors = {address[1:] for address in page.loads if address.startswith("#") and "plot-" not in address}
    assert len(anchors) > 10
    assert anchors <= set(page.ids)
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert len(text) < 700_000


def test_report_shows_its_parts(written, tmp_path):
    text = written
    for part in (
        *("group mask AP .010", "Training", "Tuning loss 2.5 at step 20", "Radius before and after"),
        *("nothing from 0.5 up; dashed: 0.30", "100 % unassigned", "mask AP by category", "Data left out", "Versions"),
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
    assert text.count("nothing from 0.9 up") == 6  # two models in two examples, one of them at the head as well
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
    figures |= {f"difference/a/scenes/group/segm/AP/{end}": x for end, x in (("low", 0.05), ("high", 0.15))}
    figures |= {"between/c/a/scenes/group/segm/AP": 0.0625}
    described = [
        ModelDescription(name, "scheme A (fpn)", "lorentz", "dense", "9 added", "60 steps", "") for name in names
    ]
    report = Report("t", keyed(figures, names), [], {}, "", {}, models=names, described=described)
    text = write_report(report, tmp_path / "r.html").read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert text.count('class="better">+.100') == 1  # the others have no interval
    assert text.count("scheme A (fpn)") == 3
    assert "adapted in 3 ways, on the same images and prompts" in text
    assert '<span class="whole">c</span> − <span class="whole">a</span>' in text
    assert "+.062" in text
    assert text.count('class="bar"') == 4
    assert "scenes/images" in text  # once, not below each model's name
    assert "/scenes/images" not in text


def test_the_base_alone_is_called_the_base(tmp_path):
    report = Report("t", keyed({"scenes/group/segm/AP": 0.25}), [], {}, "", {}, models=ALONE)
    text = write_report(report, tmp_path / "r.html").read_text("utf-8")
    assert "base model" in text
    assert "A SAM 3 model as it is, without an adapter." in text
    assert "dapted" not in text.partition("</style>")[2]
    assert "95 %" not in text


def test_a_wide_table_scrolls_in_a_box_of_its_own(tmp_path):
    """On a screen of 400 pixels the page itself is never wider."""
    text = write_report(full(), tmp_path / "r.html").read_text("utf-8")
    tables = re.findall(r"^(.*)\n<table( class=\"pairs\")?", text, re.MULTILINE)
    assert {above for above, of_texts in tables if not of_texts} == {'<div class="wide">'}


def test_tables_are_written(tmp_path):
    paths = write_tables(full(), tmp_path / "new")
    assert [path.name for path in paths] == ["comparison.md", "comparison.tex"]
    assert all("Mask AP" in path.read_text("utf-8") for path in paths)


def test_every_metric_of_the_main_table_is_explained(tmp_path):
    every = {key: value for metric in METRICS for key, value in metrics(key=metric.key).items()}
    text = write_report(Report("t", keyed(every), [], {}, "", {}), tmp_path / "r.html").read_text("utf-8")
    assert text.count('<tr class="name">') == len(METRICS)
    assert "<summary>More: Box AP, Consistency" in text
    assert "<span></span></th>" not in text
