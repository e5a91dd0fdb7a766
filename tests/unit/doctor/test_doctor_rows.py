"""Rows of single checks, from facts of machines that are not here."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from PIL import Image

from sam3_hyperet.data.annotations import AnnotatedImages, Category, ImageInfo
from sam3_hyperet.data.disjoint import shared_pictures
from sam3_hyperet.doctor import cluster, installation, machine, weights
from sam3_hyperet.doctor.findings import Examination, of_error, ok
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.modeling.config import ModelOptions
from sam3_hyperet.training.options import TrainOptions

CARD = machine.Gpus("12.8", ("H100",), (70 * 2**30,), (80 * 2**30,), (True,), True, ("/dev/nvidia0",), "570.1")
SINFO = "debug*|30:00|up\nlong|7-00:00:00|up\nold|infinite|down\n"


def only(rows):
    [row] = rows
    return row


def train(**options: object) -> TrainOptions:
    return TrainOptions(max_steps=1, batch_size=2, **options)


def test_a_check_is_skipped_if_what_it_needs_did_not_pass():
    examination = Examination()

    def broken():
        yield ok("b", "so far")
        raise DataError("x.json: no such file; expected x.json; look for it")

    rows = [*examination.check("a", lambda: [ok("a", "fine")]), *examination.check("b", broken, "a")]
    rows += examination.check("c", lambda: pytest.fail("was run"), "a", "b")
    assert [(row.check, row.status) for row in rows] == [("a", "ok"), ("b", "ok"), ("b", "failed"), ("c", "skipped")]
    assert (rows[2].found, rows[2].expected, rows[2].remedy) == ("x.json: no such file", "x.json", "look for it")
    assert rows[3].found == "needs b"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_an_error_of_memory_has_a_remedy(error):
    row = of_error("training step", error)
    assert (row.status, row.expected) == ("failed", "enough memory")
    assert "train.prompts_at_once=1" in row.remedy
    assert of_error("x", RuntimeError("odd")).found == "RuntimeError: odd"


def test_every_requirement_is_looked_for(pytestconfig):
    from configparser import ConfigParser

    setup = ConfigParser()
    setup.read(pytestconfig.rootpath / "setup.cfg")
    lines = (line for line in setup["options"]["install_requires"].split("\n") if line and ";" not in line)
    assert dict(line.split(">=") for line in lines) == installation.REQUIRED
    assert setup["options"]["python_requires"] == f">={'.'.join(map(str, installation.PYTHON))}"


def test_a_torch_that_cannot_be_imported(monkeypatch):
    real = importlib.import_module

    def broken(name):
        if name == "torch":
            raise OSError("libcudart.so.12: missing")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", broken)
    row = only(installation.import_rows())
    assert (row.status, row.found) == (
        "failed",
        "import torch: OSError: libcudart.so.12: missing",
    )
    assert row.remedy.startswith("pip install")


def test_a_broken_installation_is_no_traceback(tmp_path):
    for name in ("torch", "numpy", "cv2"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is broken')")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from sam3_hyperet.cli.console import main; "
    arguments = ["doctor", "data=auto", f"data.root={tmp_path}", f"run_dir={tmp_path / 'run'}", "--json"]
    command = [sys.executable, "-c", f"{program} main({arguments!r})"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    rows = {row["check"]: row for row in json.loads(done.stdout)["checks"]}
    assert rows["imports"]["found"] == "import numpy: ImportError: numpy is broken"
    assert rows["imports"]["remedy"] == 'pip install --force-reinstall "numpy>=1.26"'
    assert {rows[name]["status"] for name in ("sam3", "gpu", "checkpoint", "data", "model")} == {"skipped"}
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("versions", "requires", "status"),
    [
        (("2.9.1+cu128", "0.24.1+cu128"), ["torch (==2.9.1)"], "ok"),
        (("2.9.1+cu128", "0.24.1+cpu"), ["torch (==2.9.1)"], "failed"),
        (("2.9.1", "0.23.0"), ["torch==2.8.0"], "failed"),
        (("2.15.0", "0.30.0"), ["torch (>=2.14.0)"], "ok"),
        (("2.13.0", "0.30.0"), ["torch (>=2.14.0)"], "failed"),
    ],
)
def test_torchvision_and_torch(monkeypatch, versions, requires, status):
    monkeypatch.setattr("importlib.metadata.version", dict(zip(("torch", "torchvision"), versions, strict=True)).get)
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["numpy", *requires])
    assert only(installation.torchvision_rows()).status == status


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.10  Thu Jan 9 2025",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build  (root)",
    ],
)
def test_the_drivers_own_version(text):
    assert machine.driver_version(text) == "570.86.10"


@pytest.mark.parametrize(
    ("gpus", "options", "status", "text"),
    [
        (CARD, {}, "ok", "H100, 70.0 GiB of 80.0 GiB free; CUDA 12.8, driver 570.1"),
        (machine.Gpus(), {}, "ok", "none; the run trains on the CPU"),
        (CARD, {"accelerator": "cpu"}, "ok", "not used"),
        (machine.Gpus(nodes=("/dev/nvidia0",)), {}, "warning", "PyTorch was built without CUDA, and /dev/nvidia0 is"),
        (machine.Gpus(nodes=("/dev/nvidia0",)), {"accelerator": "cuda"}, "failed", "built without CUDA"),
        (machine.Gpus("12.8", nodes=("/dev/nvidia0",), hidden=""), {"accelerator": "gpu"}, "failed", "unset CUDA_VIS"),
        (machine.Gpus("13.0", nodes=("/dev/nvidia0",), driver="470.2"), {"accelerator": "cuda"}, "failed", "470.2"),
        (machine.Gpus(), {"accelerator": "cuda"}, "failed", "this machine has no GPU"),
        (CARD, {"devices": 2}, "failed", "train.devices=1"),
        (machine.Gpus("12.8", ("K80",), (1,), (1,), (False,)), {}, "failed", "no code for K80"),
        (machine.Gpus("12.8", ("H100",), (2**30,), (80 * 2**30,), (True,), True), {}, "warning", "nvidia-smi"),
    ],
)
def test_gpus(gpus, options, status, text):
    row = only(machine.gpu_rows(train(**options), gpus))
    assert row.status == status
    assert text in f"{row.found} {row.remedy}"


def test_what_pytorch_has_code_for():
    assert machine._has_code(["sm_80", "sm_90"], (8, 6))
    assert not machine._has_code(["sm_80", "sm_90"], (12, 0))
    assert machine._has_code(["sm_80", "compute_90"], (12, 0))
    assert not machine._has_code(["sm_80"], (3, 7))
    assert not machine._has_code(["sm_90"], (8, 6))


@pytest.mark.parametrize(
    ("precision", "gpus", "status"),
    [
        ("bf16-mixed", CARD, "ok"),
        ("bf16-mixed", machine.Gpus("12.8", ("V100",), (1,), (1,), (True,), False), "failed"),
        ("bf16-mixed", machine.Gpus(), "warning"),
        ("32-true", machine.Gpus(), "ok"),
        ("auto", CARD, "ok"),
        ("auto", machine.Gpus(), "ok"),
        ("tf32", CARD, "ok"),
        ("tf32", machine.Gpus("12.8", ("V100",), (1,), (1,), (True,), False), "warning"),
    ],
)
def test_precision(precision, gpus, status):
    assert only(machine.precision_rows(train(precision=precision), gpus)).status == status


def test_memory_disk_and_cores(tmp_path, monkeypatch):
    assert only(machine.memory_rows(2**34, 2**33, "here", "weights")).status == "failed"
    assert only(machine.core_rows(train(), 4, 2, "here")).status == "warning"
    assert only(machine.core_rows(train(), 1, 2, "here")).status == "ok"
    few = os.statvfs_result((*[4096] * 5, 10_000, 100, 100, 0, 255))
    monkeypatch.setattr("os.statvfs", lambda path: few)
    row = only(machine.disk_rows("disk", tmp_path / "a" / "b", 1, "elsewhere"))
    assert (row.status, row.expected) == ("failed", "1,000 (inodes)")

    def full(**options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    row = only(machine.disk_rows("disk", tmp_path / "a", 1, "elsewhere"))
    assert (row.status, row.found) == ("failed", f"{tmp_path}: Read-only file system")


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        ({"timeout_min": 20}, "ok", "debug, up, limit 30:00"),
        ({}, "failed", "debug lets a job run for 30 min"),
        ({"partition": "long"}, "ok", "long, up"),
        ({"partition": "gpu"}, "failed", "launcher.partition=gpu"),
        ({"partition": "old"}, "warning", "old is down"),
        ({"partition": "long", "timeout_min": 20_000}, "failed", "long lets a job run for 10080 min"),
    ],
)
def test_partitions(options, status, text):
    row = only(cluster.partition_rows(SlurmOptions(**options), lambda: SINFO))
    assert row.status == status
    assert text in row.found


def test_a_slurm_that_does_not_answer():
    def silent():
        raise subprocess.CalledProcessError(1, "sinfo", stderr="slurm_load_partitions: Unable to contact slurm\n")

    row = only(cluster.partition_rows(SlurmOptions(), silent))
    assert (row.status, row.found) == ("warning", "sinfo: slurm_load_partitions: Unable to contact slurm")


def test_a_folder_of_one_machine(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda / ext4 rw 0 0\ntmpfs /scratch tmpfs rw 0 0\nnas:/ /data nfs4 rw 0 0\n")
    assert only(cluster.shared_folder_rows(Path("/scratch/run"), mounts)).status == "warning"
    assert only(cluster.shared_folder_rows(Path("/tmp/run"), mounts)).status == "warning"
    row = only(cluster.shared_folder_rows(Path("/data/runs/a"), mounts))
    assert (row.status, row.found) == ("ok", "/data/runs/a (nfs4); every node must see it")


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (None, "ok", "this login has access"),
        (RemoteEntryNotFoundError, "ok", "this login has access"),
        (GatedRepoError, "failed", "this login has no access"),
        (LocalEntryNotFoundError, "failed", "no answer within 10 s"),
        (RepositoryNotFoundError, "failed", "no such repository, or a private one that needs a login"),
        (httpx.ProxyError, "failed", "does not answer (ProxyError)"),
    ],
)
def test_the_hub(monkeypatch, answer, status, text):
    monkeypatch.setattr(weights, "cached", lambda repository: None)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "x")

    def ask(repository):
        if answer is not None:
            raise answer.__new__(answer)

    row = only(weights.hub_rows("facebook/sam3", ask))
    assert (row.status, text in row.found) == (status, True)


class Pictures(AnnotatedImages):
    """Images of these files."""

    def __init__(self, paths):
        super().__init__("pictures", [Category(1, "cat")])
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def image(self, i):
        return ImageInfo(i, self.paths[i], 4, 4)


def test_images_of_two_splits_that_are_the_same(tmp_path):
    paths = {}
    for number, name in enumerate(["a", "b", "c", "x_jpg.rf." + "0" * 32, "x_jpg.rf." + "1" * 32, "copy"]):
        paths[name] = tmp_path / f"{name}.png"
        Image.fromarray(np.full((4, 4), 0 if name == "copy" else number, np.uint8)).save(paths[name])
    a, b, c, upload, version, copy = paths.values()
    found = partial(shared_pictures, Pictures([a, b, upload]), contents=True)
    assert found(Pictures([c])) == []
    assert found(Pictures([b, c, version, copy])) == ["b.png", "copy.png (there a.png)", "x"]


def test_random_weights_are_a_warning_where_they_are_said():
    (row,) = weights.checkpoint_rows(ModelOptions("large", "random"), torch.nn.Module())
    assert (row.status, row.found) == ("warning", "random weights, which know nothing")
    with pytest.raises(ConfigError, match="the package has no weights for it"):
        list(weights.checkpoint_rows(ModelOptions("large"), torch.nn.Module()))
