"""The part benchmarks by their configurations: prepared, trained and scored with one command each."""

from __future__ import annotations

import math

import pytest
from part_trees import ade20k_part, paco, partimagenet, pascal_part

from sam3_hyperet.cli.prepare import main as prepare
from sam3_hyperet.cli.train import main as train
from sam3_hyperet.errors import DataError

TREES = {"ade20k_part": ade20k_part, "pascal_part": pascal_part, "paco": paco, "partimagenet": partimagenet}
OBJECTS = {"ade20k_part": 44, "pascal_part": 16, "paco": 4, "partimagenet": 2}
SOURCES = {
    "ade20k_part": r"github.com/OpenRobotLab/OV_PARTS: ADE20KPart234\.tar\.gz",
    "pascal_part": r"github.com/OpenRobotLab/OV_PARTS: PascalPart116\.tar\.gz",
    "paco": r"github.com/facebookresearch/paco: paco_lvis_v1\.zip, with COCO's 2017 Train and Val images",
    "partimagenet": r"github.com/TACJu/PartImageNet: PartImageNet_Seg\.zip",
}
QUICK = ["protocol.examples=0", "protocol.bootstrap=0", "protocol.limit=1", "protocol.workers=0", "logger=none"]
SHORT = ["train.max_steps=1", "train.batch_size=1", "train.validate_every=0", "optim.warmup=0", "train.workers=0"]


FEW = {  # names that the pictures show, for there are many others
    "pascal_part": "[cat,head of a cat,tail of a cat,bird,head of a bird,wing of a bird]",
    "paco": "[car,wheel of a car,roof of a car,bicycle,wheel of a bicycle]",
}


@pytest.mark.parametrize(
    ("data", "unseen", "metric"),
    [("pascal_part", "[bird]", "oracle_object/unseen/fused/mIoU"), ("paco", "[]", "segm/AP_opart")],
)
def test_a_part_benchmark_is_trained_and_scored_by_one_command(
    data, unseen, metric, tmp_path, tiny_model, read_metrics
):
    chosen = [f"data={data}", f"paths.{data}={TREES[data](tmp_path / data)}", f"data.vocabulary={FEW[data]}"]
    chosen += [f"data.unseen={unseen}"]
    metrics = read_metrics(train([*chosen, *SHORT, *QUICK, *tiny_model, f"run_dir={tmp_path / 'run'}"]))
    assert 0 <= metrics[f"{data}/{metric}"] <= 1
    assert math.isfinite(metrics[f"{data}/hierarchy/sibling_confusion"])


@pytest.mark.parametrize("data", TREES)
def test_prepare_says_what_is_missing_of_a_part_benchmark_and_where_to_get_it(data, tmp_path, capsys):
    root = TREES[data](tmp_path / data)
    prepare([f"data={data}", f"root={root}", "counts=null"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"categories are parts of {OBJECTS[data]} objects, asked for as" in said
    assert f"train data={data}" in said
    missing = min(path for path in root.glob("*annotations*/**/*") if path.suffix in (".json", ".png"))
    missing.unlink()
    with pytest.raises(DataError, match=SOURCES[data]):
        prepare([f"data={data}", f"root={root}", "counts=null"])
    assert missing.stem in " ".join(capsys.readouterr().out.split())
