"""The run's own model, tried: built, an adapter file loaded, one forward pass, two training steps and their memory."""

import resource
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from sam3_hyperet import sam3_host as host
from sam3_hyperet.data.annotations import AnnotatedImages, some
from sam3_hyperet.data.loading import ConceptPrompts
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import augmentation, prompt_sampler
from sam3_hyperet.doctor.findings import Finding, failed, ok, warning
from sam3_hyperet.doctor.machine import size_text
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.losses.grounding import MATCHED, TOTAL, GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.adapter_file import load_adapter, read_adapter_config
from sam3_hyperet.modeling.build import build_model, resolution
from sam3_hyperet.modeling.config import HyperETConfig, ModelOptions
from sam3_hyperet.modeling.fingerprint import base_fingerprint
from sam3_hyperet.modeling.inject import inject
from sam3_hyperet.modeling.opening import set_threads
from sam3_hyperet.precision import device_of, fabric_precision, float32_products, resolved_precision
from sam3_hyperet.training.batches import training_batches
from sam3_hyperet.training.options import FitOptions
from sam3_hyperet.training.shared_work import shared_work
from sam3_hyperet.training.stages import Stages
from sam3_hyperet.training.step import Passes, optimize

_PROMPTS = 3  # of the forward pass
_STEPS = 2


@dataclass
class Trial:
    """A model on the device of a run, tried step by step; each method is a check."""

    fabric: Fabric
    model: host.Sam3Image

    def adapter_rows(self, path: Path | None, hyperet: HyperETConfig) -> Iterator[Finding]:
        """Whether an adapter file belongs to this base; without one, the run's own adapters are added."""
        if path is not None:
            found = read_adapter_config(path)
            load_adapter(self.model, path)
            kind = f"{found.structure} {found.geometry}" if found.adapter == "hyperet" else found.adapter
            yield ok("adapter", f"{path} belongs to this base: {', '.join(found.resolved_sites)}, {kind}")
        elif not hyperet.is_empty:
            inject(self.model, hyperet)

    def forward_rows(self, images: AnnotatedImages, precision: str) -> Iterator[Finding]:
        """Whether a prediction of the first training image is finite."""
        names = [category.name for category in images.categories[:_PROMPTS]]
        self.model.eval()
        began, odd = time.perf_counter(), set[str]()
        predictor = Predictor(self.model, names, resolution(self.model), precision=precision)
        with float32_products(precision):
            for prediction in predictor.predict(images.load_image(0)):
                parts = {"scores": prediction.scores, "boxes": prediction.boxes, "masks": prediction.mask_logits}
                odd |= {name for name, tensor in parts.items() if not tensor.isfinite().all()}
        found = f"{', '.join(names)} on {images.image(0).path.name}: {time.perf_counter() - began:.1f} s"
        if odd:
            expected, remedy = "finite scores, boxes and masks", "other weights, or train.precision=32-true"
            yield failed("forward pass", f"{found}; {', '.join(sorted(odd))} are not finite", expected, remedy)
        else:
            yield ok("forward pass", f"{found}, finite scores, boxes and masks")

    def step_rows(
        self, images: AnnotatedImages, data: DataOptions, loss: LossOptions, fit: FitOptions, seed: int
    ) -> Iterator[Finding]:
        """Two steps as the run's first ones, at the stage that trains most: finite loss, gradients, time, memory."""
        train, model = fit.train, self.model
        at_most = replace(fit.stage, number=fit.stage.last, boundaries=(), plateau=0)
        stages = Stages(self.fabric, model, GroundingLoss(model, loss), at_most, fit.optim, train.max_steps or _STEPS)
        report = stages.begin()
        alone = train.devices * train.nodes == 1 or at_most.number == 1  # else `train` cannot repeat a step
        repeats = train.memory_is_auto(self.fabric.device.type) and alone
        checkpointing, contrasts = bool(train.checkpoint_activations), loss.alignment > 0
        passes = Passes(train.prompts_at_once or 0, checkpointing, repeats=repeats, contrasts=contrasts)
        boxes = (data.exemplars, data.exemplars_alone)
        sampler, views = prompt_sampler(data, images), augmentation(data, images)
        prompts = ConceptPrompts(images, resolution(model), sampler, views, seed, *boxes)
        batches = training_batches(prompts, train.batch_size, seed=seed, device=self.fabric.device)
        size, of_what = 0, ""
        for step in range(_STEPS):
            stages.set_learning_rates(step)
            batch, repeated = next(batches), passes.repeated
            if self.fabric.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.fabric.device)
            began = time.perf_counter()
            with ExitStack() as stack:  # as `train` prepares for its steps
                stack.enter_context(float32_products(train.precision))
                stack.enter_context(shared_work(model))
                if train.prompts_at_once or repeats:
                    stack.enter_context(shared_encoding([model]))
                terms, norms = optimize(self.fabric, stages, [batch], fit.clip_norm, by_group=False, passes=passes)
            if passes.repeated == repeated:  # else the peak is of what did not fit
                of_step, of_what = _peak(self.fabric.device)
                size = max(size, of_step)
            values = f"loss {float(terms[TOTAL]):.4g}"
            seconds = time.perf_counter() - began
            if norms is None:
                odd = [name for name, term in terms.items() if not term.isfinite()]
                found = f"step {step + 1}: {values}; not finite: {some(odd) or 'the gradient'}"
                remedy = "train.precision=32-true, a lower optim.lr, a longer optim.warmup"
                yield failed("training step", found, "a finite loss and gradient", remedy)
                return
        yield from _gradient_rows(model, at_most.number, report.trainable)
        pace = f"{seconds:.2f} s a pass of {train.batch_size}"
        if train.max_steps:
            total = seconds * train.accumulate * train.max_steps
            pace = f"{pace}; {train.max_steps} steps about {_duration(total)}"
        peak = f"peak {size_text(size)} {of_what}; images with more objects need more" if size else "no peak measured"
        if passes.repeated:
            peak = f"{peak}; ran out of memory until {passes} (train.memory=auto chooses by a forecast)"
        yield ok("training step", f"{values}, matched {float(terms[MATCHED]):.4g}; {pace}; {peak}")


def open_trial(options: ModelOptions, fit: FitOptions) -> tuple[Trial, Finding]:
    """The base model on one device of the run, and the row that says so. Raises ConfigError or CheckpointError."""
    train = fit.train
    set_threads(train.threads)
    alone = LightningEnvironment()  # also within a job of several tasks
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `srun` command is available")  # but not wanted
        precision = fabric_precision(resolved_precision(train.precision, device_of(train.accelerator)))
        fabric = Fabric(accelerator=train.accelerator, devices=1, precision=precision, plugins=alone)  # type: ignore[arg-type]
    model = build_model(**vars(options)).to(fabric.device)
    found = f"{options.name} at {resolution(model)} pixels on {fabric.device}; base {base_fingerprint(model)[:12]}…"
    return Trial(fabric, model), ok("model", found)


def _gradient_rows(model: host.Sam3Image, stage: int, trainable: int) -> Iterator[Finding]:
    """Whether the parameters that train have a gradient; those of the base have none for prompts that are no text."""
    training = {name: p for name, p in model.named_parameters() if p.requires_grad}
    without = [name for name, p in training.items() if p.grad is None]
    moved = sum(1 for p in training.values() if p.grad is not None and bool(p.grad.any()))
    reached = f"{len(training) - len(without)} of {len(training)} tensors ({trainable:,} parameters)"
    if not moved:
        remedy = "check that the sites of the scheme are ones that the detector reads"
        yield failed("gradients", "every gradient is zero", "gradients in what trains", remedy)
    elif without and stage == 1:
        found = f"{reached} get a gradient; not {', '.join(without[:3])}"
        yield warning("gradients", found, "all", "leave these sites, levels or layers out (hyperet.…)")
    else:
        rest = f"; {len(without)} are of what a prompt by text does not use" if without else ""
        yield ok("gradients", f"{reached} get one{rest}")


def _duration(seconds: float) -> str:
    return f"{seconds / 60:,.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _peak(device: torch.device) -> tuple[int, str]:
    """Bytes: the largest that the card's allocations, or this process as a whole, have been; and which of them."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), f"of {torch.cuda.get_device_name(device)}"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "of this process"
