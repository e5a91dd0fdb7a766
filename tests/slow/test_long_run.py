"""Of many batches some bring numbers that are none: a long run ends finite and has counted them exactly."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.cli.train import main
from sam3_hyperet.losses.grounding import MATCHED, TOTAL
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.modeling.sites.site import SiteAdjustment
from sam3_hyperet.modeling.tensor_files import read_safetensors
from sam3_hyperet.training import batches
from sam3_hyperet.training.loop import fit
from sam3_hyperet.training.options import FitOptions, OptimizerOptions, TrainOptions
from sam3_hyperet.training.run_folder import RunFolder
from sam3_hyperet.training.run_log import read_history
from sam3_hyperet.training.signals import Interrupted
from sam3_hyperet.training.state import read_state
from sam3_hyperet.training.validation import Validation

pytestmark = pytest.mark.slow
NAN, INF = float("nan"), float("inf")


def bad_steps(steps, share, kinds, seed=0):
    """Which steps, from 1, are to go wrong, and how."""
    rng = random.Random(seed)
    return {step: rng.choice(kinds) for step in range(1, steps + 1) if rng.random() < share}


@dataclass
class Batch:
    """Points and where they are to go, with the targets' counts as SAM 3's batches have them."""

    pixels: torch.Tensor
    boxes: torch.Tensor
    bad_gradient: bool = False

    @property
    def find_targets(self):
        return [SimpleNamespace(num_boxes=torch.ones(len(self.boxes), dtype=torch.int64), semantic_segments=None)]


class Micro(nn.Module):
    """What `fit` asks of a model, with one frozen layer and one adapter."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Linear(6, 4)
        self.adapter = SiteAdjustment("micro", HyperET(4, curvature=0.1, learn_curvature=True))
        self.transformer = nn.ModuleDict({"encoder": nn.Identity(), "decoder": nn.Identity()})

    def forward(self, batch):
        return self.adapter(self.base(batch.pixels))


def loss(model, batch, predicted, step=None):
    if batch.bad_gradient:
        predicted.register_hook(lambda gradient: gradient * INF)
    total = (predicted - batch.boxes).square().mean()
    return {TOTAL: total, MATCHED: total.detach()}


loss.weights = SimpleNamespace(alignment=0.0)


class Saved(RunFolder):
    """A folder whose run notes what would be saved."""

    def __init__(self, path, resume, run):
        super().__init__(path, resume)
        object.__setattr__(self, "run", run)

    def save(self, model, which):
        self.run.saved[which] = [p.detach().clone() for _, p in adapter_parameters(model)]


class MicroRun:
    """A run of `fit` on 4,000 points that a rotation moves, some of them broken."""

    def __init__(self, folder, bad):
        self.folder, self.bad, self.model, self.saved = folder, bad, Micro(), {}
        self.step = 0
        generator = torch.Generator().manual_seed(1)
        self.pixels = torch.randn(500, 8, 6, generator=generator)
        with torch.no_grad():
            rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator)).Q
            self.boxes = self.model.base(self.pixels) @ rotation

    def batch(self, step):
        good = Batch(self.pixels[step % 500], self.boxes[step % 500])
        kind = self.bad.get(step)
        if kind is None:
            return good
        if kind == "gradient":
            return replace(good, bad_gradient=True)
        broken = getattr(good, kind).clone()
        broken.flatten()[step % broken.numel()] = NAN
        return replace(good, **{kind: broken})

    def batches(self, done):
        for self.step in itertools.count(done + 1):
            yield self.batch(self.step)

    def fit(self, steps, resume=None, stop_after=None):
        return fit(
            Fabric(accelerator="cpu", devices=1),
            self.model,
            loss,
            self.batches,
            Validation(lambda: iter([Batch(self.pixels[0], self.boxes[0])])),
            FitOptions(
                train=TrainOptions(max_steps=steps, batch_size=1, log_every=50, validate_every=500, save_every=1000),
                optim=OptimizerOptions(lr=0.01, warmup=10),
            ),
            Saved(self.folder, resume, self),
            interrupted=lambda: self.step == stop_after,
        )


def test_two_thousand_steps(tmp_path):
    steps, stop = 2_000, 861
    bad = bad_steps(steps, 0.05, ("pixels", "boxes", "gradient"))
    assert 70 < len(bad) < 130
    first = MicroRun(tmp_path, bad)
    with pytest.raises(Interrupted):
        first.fit(steps, stop_after=stop)
    state = read_state(tmp_path / "state.pt")
    assert state["progress"]["skipped_steps"] == sum(step <= stop for step in bad)
    run = MicroRun(tmp_path, bad)
    result = run.fit(steps, resume=tmp_path / "state.pt")
    assert (result.step, result.skipped_steps) == (steps, len(bad))
    logged = [line for line in read_history(tmp_path / "metrics.jsonl") if "train/skipped_steps" in line]
    assert [line["step"] for line in logged] == [1, *range(50, steps + 1, 50)]
    for line in logged:
        assert line["train/skipped_steps"] == sum(step <= line["step"] for step in bad)
    saved = first.saved | run.saved
    assert all(p.isfinite().all() for p in [*run.model.parameters(), *saved["best"], *saved["last"]])
    moments = read_state(tmp_path / "state.pt")["optimizer"]["state"].values()
    assert all(torch.as_tensor(value).isfinite().all() for state in moments for value in state.values())
    assert result.best["loss"] < 0.01 * logged[0]["train/loss"]


def test_the_tiny_model(tmp_path, monkeypatch):
    """More of the batches: pixels or boxes of targets that are no numbers, and pixels without bound."""
    steps = 24
    bad = bad_steps(steps, 0.4, ("pixels", "boxes", "bound"))

    def broken(batch, kind):
        if kind != "boxes":
            return replace(batch, img_batch=torch.full_like(batch.img_batch, NAN if kind == "pixels" else INF))
        return replace(
            batch,
            find_targets=[replace(target, boxes=torch.full_like(target.boxes, NAN)) for target in batch.find_targets],
        )

    def training_batches(*arguments, step, **options):
        stream = batches.training_batches(*arguments, step=step, **options)
        for number, batch in enumerate(stream, start=step + 1):
            yield broken(batch, bad[number]) if number in bad else batch

    monkeypatch.setattr("sam3_hyperet.cli.train.training_batches", training_batches)
    folder = main(
        [
            "experiment=smoke",
            f"paths.scenes={tmp_path / 'scenes'}",
            f"run_dir={tmp_path / 'run'}",
            f"train.max_steps={steps}",
            "train.batch_size=1",
            "train.validate_every=12",
            "train.save_every=0",
            "logger=none",
            "evaluate=false",
        ]
    )
    logged = [line for line in read_history(folder / "metrics.jsonl") if "train/skipped_steps" in line]
    for line in logged:
        assert line["train/skipped_steps"] == sum(step <= line["step"] for step in bad)
    assert set(bad.values()) == {"pixels", "boxes", "bound"}
    assert logged[-1]["step"] == steps
    for name in ("adapter.safetensors", "adapter_last.safetensors"):
        assert all(tensor.isfinite().all() for tensor in read_safetensors(folder / name)[0].values())
