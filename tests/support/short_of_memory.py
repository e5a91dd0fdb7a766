"""A model that runs out of memory at given passes, alone or as one of two processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment

import sam3_hyperet as hy
from sam3_hyperet.losses.grounding import GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.build import build_model
from sam3_hyperet.training.options import OptimizerOptions, StageOptions
from sam3_hyperet.training.stages import Stages
from sam3_hyperet.training.step import Passes, optimize

SHORTAGE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


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

    def __init__(self, model, most, late=False, error=SHORTAGE):
        self.most, self.late, self.error, self.passes = most, late, error, []
        model.register_forward_pre_hook(self.before)
        model.register_forward_hook(self.after)

    def before(self, model, inputs):
        prompts, is_recomputed = len(inputs[0].find_inputs[0].img_ids), model.transformer.encoder.training
        self.passes.append((prompts, is_recomputed))
        torch.rand(1)  # as dropout draws
        self.fails = prompts > self.most * (2 if is_recomputed else 1)
        if self.fails and not self.late:
            raise self.error

    def after(self, model, inputs, output):
        if self.fails:
            output[-1]["pred_logits"].register_hook(self.raise_late)

    def raise_late(self, gradient):
        raise self.error


def taken(stages, batches, passes):
    """One step: its terms, the adapters after it, and the next random number."""
    torch.manual_seed(3)
    terms, norms = optimize(stages.fabric, stages, batches, 1.0, by_group=False, passes=passes)
    adapters = [p.detach().clone() for group in stages.raw_optimizer.param_groups for p in group["params"]]
    return terms, norms, adapters, torch.rand(1)


def of_two(rank, port, batch, small, pipe):
    """One of two processes; the memory of the second is small."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", plugins=LightningEnvironment())
    fabric.launch()
    model = build_model("tiny", checkpoint="random")
    if rank:
        SmallCard(model, 1, late=small == "backward")
    passes = Passes(repeats=True)
    terms, _, adapters, _ = taken(begun(model, fabric), [batch], passes)
    after = torch.cat([adapter.flatten() for adapter in adapters])
    pipe.send((passes.prompts_at_once, passes.repeated, float(terms["loss"]), after.tolist()))


def in_two_processes(parts, small):
    """What each of two processes has after a step of its part. The parent must not have run a backward pass."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    pipes = [context.Pipe(duplex=False) for _ in parts]
    processes = [
        context.Process(target=of_two, args=(rank, port, part, small, pipe[1]))
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    file = Path(sys.argv[1])
    parts = pickle.loads(file.read_bytes())
    file.write_bytes(pickle.dumps({small: in_two_processes(parts, small) for small in ("forward", "backward")}))
