"""Runs of `fit` on a stream of batches in memory, with what they would save noted."""

from __future__ import annotations

import itertools
import json

import torch
from lightning_fabric import Fabric

import sam3_hyperet as hy
from sam3_hyperet.losses.grounding import GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.training.loop import fit
from sam3_hyperet.training.options import FitOptions, LoggerOptions, OptimizerOptions, TrainOptions
from sam3_hyperet.training.run_folder import RunFolder
from sam3_hyperet.training.validation import Validation

CONFIG = hy.HyperETConfig(geometry="gyro", learn_curvature=True)


class Second(Fabric):
    """Fabric as a process sees it that is not the first."""

    is_global_zero = False


class Saved(RunFolder):
    """A folder whose run notes what would be saved."""

    def __init__(self, path, resume, run):
        super().__init__(path, resume)
        object.__setattr__(self, "run", run)

    def save(self, model, which):
        self.run.saved.append((which, self.run.adapters()))


class Run:
    """One run: a model in stage 1, its stream of batches, and what `fit` made of them."""

    def __init__(self, model, stream, folder):
        self.model = hy.inject(model, CONFIG)
        hy.set_stage(self.model, 1)
        self.stream, self.folder, self.saved = stream, folder, []
        self.seen: list[int] = []
        self.is_first, self.score, self.stop = True, None, bool
        folder.mkdir(exist_ok=True)

    def batches(self, step):
        for number in itertools.count(step):
            self.seen.append(number)
            yield self.stream[number % len(self.stream)]

    def adapters(self):
        return {name: p.detach().clone() for name, p in adapter_parameters(self.model)}

    def fit(
        self,
        *,
        lr=3e-3,
        precision="32-true",
        resume=None,
        tune=(),
        warmup=0,
        tensorboard=False,
        interrupted=bool,
        **options,
    ):
        loss = GroundingLoss(self.model, LossOptions())
        fabric = (Fabric if self.is_first else Second)(accelerator="cpu", devices=1, precision=precision)
        self.result = fit(
            fabric,
            self.model,
            loss,
            self.batches,
            Validation(lambda: iter(tune), self.score, self.stop),
            FitOptions(
                train=TrainOptions(**{"batch_size": 1, "precision": precision, "log_every": 1, **options}),
                optim=OptimizerOptions(lr=lr, warmup=warmup),
                logger=LoggerOptions(tensorboard=tensorboard),
            ),
            Saved(self.folder, resume, self),
            interrupted,
        )
        return self.result

    def lines(self):
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
