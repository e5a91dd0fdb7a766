"""SAM 3's losses on the CPU: finite on every kind of batch, weighted as configured, with gradients for adapters."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import sam3_hyperet as hy
from sam3_hyperet import sam3_host as host
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss
from sam3_hyperet.losses.options import LossOptions, LossWeights
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.training.stages import set_training_mode

ONE = [("car", [(10, 10, 50, 40)])]
BATCHES = {
    "one positive": (ONE,),
    "mixed": ([("car", [(10, 10, 50, 40), (60, 60, 100, 120)]), ("sky", []), ("red house", [(0, 0, 128, 30)])],),
    "all negative": ([("car", []), ("sky", [])],),
    "one negative": ([("car", [])],),
    "two pictures": (ONE, [("sky", [(0, 0, 128, 60)]), ("car", [])]),
    "one picture without": (ONE, [("sky", [])]),
    "a pixel": ([("car", [(10, 10, 11, 11)])],),
    "the whole picture": ([("car", [(0, 0, 128, 128)])],),
    "more objects than queries": ([("car", [(8 * i, 8 * i, 8 * i + 8, 8 * i + 8) for i in range(16)])],),
}


@pytest.fixture
def adapted(model, randomized):
    """In stage 1 and training mode, with every kind of adapter parameter, away from the identity."""
    config = hy.HyperETConfig(geometry="gyro", learn_curvature=True, residual=0.7, learn_residual=True)
    randomized(hy.inject(model, config), scale=0.05)
    hy.set_stage(model, 1)
    set_training_mode(model)
    return model


def loss_of(model, **weights):
    return GroundingLoss(model, LossOptions(**weights))


def terms_of(model, batch, **weights):
    return loss_of(model, **weights)(model, batch, model(batch))


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", BATCHES)
def test_every_kind_of_batch_has_a_finite_loss_and_gradient(adapted, make_batch, kind, bf16):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        terms = terms_of(adapted, make_batch(*BATCHES[kind]))
    assert all(value.isfinite().all() for value in terms.values())
    assert terms[TOTAL] > 0
    terms[TOTAL].backward()
    without = [name for name, p in adapter_parameters(adapted) if p.grad is None or not p.grad.isfinite().all()]
    assert not without
    assert all(p.grad is None for p in adapted.parameters() if not p.requires_grad)


def test_gradients_reach_every_adapter_parameter(adapted, make_batch):
    terms_of(adapted, make_batch(*BATCHES["mixed"]))[TOTAL].backward()
    parameters = adapter_parameters(adapted)
    assert {name.rpartition("adjustments.")[2].split(".", 1)[1] for name, _ in parameters} == {
        "matrix.offset",
        "translation",
        "curvature.raw",
        "alpha",
    }
    assert not [name for name, p in parameters if not (p.grad != 0).any()]
    with_gradient = {name for name, p in adapted.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, _ in parameters}


def test_no_graph_through_the_frozen_trunk(adapted, make_batch):
    seen = {}

    def keep(name):
        def hook(module, inputs, output):
            seen[name] = (inputs, output)

        return hook

    backbone = adapted.backbone
    forward = backbone.vision_backbone.forward
    backbone.vision_backbone.forward = lambda x: seen.setdefault("neck", forward(x))
    backbone.language_backbone.register_forward_hook(keep("text"))
    backbone.fpn_adjustment.register_forward_hook(keep("adjustment"))
    terms_of(adapted, make_batch(*BATCHES["mixed"]))[TOTAL].backward()
    before, after = seen["adjustment"]
    assert len(seen["neck"][0]) == 3
    assert not any(x.requires_grad or x.grad_fn is not None for x in [*seen["neck"][0], *before[0]])
    assert not any(x.requires_grad for x in seen["text"][1])
    assert all(x.requires_grad and x.grad_fn is not None for x in after)


PROMPTS = 3  # of the mixed batch: SAM 3 scales the loss by the square root of their number
WEIGHTED = {
    "box": ["loss_bbox"],
    "giou": ["loss_giou"],
    "classification": ["loss_ce"],
    "presence": ["presence_loss"],
    "mask": ["loss_mask"],
    "dice": ["loss_dice"],
    "semantic": ["loss_semantic_seg"],
    "semantic_dice": ["loss_semantic_dice"],
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_each_weight_multiplies_its_term_and_no_other(adapted, make_batch, name):
    batch = make_batch(*BATCHES["mixed"])
    zero = dict.fromkeys(vars(LossWeights()), 0.0)
    with torch.no_grad():
        nothing = terms_of(adapted, batch, **zero)[TOTAL]
        terms = terms_of(adapted, batch, **{**zero, name: 3.0})
    assert float(nothing) == 0.0
    own = [v for k, v in terms.items() if k.removesuffix("_aux_0") in WEIGHTED[name]]
    assert len(own) in (1, 2)
    torch.testing.assert_close(terms[TOTAL], math.sqrt(PROMPTS) * 3.0 * sum(own), rtol=1e-5, atol=1e-6)


def test_one_to_many_terms_have_their_own_weight(adapted, make_batch):
    batch = make_batch(*BATCHES["mixed"])
    totals = []
    with torch.no_grad():
        for weight in (0.0, 1.0, 2.0):
            terms = terms_of(adapted, batch, one_to_many=weight)
            totals.append(float(terms[TOTAL]))
    w = LossWeights()
    kinds = {"loss_bbox": w.box, "loss_giou": w.giou, "loss_ce": w.classification, "presence_loss": w.presence}
    kinds |= {"loss_mask": w.mask, "loss_dice": w.dice}
    extra = sum(
        kinds[key.removesuffix("_o2m").removesuffix("_aux_0")] * float(value)
        for key, value in terms.items()
        if key.endswith("_o2m") and key.removesuffix("_o2m").removesuffix("_aux_0") in kinds
    )
    assert extra > 1.0
    assert totals[1] - totals[0] == pytest.approx(math.sqrt(PROMPTS) * extra / 2, rel=1e-3)
    assert totals[2] - totals[0] == pytest.approx(math.sqrt(PROMPTS) * extra, rel=1e-3)


def test_a_perfect_answer_costs_less(adapted, make_batch):
    """Losses rank predictions: logits moved towards the targets lower every semantic term."""
    batch = make_batch(*BATCHES["mixed"])
    loss = loss_of(adapted)
    with torch.no_grad():
        before = loss(adapted, batch, adapted(batch))
        head = adapted.segmentation_head
        truth = torch.stack(list(batch.find_targets[0].semantic_segments)).float()[:, None]

        def perfect(module, inputs, output):
            size = output["semantic_seg"].shape[-2:]
            target = torch.nn.functional.interpolate(truth, size)
            return {**output, "semantic_seg": 20 * (2 * target - 1)}

        head.register_forward_hook(perfect)
        after = loss(adapted, batch, adapted(batch))
    assert after["loss_semantic_dice"] < 0.1 * before["loss_semantic_dice"]
    assert after[TOTAL] < before[TOTAL]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_has_diverged_gets_a_loss_that_says_so(adapted, make_batch, value):
    batch = make_batch(*BATCHES["mixed"])
    broken = replace(batch, img_batch=torch.full_like(batch.img_batch, value))
    terms = terms_of(adapted, broken)
    assert not terms[TOTAL].isfinite()


def test_the_matcher_still_finds_the_cheapest_assignment(adapted):
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(0)
    for shape in ((12, 3), (3, 12), (5, 5), (4, 0)):
        cost = rng.normal(size=shape)
        ours, theirs = host.sam3_matcher.linear_sum_assignment(cost), linear_sum_assignment(cost)
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_published_weights():
    w = LossWeights()
    assert (w.box, w.giou, w.classification, w.presence) == (5, 2, 20, 20)
    assert (w.mask, w.dice, w.semantic, w.semantic_dice, w.one_to_many) == (200, 10, 20, 30, 2)


def test_a_stock_model_trains_with_them(base, another, make_batch):
    """Without adapters, as in stages 2 and 3."""
    model = another()
    hy.set_stage(model, 3)
    set_training_mode(model)
    terms_of(model, make_batch(*BATCHES["mixed"]))[TOTAL].backward()
    got = [name for name, p in model.named_parameters() if p.grad is not None and (p.grad != 0).any()]
    assert any(name.startswith("backbone.vision_backbone.trunk.blocks.0") for name in got)
    assert any(name.startswith("backbone.language_backbone") for name in got)


def test_matched_loss_is_the_weighted_last_layer(adapted, make_batch):
    terms, weights = terms_of(adapted, make_batch(*BATCHES["mixed"])), LossWeights()
    names = {
        "loss_bbox": weights.box,
        "loss_giou": weights.giou,
        "loss_ce": weights.classification,
        "presence_loss": weights.presence,
        "loss_mask": weights.mask,
        "loss_dice": weights.dice,
        "loss_semantic_seg": weights.semantic,
        "loss_semantic_dice": weights.semantic_dice,
    }
    expected = sum(weight * float(terms[name].detach()) for name, weight in names.items())
    assert float(terms["loss_matched"]) == pytest.approx(expected, rel=1e-5)
    assert float(terms["loss"].detach()) > expected  # the other layers and the one-to-many branch come on top
