"""The page of a study: blocks are replaced, prose stays, and the same rows give the same page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from study_results import made_up_plan, made_up_rows, write_study

from sam3_hyperet.ablation.evidence import PAGE, write_evidence
from sam3_hyperet.ablation.plan import read_plan
from sam3_hyperet.ablation.rows import read_rows, write_rows
from sam3_hyperet.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Folder, plan and CSV of a study whose page is written."""
    folder, plan = tmp_path_factory.mktemp("study"), made_up_plan(("scenes",))
    csv = write_study(folder / "runs.csv", plan)
    write_evidence(csv, plan, folder)
    return folder, plan, csv


def test_a_new_page_has_every_table_and_its_figures(study):
    folder, _, _ = study
    page = (folder / "evidence.md").read_text()
    assert page.startswith("# does it help?\n")
    assert "| lorentz − euclidean | 15 |" in page
    links = re.findall(r"\]\((images/\S+\.svg)\)", page)
    assert len(links) == 2
    for link in links:
        svg = (folder / link).read_text()
        assert "euclidean" in svg
        assert ">first<" in svg


def test_the_same_rows_write_nothing(study):
    folder, plan, csv = study
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    written = write_evidence(csv, plan, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")} == before
    assert written.files[0] == folder / "evidence.md"
    assert set(written.files) <= before.keys()
    assert re.match(
        r"lorentz − euclidean on scenes: higher, \+\.03\d \(.* to .*\); 15 pairs on 3 bases, p < ", written.lines[0]
    )


def test_blocks_are_replaced_where_they_stand_and_prose_stays(study, tmp_path):
    folder, plan, csv = study
    block = "<!-- begin ablation made_up/answers -->\nold\n<!-- end ablation made_up/answers -->\n"
    prose = f"# Ours\n\nProtocol.\n\n{block}\nLimits.\n"
    other = "\n<!-- begin ablation other/arms -->\ntheirs\n<!-- end ablation other/arms -->\n"
    page = tmp_path / "evidence.md"
    page.write_text(prose + other)
    write_evidence(csv, plan, tmp_path)
    text = page.read_text()
    block = text.partition("made_up/answers -->\n")[2].partition("<!-- end")[0]
    assert block in (folder / "evidence.md").read_text()
    assert text.replace(block, "old\n") == prose + other


def test_more_rows_change_the_page(study, tmp_path):
    _, plan, _ = study
    rows = made_up_rows(plan)
    write_rows(tmp_path / "runs.csv", [row for row in rows if row["seed"] in "01"])
    write_evidence(tmp_path / "runs.csv", plan, tmp_path)
    few = (tmp_path / "evidence.md").read_text()
    write_rows(tmp_path / "runs.csv", rows)
    write_evidence(tmp_path / "runs.csv", plan, tmp_path)
    assert "6 pairs on 3 bases" in few
    assert "15 pairs on 3 bases" in (tmp_path / "evidence.md").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- begin ablation made_up/arms -->\n", "'made_up/arms' has no end"),
        ("<!-- end ablation made_up/arms -->\n", "out of order"),
        (
            "<!-- begin ablation made_up/arm -->\n<!-- end ablation made_up/arm -->\n",
            "unknown; expected one of answers",
        ),
        (2 * "<!-- begin ablation made_up/arms -->\n<!-- end ablation made_up/arms -->\n", "occurs twice"),
    ],
)
def test_markers_that_do_not_pair_are_refused(study, tmp_path, text, message):
    _, plan, csv = study
    (tmp_path / "evidence.md").write_text(text)
    with pytest.raises(DataError, match=message):
        write_evidence(csv, plan, tmp_path)
    assert (tmp_path / "evidence.md").read_text() == text
    assert list(tmp_path.iterdir()) == [tmp_path / "evidence.md"]


def test_a_plan_without_comparisons_has_its_arms(tmp_path):
    plan = made_up_plan(("camvid",), comparisons=())
    write_evidence(write_study(tmp_path / "runs.csv", plan), plan, tmp_path)
    assert "The plan compares no arms." in (tmp_path / "evidence.md").read_text()
    assert not list(Path(tmp_path / "images").glob("*differences*"))


def test_the_documented_page_is_what_its_rows_say(tmp_path):
    """Each plan of a CSV in docs/ has its blocks on the page; figures are only there, as fonts differ."""
    docs = REPOSITORY / "docs"
    for csv in docs.glob("*.csv"):
        if csv.stem.endswith("_trials"):
            continue
        for name in sorted({row["plan"] for row in read_rows(csv)}):
            shutil.copy(docs / PAGE, tmp_path / PAGE)
            written = write_evidence(csv, read_plan(REPOSITORY / "configs" / "ablation" / f"{name}.yaml"), tmp_path)
            assert (tmp_path / PAGE).read_text() == (docs / PAGE).read_text(), f"write the page again: {csv}, {name}"
            assert all((docs / file.relative_to(tmp_path)).is_file() for file in written.files)


def test_numbers_of_images_stand_side_by_side(tmp_path):
    plan = made_up_plan(("scenes",), images=(5, 0), seeds=(0, 1))
    written = write_evidence(write_study(tmp_path / "runs.csv", plan), plan, tmp_path)
    names = [file.name for file in written.files[1:]]
    assert names == ["made_up_arms_scenes_5.svg", "made_up_arms_scenes_all.svg", "made_up_differences_scenes.svg"]
    svg = written.files[-1].read_text()
    assert (
        svg.index("lorentz − euclidean, 5<")
        < svg.index("lorentz − euclidean, all<")
        < svg.index("mobius − euclidean, 5<")
    )
    assert "lorentz − euclidean on scenes, 5 images: " in "\n".join(written.lines)
    assert "over all 8 comparisons" in written.lines[-2]
