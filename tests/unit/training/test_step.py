"""One step in parts: the same loss and the same gradient, however its pictures are spread over forward passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric
from micro_model import micro_base

import sam3_hyperet as hy
from sam3_hyperet.losses.grounding import GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.training.batches import parts_of
from sam3_hyperet.training.options import OptimizerOptions, StageOptions
from sam3_hyperet.training.stages import Stages
from sam3_hyperet.training.step import KeptPrecision, ModelAndLoss, Passes, optimize


@pytest.fixture(scope="module")
def base():
    return micro_base()


FEW = [("car", [(10, 10, 60, 60)])]
MANY = [("car", [(10, 10, 60, 60), (70, 40, 120, 110), (5, 80, 50, 120)]), ("sky", [(0, 0, 128, 30)]), ("tree", [])]
NONE = [("sky", []), ("house", [])]
OTHER = [("red house", [(30, 30, 90, 90)]), ("sky", [])]
PICTURES = [FEW, MANY, NONE, OTHER]
QUALITY = ("ce_f1", "presence_dec_acc", "miou_semantic_seg")


@pytest.fixture(scope="module")
def batches(make_batch):
    """A function from groups of pictures, by their places in PICTURES, to a batch of each group."""

    def make(*groups):
        return [merged([make_batch(PICTURES[i], seed=i) for i in group]) for group in groups]

    def merged(singles):
        if len(singles) == 1:
            return singles[0]
        places = [int(one.find_metadatas[0].original_image_id[0]) for one in singles]
        return make_batch(*[PICTURES[i] for i in places], seed=places[0])

    return make


class Step:
    """A model at the start of a run; `take` makes one step without moving a weight, so that its gradient stays."""

    def __init__(self, model, losses):
        self.model = hy.inject(model, hy.HyperETConfig())
        loss = GroundingLoss(model, losses)
        self.fabric = Fabric(accelerator="cpu", devices=1)
        optim = OptimizerOptions(warmup=0)
        self.stages = Stages(self.fabric, self.model, loss, StageOptions(), optim, 9)
        self.stages.begin()
        self.stages.set_learning_rates(0)

    def adapters(self):
        return [p.detach().clone() for group in self.stages.raw_optimizer.param_groups for p in group["params"]]

    def take(self, parts, passes=None, clip_norm=1e9):
        for group in self.stages.raw_optimizer.param_groups:
            group["lr"] = 0.0
        terms, norms = optimize(self.fabric, self.stages, parts, clip_norm, by_group=False, passes=passes)
        gradient = [p.grad.clone() for group in self.stages.raw_optimizer.param_groups for p in group["params"]]
        return terms, norms, gradient


@pytest.fixture
def step(another):
    return lambda **losses: Step(another(), LossOptions(**losses))


def assert_same_step(whole, parts):
    """Loss terms, norms and gradient, up to rounding."""
    (terms, norms, gradient), (in_parts, norms_in_parts, gradient_in_parts) = whole, parts
    assert terms.keys() == in_parts.keys()
    for name, value in terms.items():
        if not name.startswith(QUALITY):
            assert float(in_parts[name]) == pytest.approx(float(value), rel=2e-5, abs=1e-6), name
    assert norms_in_parts == pytest.approx(norms, rel=1e-4)
    for expected, found in zip(gradient, gradient_in_parts, strict=True):
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("groups", [[(0, 1), (2, 3)], [(0,), (1, 2, 3)], [(0,), (1,), (2,), (3,)]], ids=str)
def test_a_step_in_parts_is_the_step(step, batches, groups):
    """With a part that shows nothing of what it is asked for, and parts of unlike numbers of prompts and objects."""
    one = step(entailment=0.3)
    assert_same_step(one.take(batches((0, 1, 2, 3))), one.take(batches(*groups)))


@pytest.mark.parametrize("prompts", [1, 2])
def test_a_few_prompts_at_a_time_are_the_step(step, batches, prompts):
    one = step(entailment=0.3)
    (whole,) = batches((0, 1, 2, 3))
    assert_same_step(one.take([whole]), one.take([whole], Passes(prompts)))


def test_parts_are_what_is_collated_from_them(make_batch):
    """With more than one target a prompt, none at all, and a text that two pictures share."""
    whole = make_batch(FEW, MANY, NONE)
    parts = list(parts_of(whole, 2))
    expected = [make_batch(FEW), make_batch(MANY[:2], seed=1), make_batch(MANY[2:], seed=1), make_batch(NONE, seed=2)]
    assert [len(part.find_inputs[0].text_ids) for part in parts] == [1, 2, 1, 2]
    for part, one in zip(parts, expected, strict=True):
        assert part.find_inputs[0].img_ids.tolist() == one.find_inputs[0].img_ids.tolist()
        texts = [[b.find_text_batch[i] for i in b.find_inputs[0].text_ids.tolist()] for b in (part, one)]
        assert texts[0] == texts[1]
        for name in ("num_boxes", "boxes", "segments", "semantic_segments", "is_valid_segment", "is_exhaustive"):
            found, wanted = (getattr(b.find_targets[0], name).flatten() for b in (part, one))
            assert torch.equal(found, wanted), name
        padded, narrower = part.find_targets[0].boxes_padded, one.find_targets[0].boxes_padded
        assert torch.equal(padded[:, : narrower.shape[1]], narrower)
        assert padded[:, narrower.shape[1] :].abs().sum() == 0
        assert part.find_inputs[0].input_boxes.shape == one.find_inputs[0].input_boxes.shape
    assert torch.equal(torch.cat([part.img_batch for part in parts]), whole.img_batch[[0, 1, 1, 2]])


def test_contrasts_are_those_of_each_pass(step, batches):
    """The one loss that is not the same in parts: a prompt's negatives are those it shares a batch with."""
    one = step(alignment=1.0)
    whole, parts = (one.take(batches(*groups))[0] for groups in ([(0, 1, 2, 3)], [(0,), (1,), (2,), (3,)]))
    assert float(parts["alignment_loss"]) < float(whole["alignment_loss"])
    assert float(parts["loss_matched"]) == pytest.approx(float(whole["loss_matched"]), rel=1e-5)


def test_a_gradient_above_the_norm_is_scaled_down_to_it(step, batches):
    one, parts = step(), batches((0,), (1,))
    _, norms, gradient = one.take(parts)
    largest = norms["train/gradient_norm"] / 3
    _, told, clipped = one.take(parts, clip_norm=largest)
    assert told == pytest.approx(norms, rel=1e-6)  # what is logged is the norm before
    for found, whole in zip(clipped, gradient, strict=True):
        assert torch.allclose(found, whole / 3, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("bad", [0, 1])
def test_one_bad_part_spoils_the_step_and_changes_nothing(step, batches, bad):
    one = step()
    parts = batches((0,), (1,))
    parts[bad] = replace(parts[bad], img_batch=torch.full_like(parts[bad].img_batch, float("nan")))
    before = one.adapters()
    terms, norms = optimize(one.fabric, one.stages, parts, 1.0, by_group=True)
    assert norms is None
    assert not torch.isfinite(terms["loss"])
    assert all(torch.equal(a, b) for a, b in zip(before, one.adapters(), strict=True))
    assert not one.stages.raw_optimizer.state
    assert optimize(one.fabric, one.stages, batches((0,), (1,)), 1.0, by_group=True)[1] is not None
    assert not all(torch.equal(a, b) for a, b in zip(before, one.adapters(), strict=True))


def test_gradients_are_synchronised_once_a_step(step, batches, monkeypatch):
    one, enabled = step(), []
    context = one.fabric.no_backward_sync

    def watched(module, enabled_=True, **options):
        enabled.append(options.get("enabled", enabled_))
        return context(module, **options)

    monkeypatch.setattr(one.fabric, "no_backward_sync", watched)
    part = batches((0,))[0]
    one.take([part, part, part])  # the very same object, too
    assert enabled == [True, True, False]


def test_mixed_precision_rounds_neither_images_nor_targets(another, make_batch, monkeypatch):
    batch = make_batch([("car", [(10, 10, 51, 40)])])
    batch.find_targets[0].boxes += 1 / 1000  # no multiple of what bfloat16 can hold
    model = hy.inject(another(), hy.HyperETConfig())
    loss = GroundingLoss(model, LossOptions())
    seen = []
    monkeypatch.setattr(model, "forward", lambda given: seen.append(given.img_batch))
    monkeypatch.setattr(loss, "forward", lambda _, given, *__: seen.append(given.find_targets[0].boxes) or {})
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    fabric.setup_module(ModelAndLoss(model, loss))(KeptPrecision(batch))
    assert not torch.equal(batch.find_targets[0].boxes, batch.find_targets[0].boxes.bfloat16().float())
    assert torch.equal(seen[0], batch.img_batch)
    assert torch.equal(seen[1], batch.find_targets[0].boxes)
