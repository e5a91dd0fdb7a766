"""Every loss term, by value and by gradient, is that of SAM 3's published segmentation recipe."""

from __future__ import annotations

import copy

import pytest
import torch
from sam3_recipe import published_loss
from torchvision.ops import box_convert

import sam3_hyperet as hy
from sam3_hyperet.losses.grounding import MATCHED, TOTAL, GroundingLoss, count_targets
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.training.stages import set_training_mode

CORE = "core_loss"
ONE, THREE = [(10, 10, 50, 40)], [(60, 60, 100, 120), (5, 70, 40, 120), (90, 5, 120, 30)]
MIXED = ([("car", ONE), ("sky", []), ("red house", THREE)], [("tree", []), ("car", THREE)])
ABSENT = ([("car", []), ("sky", [])],)
LEAVES = ("pred_logits", "pred_boxes", "pred_masks", "semantic_seg", "presence_logit_dec")


@pytest.fixture(scope="module")
def trained(base):
    model = copy.deepcopy(base)
    hy.set_stage(model, 3)
    set_training_mode(model)
    return model


def opened(output):
    """The output of a model with tensors of its own, whose gradients say what a loss does to them."""
    step = output[-1]
    leaves = {}
    for where, part in [("", step), *((f"aux {i} ", aux) for i, aux in enumerate(step["aux_outputs"]))]:
        for name in [key for key in part if key.removesuffix("_o2m") in LEAVES]:
            leaves[where + name] = part[name] = part[name].detach().requires_grad_()
        for suffix in ("", "_o2m"):  # what the model derives from its boxes
            part[f"pred_boxes_xyxy{suffix}"] = box_convert(part[f"pred_boxes{suffix}"], "cxcywh", "xyxy")
    return output, leaves


def gradients(term, leaves):
    if not (isinstance(term, torch.Tensor) and term.requires_grad):
        return dict.fromkeys(leaves, 0.0)
    found = torch.autograd.grad(term, list(leaves.values()), retain_graph=True, allow_unused=True)
    return {name: 0.0 if grad is None else grad for name, grad in zip(leaves, found, strict=True)}


@pytest.mark.parametrize("pictures", [MIXED, ABSENT], ids=["present and absent", "all absent"])
def test_every_term_is_the_published_one(trained, make_batch, pictures):
    batch = make_batch(*pictures)
    with torch.no_grad():
        output = trained(batch)
    output, leaves = opened(output)
    ours = GroundingLoss(trained, LossOptions())(trained, batch, output)
    theirs = published_loss(trained.transformer.decoder.num_queries)
    with torch.jit.optimized_execution(False):
        published = theirs(output, [trained.back_convert(target) for target in batch.find_targets])
    ours[CORE] = ours.pop(TOTAL)
    del ours[MATCHED]
    for placeholder in ("loss_semantic_presence", "presence_acc"):  # the decoder computes them
        assert float(published.pop(placeholder)) == 0
    assert ours.keys() == published.keys()
    touched = set()
    for name, term in published.items():
        torch.testing.assert_close(ours[name], torch.as_tensor(term), rtol=5e-6, atol=1e-7, msg=name)
        assert torch.isfinite(ours[name])
        expected = gradients(term, leaves)
        for leaf, found in gradients(ours[name], leaves).items():
            assert not isinstance(found, torch.Tensor) or found.isfinite().all()
            torch.testing.assert_close(found, expected[leaf], rtol=5e-6, atol=1e-8, msg=f"{name} by {leaf}")
            touched |= {leaf} if isinstance(found, torch.Tensor) and bool((found != 0).any()) else set()
    if pictures is MIXED:
        assert touched == leaves.keys()
    else:
        assert touched == {name for name in leaves if "presence" in name}  # all that absent prompts teach


def test_absent_prompts_do_not_weigh_on_the_semantic_map(trained, make_batch):
    counts = count_targets([make_batch(*MIXED), make_batch(*ABSENT)])
    assert (counts.boxes, counts.prompts, counts.present, counts.segmented) == (7, 7, 3, 3)
    loss = GroundingLoss(trained, LossOptions())
    alone, beside = make_batch([("car", ONE)]), make_batch([("car", ONE), ("sky", []), ("tree", [])])
    names = ("loss_semantic_seg", "loss_semantic_dice")
    with torch.no_grad():
        first, second = (loss(trained, batch, trained(batch)) for batch in (alone, beside))
    assert [float(second[name]) for name in names] == pytest.approx([float(first[name]) for name in names], rel=1e-5)
