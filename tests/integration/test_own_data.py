"""A folder of one's own: what `init` writes trains, and `doctor` finds nothing against it."""

from __future__ import annotations

import shutil

import pytest

from sam3_hyperet.cli.doctor import main as doctor
from sam3_hyperet.cli.init import main as init
from sam3_hyperet.cli.train import main as train
from sam3_hyperet.scenes.dataset import write_scenes

pytestmark = pytest.mark.integration


def test_init_doctor_train(tmp_path, tiny_model, read_metrics):
    root = tmp_path / "shop"
    for number, (split, count) in enumerate({"train": 6, "val": 2}.items()):
        written = write_scenes(tmp_path / "scenes", count, number, 128, split)
        shutil.copytree(written.image_folder, root / split)
        (root / "annotations").mkdir(exist_ok=True)
        shutil.copy(written.annotations, root / "annotations")
    data, experiment = init([str(root), f"out={tmp_path}", "model=tiny"])
    options = [f"data={data}", f"experiment={experiment}", "model=tiny", *tiny_model]
    rows = doctor([*options, f"run_dir={tmp_path / 'run'}"])
    assert not [row for row in rows if row.status in ("failed", "skipped")]
    few = ["train.max_steps=2", "train.validate_every=1", "train.batch_size=2", "optim.warmup=1", "logger=none"]
    run = train([*options, *few, "protocol.bootstrap=0", f"run_dir={tmp_path / 'run'}"])
    assert "shop/segm/AP" in str(read_metrics(run))
    assert not [row for row in doctor([f"run={run}", "trial=false"]) if row.status == "failed"]
    quick = ["data.tune_images=1", "train.accumulate=1", "evaluate=false"]
    own = ["experiment=own_data", f"data.root={root}", *quick, *tiny_model, *few]
    assert (train([*own, f"run_dir={tmp_path / 'own'}"]) / "adapter.safetensors").is_file()
