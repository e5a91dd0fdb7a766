"""`doctor` finds each planted fault, names it with a remedy, and says of a healthy set-up that it is one."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from short_of_memory import SmallCard

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.doctor import machine, trial
from sam3_hyperet.modeling.adapter_file import save_adapter
from sam3_hyperet.modeling.inject import inject

Usage = namedtuple("Usage", "total used free")


def test_a_healthy_set_up_is_one(examined, options):
    rows, code = examined(trial="true")
    assert code == 0
    assert {status for _, status in rows} == {"ok"}
    assert {check for check, _ in rows} >= {
        *("python", "packages", "torchvision", "imports", "sam3", "gpu", "precision", "cores", "shared memory", "disk"),
        *("sizes", "memory", "checkpoint", "data: train", "data: val", "data: files", "data: overlap", "prompts"),
        *("model", "forward pass", "gradients", "training step"),
    }
    assert "9 of 9 tensors (12,483 parameters)" in rows["gradients", "ok"]["found"]
    assert not Path(options["run_dir"]).exists()


def test_a_step_that_does_not_fit_is_taken_as_train_would_take_it(examined, monkeypatch):
    """In smaller passes where `train.memory` is auto, as it is by default on a GPU."""
    build = trial.build_model

    def small(**options):
        model = build(**options)
        SmallCard(model, 2)
        return model

    monkeypatch.setattr(trial, "build_model", small)
    rows, code = examined(trial="true", **{"train.memory": "auto"})
    assert code == 0
    said = "ran out of memory until train.prompts_at_once=2 train.checkpoint_activations=false"
    assert said in rows["training step", "ok"]["found"]
    rows, code = examined(trial="true", **{"train.memory": "off"})
    assert code == 1
    assert "expected train.memory=auto, train.prompts_at_once=1" in str(rows["training step", "failed"])
    two = {"train.memory": "auto", "stage.number": 2, "train.devices": 2, "train.accelerator": "cpu"}
    assert examined(trial="true", **two)[0]["training step", "failed"]  # of two processes none can repeat such a step


def _torchvision(monkeypatch, options, tmp_path):
    real = importlib.metadata.requires
    wanted = lambda name: ["numpy", "torch==2.1.0"] if name == "torchvision" else real(name)  # noqa: E731
    monkeypatch.setattr("importlib.metadata.requires", wanted)


def _old_package(monkeypatch, options, tmp_path):
    real = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.1.3" if name == "sam3" else real(name))


def _no_sam3(monkeypatch, options, tmp_path):
    monkeypatch.setitem(sys.modules, "sam3_hyperet.sam3_host", None)


def _full_disk(monkeypatch, options, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(2**40, 2**40 - 2**20, 2**20))


def _folder_is_a_file(monkeypatch, options, tmp_path):
    (tmp_path / "file").touch()
    options["run_dir"] = str(tmp_path / "file" / "run")


def _other_run(monkeypatch, options, tmp_path):
    from sam3_hyperet.files import Manifest

    folder = Path(options["run_dir"])
    config = parse_command("train", ["scheme=B", f"run_dir={folder}"])[1]
    Manifest(folder).claim("config.yaml", "adapter.safetensors")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    (folder / "adapter.safetensors").touch()


def _started(options) -> Path:
    """The state of a run with these options, after seven steps of one process; returns its file."""
    from sam3_hyperet.files import Manifest
    from sam3_hyperet.training.state import save_state

    folder = Path(options["run_dir"])
    config = parse_command("train", [f"{key}={value}" for key, value in options.items() if key != "trial"])[1]
    Manifest(folder).claim("config.yaml", "state.pt")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    save_state(folder / "state.pt", torch.nn.Linear(1, 1), {}, {"step": 7})
    return folder / "state.pt"


def _damaged_state(monkeypatch, options, tmp_path):
    state = _started(options)
    state.write_bytes(state.read_bytes()[:-1])


def _other_processes(monkeypatch, options, tmp_path):
    options["train.accelerator"] = "cpu"
    _started(options | {"train.devices": "2"})
    options["train.devices"] = "2"


def _html(monkeypatch, options, tmp_path):
    (tmp_path / "sam3.pt").write_text("<!DOCTYPE html><title>Log in</title>")
    options["model.checkpoint"] = str(tmp_path / "sam3.pt")


def _pointer(monkeypatch, options, tmp_path):
    (tmp_path / "sam3.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    options["model.checkpoint"] = str(tmp_path / "sam3.pt")


def _spoilt_weights(monkeypatch, options, tmp_path, change):
    from safetensors.torch import load_file, save_file

    tensors = change(load_file(options["model.checkpoint"]))
    options["model.checkpoint"] = str(tmp_path / "base.safetensors")
    save_file(tensors, options["model.checkpoint"])


def _other_size(monkeypatch, options, tmp_path):
    pad = lambda t: torch.cat([t, t[:1]]) if t.ndim else t  # noqa: E731
    _spoilt_weights(monkeypatch, options, tmp_path, lambda tensors: {name: pad(t) for name, t in tensors.items()})


def _other_names(monkeypatch, options, tmp_path):
    _spoilt_weights(monkeypatch, options, tmp_path, lambda tensors: {f"net.{name}": t for name, t in tensors.items()})


def _nan_weights(monkeypatch, options, tmp_path):
    nan = lambda tensors: {name: torch.full_like(t, torch.nan) for name, t in tensors.items()}  # noqa: E731
    _spoilt_weights(monkeypatch, options, tmp_path, nan)


def _gated(monkeypatch, options, tmp_path):
    monkeypatch.setattr("sam3_hyperet.doctor.weights.cached", lambda repository: None)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    options["model.checkpoint"] = "facebook/sam3"


def _no_val(monkeypatch, options, tmp_path):
    options["data.splits"] = "{train: train, val: valid}"


def _copied(options, tmp_path) -> Path:
    root = tmp_path / "shop"
    shutil.copytree(options["data.root"], root)
    options["data.root"] = str(root)
    return root


def _edited(options, tmp_path, split, change):
    file = _copied(options, tmp_path) / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def _image_missing(monkeypatch, options, tmp_path):
    (_copied(options, tmp_path) / "train" / "2.png").unlink()


def _image_broken(monkeypatch, options, tmp_path):
    file = _copied(options, tmp_path) / "val" / "11.png"
    file.write_bytes(file.read_bytes()[:2000])  # as a download that broke off


def _all_crowds(monkeypatch, options, tmp_path):
    _edited(options, tmp_path, "train", lambda c: [one.update(iscrowd=1) for one in c["annotations"]])


def _long_prompt(monkeypatch, options, tmp_path):
    _edited(options, tmp_path, "train", lambda c: c["categories"][0].update(name="the one behind " * 12))


def _no_sbatch(monkeypatch, options, tmp_path):
    which = shutil.which
    monkeypatch.setattr("shutil.which", lambda name, *rest: None if name == "sbatch" else which(name, *rest))
    options["launcher"] = "slurm"


def _other_base(monkeypatch, options, tmp_path):
    from sam3_hyperet.modeling.build import build_model

    save_adapter(inject(build_model("tiny", checkpoint="random", seed=1), {"scheme": "A"}), tmp_path / "a.safetensors")
    options["adapter_file"] = str(tmp_path / "a.safetensors")


def _small_shm(monkeypatch, options, tmp_path):
    real = shutil.disk_usage
    docker = lambda path: Usage(2**26, 0, 2**20) if str(path) == "/dev/shm" else real(path)  # noqa: E731
    monkeypatch.setattr("shutil.disk_usage", docker)
    options["train.workers"] = "1"


def _nan_loss(monkeypatch, options, tmp_path):
    from sam3_hyperet.losses.grounding import GroundingLoss

    real = GroundingLoss.forward
    spoilt = lambda *args: {name: term * torch.nan for name, term in real(*args).items()}  # noqa: E731
    monkeypatch.setattr(GroundingLoss, "forward", spoilt)
    options["trial"] = "true"


FAULTS = [
    (_torchvision, "torchvision", "torch==2.1.0", "pip install"),
    (_old_package, "packages", "sam3 0.1.3 (expected 0.1.4)", 'pip install "sam3>=0.1.4"'),
    (_no_sam3, "sam3", "sam3_hyperet.sam3_host", "pip install"),
    (_full_disk, "disk", "1 MiB free", "free some space"),
    (_folder_is_a_file, "disk", "Not a directory", "another run_dir"),
    (_other_run, "run folder", "in the run of", "use another run_dir, or resume=never, which removes that run"),
    (_damaged_state, "run folder", "state.pt: its checksum is wrong", "the file is damaged"),
    (_other_processes, "run folder", "state of 1 process, but this run has 2", "as many as before"),
    (_html, "checkpoint", "it is a web page", "download the file itself"),
    (_pointer, "checkpoint", "it is a Git LFS pointer", "git lfs pull"),
    (_other_size, "checkpoint", "has shape", "expected"),
    (_other_names, "checkpoint", "0 of ", "missing first"),
    (_nan_weights, "checkpoint", "not finite", ""),
    (_gated, "hub", "facebook/sam3 is gated, and nobody is logged in", "hf auth login"),
    (_no_val, "data: val", "instances_valid.json: no such file", ""),
    (_image_missing, "data: train", "1 of 3 images are not in", ""),
    (_image_broken, "data: files", "11.png: not a readable image", "prepare"),
    (_all_crowds, "data: train", "crowds", "data.crowds=instances"),
    (_long_prompt, "prompts", "has 36 tokens", "a shorter name"),
    (_no_sbatch, "slurm", "sbatch not on the PATH", "launcher=local"),
    (_other_base, "adapter", "made for the base", "load it onto the base weights"),
    (_small_shm, "shared memory", "1 MiB free at /dev/shm", "--shm-size=1g"),
    (_nan_loss, "training step", "loss nan; not finite", "train.precision=32-true"),
]


@pytest.mark.parametrize(("plant", "check", "found", "remedy"), FAULTS, ids=lambda one: getattr(one, "__name__", ""))
def test_a_planted_fault_is_found(plant, check, found, remedy, examined, options, monkeypatch, tmp_path):
    plant(monkeypatch, options, tmp_path)
    rows, code = examined()
    assert code == 1
    row = rows[check, "failed"]
    text = " ".join([row["found"], row["expected"], row["remedy"]])
    assert found in text
    assert remedy in text
    assert [one for one, status in rows if status == "failed"] == [check]  # and nothing else


@pytest.mark.parametrize(
    ("option", "value", "check", "found", "expected"),
    [
        ("model.resolution", 100, "sizes", "expected a multiple of 64", ""),
        ("hyperet.layers", "[7]", "sizes", "no layer of the fusion encoder 7", ""),
        ("optim.warmup", 400, "options", "optim.warmup=400", "steps up to train.max_steps=300"),
        ("data.zoom", 0.5, "data: train", "zoom is 0.5, expected 1 (no crop) to 16", ""),
        ("cache.folder", "cache", "feature cache", "every epoch shows new random views", ""),
        ("train.accelerator", "cuda", "gpu", "this machine has no GPU", "a GPU for train.accelerator=cuda"),
    ],
)
def test_options_that_cannot_be(option, value, check, found, expected, examined, monkeypatch):
    monkeypatch.setattr(machine, "find_gpus", machine.Gpus)
    rows, code = examined(**{option: value})
    assert code == 1
    assert found in rows[check, "failed"]["found"]
    assert expected in rows[check, "failed"]["expected"]


def test_a_cache_that_does_not_fit(examined, monkeypatch, tmp_path):
    (tmp_path / "disk").mkdir()
    more = {"cache.folder": tmp_path / "disk" / "cache", "data.views": 4}
    assert examined(**more)[0]["feature cache", "ok"]["found"].endswith("about 1 MiB needed")  # 12 views of 96 KiB
    assert examined(**more, **{"cache.dtype": "bfloat16"})[0]["feature cache", "ok"]
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: Usage(2**40, 0, 2**10 if path == tmp_path / "disk" else 2**40)
    )
    rows, code = examined(**more)
    assert code == 1
    assert "cache.dtype=bfloat16" in rows["feature cache", "failed"]["remedy"]


def test_a_run_that_has_begun(examined, options):
    _started(options)
    rows, code = examined()
    assert code == 0
    assert rows["run folder", "ok"]["found"].endswith("goes on from state.pt, after step 7")


def test_sharded_parameters_are_not_tried_alone(examined):
    rows, code = examined(**{"train.strategy": "fsdp", "stage": 3, "train.devices": 2, "train.accelerator": "cpu"})
    assert code == 0
    assert "fsdp" in rows["model", "skipped"]["found"]


@pytest.mark.parametrize(("tune", "val", "other"), [("val", "train", "train"), ("val", "val", "tune")])
def test_images_that_are_trained_on_or_chosen_by_and_scored(examined, tune, val, other):
    rows, code = examined(**{"data.splits": f"{{train: train, tune: {tune}, val: {val}}}", "train.validate_every": 1})
    assert code == 0
    assert f" images of val are in {other} as well: " in rows["data: overlap", "warning"]["found"]


def test_a_set_that_is_trained_on_as_well_is_checked(examined, shop):
    """And how long a run of so many epochs is."""
    more = {"more_data.other": "auto", "more_data.other.root": str(shop), "train.epochs": "2"}
    rows, code = examined(**more)
    assert code == 0
    assert ("more_data.other: train", "ok") in rows
    assert rows["length", "ok"]["found"].startswith("6 steps of 2 images (train.epochs=2)")
    rows, code = examined(**more | {"more_data.other.root": "/nowhere"})
    assert code == 1
    assert "/nowhere: no such folder" in rows["more_data.other: layout", "failed"]["found"]


def test_names_that_the_base_will_be_asked_for_are_checked(examined):
    """And counted in how long a run of so many epochs is."""
    known = {"train.epochs": "2", "rehearsal.weight": 0.5}
    rows, code = examined(**known, **{"rehearsal.names": "[person,car,apple]"})
    assert code == 0
    found = rows["rehearsal", "ok"]["found"]
    assert found == "2 names, of which the base labels 3 images; 1 name left out, which the prompts of shop ask for"
    assert rows["length", "ok"]["found"].startswith("5 steps of 2 images (train.epochs=2)")
    rows, code = examined(**known, **{"rehearsal.names": f"[{' '.join(['very'] * 35)} person]"})
    assert code == 1
    assert rows["rehearsal", "failed"]["remedy"] == "a shorter name in rehearsal.names"
    rows, code = examined(**known, **{"rehearsal.names": "[apple]"})
    assert code == 1
    assert "training asks for all of them by the labels of shop" in rows["rehearsal", "failed"]["found"]


def test_names_by_which_what_is_kept_is_measured_are_checked(examined):
    known = {"model.checkpoint": "null", "evaluate": "true"}
    rows, code = examined(**known, **{"kept.names": "[person,car,apple]"})
    assert code == 0
    assert rows["kept", "ok"]["found"] == "2 names on 2 val images; 1 name with labels in shop left out"
    rows, code = examined(**known, **{"kept.names": f"[{' '.join(['very'] * 35)} person]"})
    assert code == 1
    assert rows["kept", "failed"]["remedy"] == "a shorter name in kept.names"
    rows, code = examined(**known, **{"kept.names": "[apple]"})
    assert code == 1
    assert "all of the names have labels in shop" in rows["kept", "failed"]["found"]
