"""Training with box exemplars: gradients reach the adapters, and passes and shared work stay one step."""

from __future__ import annotations

import pytest
import torch
from drawn_pictures import Drawn, Region, block
from fitted_runs import equal
from micro_model import micro_base

import sam3_hyperet as hy
from sam3_hyperet.choices import VISUAL
from sam3_hyperet.data.loading import ConceptPrompts, build_loader
from sam3_hyperet.data.prompts import PromptSampler
from sam3_hyperet.data.transforms import Augmentation
from sam3_hyperet.losses.alignment import AlignmentLoss
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss, count_targets
from sam3_hyperet.losses.options import AlignmentOptions, LossOptions
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.training.batches import parts_of, training_batches
from sam3_hyperet.training.shared_work import shared_work
from sam3_hyperet.training.stages import set_training_mode
from sam3_hyperet.training.text_features import text_features_once


@pytest.fixture(scope="module")
def base():
    return micro_base()


CONFIGS = {
    "A+B": {"scheme": "A+B"},
    "gates": {"sites": ["encoder_layer", "encoder_out", "prompt"], "gate": "prompt"},
}


class Coloured(Drawn):
    def load_image(self, i):
        return super().load_image(i).convert("RGB")


@pytest.fixture(scope="module")
def batches():
    """Batches of an image by the share of boxes that are given alone; without any, by None."""
    pictures = Coloured([[Region(7, block(2, 2)), Region(7, block(20, 12)), Region(3, block(2, 12))]])

    def batch(alone):
        options = () if alone is None else (1.0, alone)
        sampler = PromptSampler(pictures.categories, num_negatives=1)
        return next(iter(build_loader(ConceptPrompts(pictures, 128, sampler, None, 3, *options), 1)))

    return {alone: batch(alone) for alone in (None, 0.0, 1.0)}


def step(model, batch, parts=None):
    """The loss of a batch, in one pass or in parts, and the gradients of the adapters."""
    set_training_mode(model)
    loss, counts = GroundingLoss(model, LossOptions()), count_targets([batch])
    total = sum(loss(model, part, model(part), counts)[TOTAL] for part in parts or [batch])
    named = dict(adapter_parameters(model))
    return total.detach(), dict(zip(named, torch.autograd.grad(total, named.values()), strict=True))


@pytest.mark.parametrize(("name", "alone"), [("A+B", 0.0), ("gates", 1.0)])
def test_gradients_reach_the_adapters_and_passes_are_one_step(model, randomized, batches, name, alone):
    randomized(hy.inject(model, hy.HyperETConfig.from_mapping(CONFIGS[name])), scale=0.1)
    hy.set_stage(model, 1)
    (plain, _), (total, gradients) = step(model, batches[None]), step(model, batches[alone])
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in gradients.values())
    assert (total - plain).abs() > 1e-4 * plain
    with shared_work(model), text_features_once(model):
        again, of_parts = step(model, batches[alone], list(parts_of(batches[alone], 1)))
    torch.testing.assert_close(again, total, rtol=2e-5, atol=0)
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    for key, gradient in gradients.items():
        torch.testing.assert_close(of_parts[key], gradient, rtol=1e-3, atol=1e-4 * scale)


def test_in_bf16_the_boxes_stay_exact(model, batches, monkeypatch):
    """Up to the geometry encoder; the loss is that of fp32 to bf16's rounding."""
    hy.set_stage(hy.inject(model, {"scheme": "A"}), 1)
    exact, seen = step(model, batches[1.0])[0], []
    handle = model.geometry_encoder.register_forward_pre_hook(
        lambda _, inputs, options: seen.append(options["geo_prompt"].box_embeddings), with_kwargs=True
    )
    with handle, torch.autocast("cpu", torch.bfloat16):
        rounded = step(model, batches[1.0])[0]
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], batches[1.0].find_inputs[0].input_boxes)
    torch.testing.assert_close(rounded.float(), exact, rtol=5e-2, atol=0)


def test_boxes_alone_have_no_text_to_be_aligned_with(model, batches, monkeypatch):
    hy.set_stage(hy.inject(model, {"scheme": "A"}), 1)
    set_training_mode(model)
    aligned = AlignmentLoss(AlignmentOptions(alignment=1.0, entailment=1.0))
    pairs = {}
    for alone, batch in batches.items():
        output = model(batch)
        output[-1]["indices"] = (torch.arange(2), torch.arange(2), torch.arange(2))  # two prompts with a match
        with monkeypatch.context() as patched:
            patched.setattr("sam3_hyperet.losses.alignment.contrastive", lambda _, texts: torch.tensor(len(texts)))
            pairs[alone] = float(aligned(model, batch, output[-1])["alignment_loss"])
    assert VISUAL in batches[1.0].find_text_batch
    assert pairs == {None: 2, 0.0: 2, 1.0: 0}


def test_a_run_that_is_stopped_and_goes_on_is_the_undisturbed_one(start):
    """Boxes, views and prompts are drawn anew for the steps to come, as they would have been."""
    pictures = Coloured([[Region(7, block(2, 2)), Region(7, block(20, 12))], [Region(3, block(2, 12))]])
    given = {}

    class Stopped(Exception):
        pass

    def run_of(name, last):
        run = start()
        sampler = PromptSampler(pictures.categories, num_negatives=1)
        boxes = given.setdefault(name, {})

        def batches(step):
            dataset = ConceptPrompts(pictures, 128, sampler, Augmentation(zoom=1.5), 0, 0.5, 0.5)
            for number, batch in enumerate(training_batches(dataset, 1, step=step, seed=0), start=step):
                if number == last:
                    raise Stopped
                found = batch.find_inputs[0]
                boxes[number] = found.input_boxes[~found.input_boxes_mask.T].tolist(), batch.find_text_batch
                yield batch

        run.batches = batches
        return run

    whole, first, second = run_of("whole", None), run_of("parts", 3), run_of("parts", None)
    whole.fit(max_steps=5)
    with pytest.raises(Stopped):
        first.fit(max_steps=5, save_every=2)
    second.folder = first.folder
    torch.rand(3)
    second.fit(max_steps=5, resume=first.folder / "state.pt")
    assert equal(second.adapters(), whole.adapters())
    assert given["parts"] == {step: given["whole"][step] for step in range(5)}
    with_boxes = [texts for boxes, texts in given["whole"].values() if boxes]
    assert 0 < len(with_boxes) < 5
    assert {VISUAL in texts for texts in with_boxes} == {True, False}


@pytest.mark.parametrize("stage", [2, 3])
def test_later_stages_train_what_they_say_with_boxes(model, batches, stage):
    hy.inject(model, {"scheme": "A"})
    hy.set_stage(model, stage)
    set_training_mode(model)
    loss, reached = GroundingLoss(model, LossOptions()), {}
    for alone in (None, 1.0):
        model.zero_grad(set_to_none=True)
        loss(model, batches[alone], model(batches[alone]), count_targets([batches[alone]]))[TOTAL].backward()
        named = dict(model.named_parameters())
        assert all(p.grad is None for p in named.values() if not p.requires_grad)
        assert all(p.grad.isfinite().all() for p in named.values() if p.grad is not None)
        reached[alone] = {name for name, p in named.items() if p.grad is not None and p.grad.abs().max() > 0}
    adapters = {name for name, _ in adapter_parameters(model)}
    assert adapters < reached[1.0]
    assert reached[None] <= reached[1.0]
    of_boxes = {name for name in reached[1.0] - reached[None] if name.startswith("geometry_encoder.")}
    projections = {f"geometry_encoder.boxes_{kind}_project.weight" for kind in ("direct", "pool", "pos_enc")}
    assert of_boxes >= projections if stage == 3 else not of_boxes
