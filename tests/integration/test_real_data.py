"""Two steps and an evaluation on real pictures, as the README's commands do it; a warning fails the test."""

from __future__ import annotations

import json

import pytest

from sam3_hyperet.cli.evaluate import main as evaluate
from sam3_hyperet.cli.train import main as train

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("name", "folder", "expected", "counted", "categories"),
    [
        ("coco", "coco", ("segm/AP", "bbox/AP", "presence/accuracy_absent"), "images", 80),
        ("ade20k", "ADEChallengeData2016", ("instance/mIoU", "semantic/mIoU", "fused/mIoU/150"), "fused/images", 150),
        ("camvid", "camvid", ("instance/mIoU", "semantic/mIoU", "fused/mIoU/11"), "fused/images", 11),
    ],
)
def test_real_pictures(
    shared_data, tiny_model, tmp_path, capsys, read_metrics, name, folder, expected, counted, categories
):
    options = ["train.max_steps=2", "train.batch_size=2", "optim.warmup=1", "evaluate=false", "logger=none"]
    paths = f"paths.{name}={shared_data / folder}"
    run = train([f"data={name}", paths, *options, *tiny_model, f"run_dir={tmp_path / 'run'}"])
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    scored = evaluate([f"run={run}", "protocol.limit=1", "protocol.max_dets=4", f"run_dir={tmp_path / 'scored'}"])
    metrics = read_metrics(scored)
    for key in expected:
        assert 0 <= metrics[f"{name}/{key}"] <= 1
        assert 0 <= metrics[f"base/{name}/{key}"] <= 1
    assert metrics[f"{name}/{counted}"] == 1
    said = capsys.readouterr()
    assert said.err == ""
    assert f"{categories} categories" in said.out
    assert (scored / "report.html").stat().st_size > 50_000
