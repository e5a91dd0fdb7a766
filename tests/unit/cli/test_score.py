"""`sam3-hyperet score`: references, and one clear line for an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_line_errors import error_of
from PIL import Image

from sam3_hyperet.cli.score import main

Score = Callable[..., dict[str, Any]]


@pytest.fixture
def score(tmp_path: Path) -> Score:
    def run(*arguments: str) -> dict[str, Any]:
        out = tmp_path / "new folder/metrics.json"
        main([*arguments, f"out={out}"])
        assert [path.name for path in out.parent.iterdir()] == ["metrics.json"]
        report: dict[str, Any] = json.loads(out.read_text())
        return report

    return run


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """One image's worth of every kind of file, in a folder whose name Hydra's grammar would not take."""
    folder = tmp_path / "a b, c(d)=e's"
    truth = {
        "images": [{"id": 1, "height": 8, "width": 8}],
        "categories": [{"id": 4, "name": "wheel"}, {"id": 9, "name": "car"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 4, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}],
    }
    for name in ("labels", "predictions"):
        (folder / name).mkdir(parents=True)
        Image.fromarray(np.array([[0, 1]], np.uint8)).save(folder / name / "1.png")
    (folder / "gt.json").write_text(json.dumps(truth))
    detection = {"image_id": 1, "category_id": 4, "bbox": [0, 0, 4, 4], "score": 0.5}
    (folder / "detections.json").write_text(json.dumps([detection]))
    (folder / "names.txt").write_text("sky\nroad\n")
    return folder


def test_coco_reference(score: Score, shared_data: Path) -> None:
    report = score(
        "coco",
        f"gt={shared_data}/coco/annotations/instances_val2017.json",
        f"predictions={shared_data}/reference_metrics/dev_tinycoco_val50_dets.json",
    )
    assert report["segm/AP"] == pytest.approx(0.28289295880104043, abs=1e-9)
    assert "segm/cgF1" in report
    assert report["version/sam3_hyperet"]


def test_semantic_reference(score: Score, shared_data: Path) -> None:
    ade = shared_data / "ADEChallengeData2016"
    report = score(
        "semantic",
        f"labels={ade}/annotations/validation",
        f"predictions={shared_data}/reference_metrics/ade_predictions",
        f"names={ade}/objectInfo150.txt",
    )
    assert report["mIoU"] == pytest.approx(0.26476274456732396, abs=1e-9)
    assert (report["protocol/offset"], report["protocol/ignore"]) == (1, 0)
    assert report["predictions_without_label"] == 6


def test_file_names_need_no_quotes_and_groups_are_scored(score: Score, tiny: Path) -> None:
    report = score("coco", f"gt={tiny}/gt.json", f"predictions={tiny}/detections.json", "groups={part:[4],object:[9]}")
    assert report["part/bbox/AP"] == pytest.approx(1)
    assert report["object/bbox/AP"] == -1
    assert "segm/AP" not in report
    arguments = (f"labels={tiny}/labels", f"predictions={tiny}/predictions", f"names={tiny}/names.txt")
    assert score("semantic", *arguments)["mIoU"] == 1
    assert score("semantic", *arguments, "ignore=2")["protocol/ignore"] == 2


def test_cgf1_of_one_annotator_and_of_two(score: Score, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = json.loads((tiny / "gt.json").read_text())
    truth["images"][0]["is_instance_exhaustive"] = True
    (tiny / "one.json").write_text(json.dumps(truth))
    (tiny / "none.json").write_text(json.dumps({**truth, "annotations": []}))
    monkeypatch.chdir(tiny)
    for gt, annotators, instances in (("one.json", 1, 1), ("[none.json,one.json]", 2, 1), ("[none.json]", 1, 0)):
        report = score("cgf1", f"gt={gt}", "predictions=detections.json", "iou_type=bbox")
        assert (report["protocol/annotators"], report["instances"], report["claims"]) == (annotators, instances, 1)
        assert report["positive_micro_F1"] == pytest.approx(instances, abs=1e-3)


def test_no_detections_score_zero(score: Score, tiny: Path) -> None:
    (tiny / "detections.json").write_text("[]")
    report = score("coco", f"gt={tiny}/gt.json", f"predictions={tiny}/detections.json", "iou_types=bbox")
    assert report["bbox/AP"] == 0


BAD_LINES = [
    ([], "score: subcommand is missing; there are cgf1, coco, semantic"),
    (["cocoo"], "did you mean coco?"),
    (["coco"], "needs gt=… predictions=…"),
    (["coco", "gtt=x"], "did you mean gt?"),
    (["coco", "+new=x"], "key '+new' is unknown"),
    (["coco", "~gt"], "is not key=value"),
    (["coco", "hydra.verbose=true"], "key 'hydra.verbose' is unknown"),
    (["coco", "gt"], "'gt' is not key=value"),
    (["coco", "groups={{a:[5]"], "{a:[5]"),
    (["coco", "gt={}/none.json", "predictions=x"], "none.json: no such file"),
    (["coco", "gt={}/labels", "predictions=x"], "labels: cannot be read (it is a folder, expected a file)"),
    (["coco", "gt={}/names.txt", "predictions=x"], "names.txt: not valid JSON"),
    (["coco", "gt={}/gt.json", "predictions={}/gt.json"], "expected a list of detections"),
    (
        ["coco", "gt={}/gt.json", "predictions={}/detections.json", "iou_types=[x]"],
        "the types are bbox, segm",
    ),
    (["coco", "gt={}/gt.json", "predictions={}/detections.json", "iou_types=segm"], "no segmentation"),
    (["coco", "gt={}/gt.json", "predictions={}/detections.json", "groups=4"], "groups is 4"),
    (["coco", "gt={}/gt.json", "predictions={}/detections.json", "groups={{a:[5]}}"], "group 'a': [5]"),
    (["coco", "gt=${{b}}", "predictions=x"], "'b' not found"),
    (["coco", "gt={}/gt.json", "predictions=x", "out={}/gt.json"], "gt.json is read as well and would be replaced"),
    (["cgf1", "gt=[a.json,b.json]", "predictions=x", "out=b.json"], "b.json is read as well and would be replaced"),
    (["cgf1", "gt={}/gt.json", "predictions={}/detections.json"], "is_instance_exhaustive is None"),
    (["cgf1", "gt={}/gt.json", "predictions=x", "iou_type=x"], "the types are bbox, segm"),
    (["semantic", "labels=1", "predictions=2", "names={}/names.txt"], "1: no such folder"),
    (["semantic", "labels={}/labels", "predictions={}/predictions", "names={}"], "cannot be read (it is a folder"),
    (
        ["semantic", "labels={}/labels", "predictions={}/predictions", "names={}/names.txt", "ignore=none"],
        "ignore is 'none'",
    ),
    (
        ["semantic", "labels={}/labels", "predictions={}/predictions", "names={}/names.txt", "ignore=1"],
        "ignore=1 is the value of class 'road'",
    ),
    (
        ["semantic", "labels={}/labels", "predictions={}/predictions", "names={}/names.txt", "offset=1"],
        "1.png: it has the label 0, expected 1 to 2, or 255 for no class; if 0 is what the classes leave: a first",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_LINES, ids=[message for _, message in BAD_LINES])
def test_an_error_is_one_clear_line(
    arguments: list[str],
    message: str,
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    error, out = error_of(main, [a.format(tiny) for a in arguments], capsys)
    assert out == ""
    assert message in error
