"""A step of every kind of training on a pretend accelerator: one device, no float64, few waits for it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
import torch
from lightning_fabric.utilities import move_data_to_device
from pretend_device import fabric_on, watching

import sam3_hyperet as hy
from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.choices import GEOMETRIES, STRUCTURES
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.losses.grounding import GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.config import GATED_SITES
from sam3_hyperet.modeling.latest_radii import LatestRadii
from sam3_hyperet.modeling.sites.table import SITES
from sam3_hyperet.training.ema import Average
from sam3_hyperet.training.feature_cache import cached_trunk
from sam3_hyperet.training.options import CacheOptions, OptimizerOptions, StageOptions
from sam3_hyperet.training.shared_work import shared_work
from sam3_hyperet.training.stages import Stages
from sam3_hyperet.training.step import Passes, optimize
from sam3_hyperet.training.text_features import text_features_once
from sam3_hyperet.training.validation import validation_losses

OURS = 2
"""Synchronisations of a step in our own code, at most: its targets are counted, then loss and norms read together."""
OF_SPLITTING = 1
"""One more where a batch is split into passes, however many."""
OF_SAM3 = 72
"""Those in SAM 3's forward code, of a pass: in its matchers, its losses, and where boxes become biases."""
OF_BACKWARD = 14
"""Those of autograd in the backward pass: of products over box sides and of indices in SAM 3's losses."""


@dataclass(frozen=True)
class Case:
    """A way to train."""

    adapter: Mapping[str, object] = field(default_factory=lambda: {"scheme": "A"})
    stage: int = 1
    losses: Mapping[str, object] = field(default_factory=dict)
    passes: Passes = field(default_factory=Passes)
    precision: str = "32-true"
    more: int = 0  # synchronisations of ours beyond the usual
    boxes: bool = False


LEARNT = {"learn_curvature": True, "residual": 0.5, "learn_residual": True}
PAIRS = {"alignment": 1.0, "entailment": 1.0, "query": "random", "prune_probability": 0.5}
CASES = {
    **{scheme: Case({"scheme": scheme}) for scheme in ("A", "B", "C", "P")},
    "pixel_decoder": Case({"sites": ["pixel_decoder"]}),
    "gates": Case({"sites": list(GATED_SITES), "gate": "prompt"}),
    "all sites in bf16": Case({"sites": list(SITES), "structure": "diagonal", **LEARNT}, precision="bf16-mixed"),
    "lora": Case({"scheme": "A+B", "adapter": "lora", "rank": 1}),
    "boft": Case({"scheme": "A+B", "adapter": "boft", "oft_block_size": 2}),
    "bitfit": Case({"adapter": "bitfit"}),
    "stage 2": Case(stage=2),
    "stage 3": Case({"scheme": "A+P"}, stage=3),
    "stage 3, checkpoints": Case({"scheme": "A+P"}, stage=3, passes=Passes(0, True), precision="bf16-mixed"),
    "pairs": Case({"scheme": "A+C"}, losses=PAIRS, more=8),
    "boxes": Case({"scheme": "A+B"}, boxes=True),
    "boxes, stage 3, a prompt at once, checkpoints": Case(
        {"scheme": "A+P"}, stage=3, passes=Passes(1, True), precision="bf16-mixed", boxes=True
    ),
    "a prompt at once": Case(passes=Passes(1)),
    "a prompt at once, checkpoints": Case({"scheme": "A+B+C+P"}, passes=Passes(1, True), precision="bf16-mixed"),
}


@pytest.fixture(scope="module")
def batch(make_batch):
    """Two pictures with four prompts."""
    return make_batch([("car", [(20, 20, 80, 70)]), ("sky", [])], [("red car", [(0, 0, 60, 60), (70, 70, 120, 120)])])


def boxed(batch):
    """The batch with an exemplar box for the first prompt and another for the last one; the second has none."""
    stage, (some, *_) = batch.find_inputs[0], batch.find_targets[0].boxes
    boxes = some.repeat(1, len(stage.img_ids), 1)
    has_none = torch.tensor([[False], [True], [False]])
    labels = torch.ones(1, len(stage.img_ids), dtype=torch.bool)
    given = replace(stage, input_boxes=boxes, input_boxes_label=labels, input_boxes_mask=has_none)
    return replace(batch, find_inputs=[given])


def stages_of(model, device, case):
    fabric = fabric_on(device, case.precision)
    loss = GroundingLoss(model, LossOptions(**case.losses))
    stages = Stages(fabric, model, loss, StageOptions(number=case.stage), OptimizerOptions(warmup=0), 9)
    stages.begin()
    stages.set_learning_rates(0)
    return stages


def take(stages, batch, case):
    torch.manual_seed(0)
    return optimize(stages.fabric, stages, [batch], 1.0, by_group=True, passes=case.passes)


@pytest.mark.parametrize("name", CASES)
def test_a_step(device, micro, batch, name):
    case = CASES[name]
    model = hy.inject(micro(), hy.HyperETConfig(**case.adapter)).to(device)
    stages, batch = stages_of(model, device, case), move_data_to_device(boxed(batch) if case.boxes else batch, device)
    with watching() as watch:
        terms, norms = take(stages, batch, case)
    assert norms is not None
    assert all(value.device.type == "cpu" for value in terms.values())
    assert {value.device for group in stages.raw_optimizer.state.values() for value in group.values()} <= {
        device,
        torch.device("cpu"),  # AdamW counts its steps there
    }
    passes = 3 if case.passes.prompts_at_once else 1
    assert watch.ours() <= OURS + OF_SPLITTING * (passes > 1) + case.more, watch.waits
    assert watch.hosts() <= OF_SAM3 * passes, watch.waits
    assert watch.waits.total() <= watch.ours() + watch.hosts() + OF_BACKWARD * passes, watch.waits
    assert not [place for place in watch.float64 if not place[1].startswith("sam3/train/matcher")]


def test_the_same_step_as_on_a_cpu(device, micro, batch):
    """With what is computed once: the text, the work that prompts share, the trunk's features between the passes."""
    case, found = Case({"scheme": "A+B+C"}, passes=Passes(1)), []
    for where in (torch.device("cpu"), device):
        model = hy.inject(micro(), hy.HyperETConfig(**case.adapter)).to(where)
        with shared_encoding([model]), text_features_once(model), shared_work(model), watching() as watch:
            terms, norms = take(stages_of(model, where, case), move_data_to_device(batch, where), case)
        found.append({**norms, **{key: float(value) for key, value in terms.items()}})
    assert found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-5)
    assert watch.ours() <= OURS + OF_SPLITTING + 2, watch.waits  # is it the image of the pass before?


def test_features_of_the_cache_and_radii(device, micro, batch, tmp_path):
    model, case = hy.inject(micro(), hy.HyperETConfig(scheme="A+B", geometry="gyro")).to(device), Case()
    stages, batch = stages_of(model, device, case), move_data_to_device(batch, device)
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(cached_trunk(model, CacheOptions(folder=str(tmp_path)), 2, "32-true"))
        probe = stack.enter_context(LatestRadii(model))
        watch = stack.enter_context(watching())
        first, _ = take(stages, batch, case)
        assert (cache.hits, cache.misses) == (0, 2)
        waited = watch.ours()
        take(stages, batch, case)
        assert (cache.hits, cache.misses) == (2, 2)
        images = len(batch.img_batch)
        assert watch.ours() - waited <= OURS + 2 * images, watch.waits  # pixels to the CPU, features back
        assert probe.latest()
        assert probe.histograms()
    assert not [place for place in watch.float64 if not place[1].startswith("sam3/train/matcher")]
    assert all(value.isfinite() for value in first.values())


def test_validation_and_averages(device, micro, batch):
    """Losses without gradients, of the averages as well: a batch is counted, its terms are read together."""
    model, case = hy.inject(micro(), hy.HyperETConfig(scheme="A+P")).to(device), Case()
    stages, batch = stages_of(model, device, case), move_data_to_device(batch, device)
    average, found = Average(model, 0.5), []
    take(stages, batch, case)
    for passes in (Passes(), Passes(1)):
        with watching() as watch:
            average.update(1)
            with average.applied():
                found.append(validation_losses(stages.fabric, stages, iter([batch]), passes, 1))
        split = 3 if passes.prompts_at_once else 1
        assert watch.ours() <= OURS + OF_SPLITTING + split, watch.waits
    assert found[0]["loss_matched"] == pytest.approx(found[1]["loss_matched"], rel=0.2)


@pytest.mark.parametrize(("structure", "geometry"), list(itertools.product(STRUCTURES, GEOMETRIES)))
def test_every_adjustment(device, structure, geometry):
    """Forward and backward, along channels in front or at the end, waited for by nothing."""
    for axis, shape in ((-1, (3, 8)), (1, (2, 8, 3, 3))):
        options = {"learn_curvature": geometry != "euclidean", "residual": 0.5, "learn_residual": True}
        adjustment = HyperET(8, structure, geometry, channel_dim=axis, **options).to(device)
        x = torch.randn(shape, device=device, requires_grad=True)
        with watching() as watch:
            adjustment(x).square().sum().backward()
        assert not watch.waits
        assert not watch.float64
        assert all(p.grad is not None and p.grad.device == device for p in (*adjustment.parameters(), x))
