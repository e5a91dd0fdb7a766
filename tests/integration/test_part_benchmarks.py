"""The part benchmarks by their configurations: prepared, trained and scored with one command each."""

from __future__ import annotations

import math

import pytest
from part_trees import paco, partimagenet

from sam3_hyperet.cli.prepare import main as prepare
from sam3_hyperet.cli.train import main as train
from sam3_hyperet.errors import DataError

TREES = {"paco": paco, "partimagenet": partimagenet}
QUICK = ["protocol.examples=0", "protocol.bootstrap=0", "protocol.limit=1", "protocol.workers=0", "logger=none"]
SHORT = ["train.max_steps=1", "train.batch_size=1", "train.validate_every=0", "optim.warmup=0", "train.workers=0"]


@pytest.mark.parametrize("data", TREES)
def test_a_part_benchmark_is_trained_and_scored_by_one_command(data, tmp_path, tiny_model, read_metrics):
    root = TREES[data](tmp_path / data)
    run = train([f"data={data}", f"paths.{data}={root}", *SHORT, *QUICK, *tiny_model, f"run_dir={tmp_path / 'run'}"])
    metrics = read_metrics(run)
    assert 0 <= metrics[f"{data}/segm/AP_opart"] <= 1
    assert f"{data}/part/bbox/AP" in metrics
    assert math.isfinite(metrics[f"{data}/hierarchy/sibling_confusion"])


def test_prepare_says_what_is_missing_of_a_part_benchmark_and_where_to_get_it(tmp_path, capsys):
    root = paco(tmp_path / "paco")
    prepare(["data=paco", f"root={root}", "counts=null"])
    said = " ".join(capsys.readouterr().out.split())
    assert "8 of 18 categories are parts of 4 objects, asked for as 'wheel of a bicycle'" in said
    (root / "annotations" / "paco_lvis_v1_val.json").unlink()
    with pytest.raises(DataError, match=r"paco_lvis_v1\.zip, with COCO's 2017 Train and Val images"):
        prepare(["data=paco", f"root={root}"])
    said = " ".join(capsys.readouterr().out.split())
    assert "paco_lvis_v1_val.json: no such file" in said
    assert "│ 45,790 │ FAILED │" in said
