"""A step that runs out of memory is repeated with less of it, and is the step that it would have been."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import socket

import pytest
import torch
from fitted_runs import equal
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment

import sam3_hyperet as hy
from sam3_hyperet.losses.grounding import GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.training.options import OptimizerOptions, StageOptions
from sam3_hyperet.training.stages import Stages
from sam3_hyperet.training.step import OutOfMemory, Passes, optimize

PICTURE = [("car", [(10, 10, 60, 60)]), ("sky", [(0, 0, 128, 30)]), ("tree", []), ("house", [(5, 50, 60, 120)])]
OTHER = [("car", [(70, 10, 120, 60)]), ("dog", [])]


def begun(model, fabric=None):
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    hy.inject(model, hy.HyperETConfig())
    stages = Stages(fabric, model, GroundingLoss(model, LossOptions()), StageOptions(), OptimizerOptions(warmup=0), 9)
    stages.begin()
    stages.set_learning_rates(0)
    return stages


class SmallCard:
    """Memory for `most` prompts in a pass, twice as many where activations are recomputed; notes every pass.

    `late` passes fail in their backward pass.
    """

    def __init__(self, model, most, late=False):
        self.most, self.late, self.passes = most, late, []
        model.register_forward_pre_hook(self.before)
        model.register_forward_hook(self.after)

    def before(self, model, inputs):
        prompts, is_recomputed = len(inputs[0].find_inputs[0].img_ids), model.transformer.encoder.training
        self.passes.append((prompts, is_recomputed))
        torch.rand(1)  # as dropout draws
        self.fails = prompts > self.most * (2 if is_recomputed else 1)
        if self.fails and not self.late:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def after(self, model, inputs, output):
        if self.fails:
            output[-1]["pred_logits"].register_hook(self.raise_late)

    def raise_late(self, gradient):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def taken(stages, batches, passes):
    """One step: its terms, the adapters after it, and the next random number."""
    torch.manual_seed(3)
    terms, norms = optimize(stages.fabric, stages, batches, 1.0, by_group=False, passes=passes)
    adapters = [p.detach().clone() for group in stages.raw_optimizer.param_groups for p in group["params"]]
    return terms, norms, adapters, torch.rand(1)


def test_the_step_is_repeated_with_half_the_prompts(another, make_batch, caplog):
    batches = [make_batch(PICTURE, OTHER)]
    model = another()
    stages = begun(model)
    card = SmallCard(model, 2, late=True)
    passes = Passes(repeats=True)
    with caplog.at_level(logging.WARNING):
        repeated = taken(stages, batches, passes)
    assert (passes, passes.repeated) == (Passes(2), 2)
    assert [prompts for prompts, _ in card.passes] == [6, 3, 2, 2, 2]
    assert "out of memory with train.prompts_at_once=0" in caplog.text
    assert repeated[1]["train/out_of_memory"] == 2
    large = another()
    SmallCard(large, 99)
    as_planned, whole = taken(begun(large), batches, Passes(2)), taken(begun(another()), batches, None)
    for name, value in as_planned[0].items():
        assert torch.equal(repeated[0][name], value), name
    assert all(torch.equal(a, b) for a, b in zip(repeated[2], as_planned[2], strict=True))
    assert torch.equal(repeated[3], as_planned[3])
    for name in ("loss", "loss_matched"):
        assert float(repeated[0][name]) == pytest.approx(float(whole[0][name]), rel=2e-6)


def test_then_activations_are_recomputed_then_it_is_an_error(another, make_batch):
    batches = [make_batch(PICTURE[:2])]
    model = another()
    card = SmallCard(model, 0.5)
    passes = Passes(repeats=True)
    taken(begun(model), batches, passes)
    assert passes == Passes(1, True)
    assert card.passes == [(2, False), (1, False), (1, True), (1, True)]
    restored = Passes(repeats=True)
    restored.load_state_dict(passes.state_dict())
    assert (restored, restored.repeated, restored.repeats) == (passes, 2, True)
    hopeless = another()
    SmallCard(hopeless, 0.1)
    with pytest.raises(OutOfMemory, match=r"train\.checkpoint_activations=true .CUDA out of memory.; use a smaller"):
        taken(begun(hopeless), batches, passes)


def test_with_memory_off_it_is_an_error_with_the_remedy(another, make_batch):
    model = another()
    SmallCard(model, 1)
    with pytest.raises(OutOfMemory, match=r"expected train\.memory=auto, train\.prompts_at_once=1"):
        taken(begun(model), [make_batch(PICTURE[:2])], Passes())


def of_two(rank, port, model, batch, small, pipe):
    """One of two processes; the memory of the second is small."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", plugins=LightningEnvironment())
    fabric.launch()
    if small and rank:
        SmallCard(model, 1, late=small == "backward")
    passes = Passes(repeats=True)
    terms, _, adapters, _ = taken(begun(model, fabric), [batch], passes)
    pipe.send(
        (
            passes.prompts_at_once,
            passes.repeated,
            float(terms["loss"]),
            torch.cat([a.flatten() for a in adapters]).numpy(),
        )
    )


@pytest.mark.parametrize("small", ["forward", "backward"])
def test_a_process_that_runs_out_alone_keeps_no_other_waiting(another, make_batch, small):
    parts = [make_batch(PICTURE), make_batch(OTHER, seed=1)]
    found = in_two_processes(another, parts, small)
    assert [one[:2] for one in found] == [(1, 1)] * 2  # both go on with it
    assert (found[0][3] == found[1][3]).all()
    terms, _, adapters, _ = taken(begun(another()), parts, None)
    assert found[0][2] == pytest.approx(float(terms["loss"]), rel=2e-6)
    assert torch.from_numpy(found[0][3]).allclose(torch.cat([a.flatten() for a in adapters]), atol=1e-6)


def in_two_processes(another, parts, small):
    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    pipes = [context.Pipe(duplex=False) for _ in parts]
    processes = [
        context.Process(target=of_two, args=(rank, port, another(), part, small, pipe[1]))
        for rank, (part, pipe) in enumerate(zip(parts, pipes, strict=True))
    ]
    for process in processes:
        process.start()
    try:
        assert all(reader.poll(120) for reader, _ in pipes)
        return [reader.recv() for reader, _ in pipes]
    finally:
        for process in processes:
            process.join(10)
            process.kill()


def test_a_resumed_run_keeps_its_smaller_passes(start):
    options = {"max_steps": 3, "save_every": 2, "memory": "auto"}
    whole, first, second = start(), start(), start()
    cards = [SmallCard(run.model, 1) for run in (whole, first, second)]
    whole.fit(**options)
    original = first.batches
    first.batches = lambda step: itertools.islice(original(step), 2)  # and then the run is killed
    with pytest.raises(StopIteration):
        first.fit(**options)
    second.folder = first.folder
    second.fit(resume=first.folder / "state.pt", **options)
    assert [prompts for prompts, _ in cards[1].passes] == [2, 1, 1, 1, 1]
    assert [prompts for prompts, _ in cards[2].passes] == [1, 1]
    assert equal(second.adapters(), whole.adapters())
    assert [line["train/out_of_memory"] for line in second.lines()] == [1.0] * 3
