"""`train.memory=auto`: the passes of a run's steps, chosen by a forecast of their memory, and the line that says so."""

from collections.abc import Callable
from dataclasses import replace

import psutil
import torch
from lightning_fabric import Fabric

from sam3_hyperet.cli.run_options import RunOptions
from sam3_hyperet.training.gathering import reduced
from sam3_hyperet.training.memory.choice import choose
from sam3_hyperet.training.memory.forecast import Forecaster, ForecastError, StepKind
from sam3_hyperet.training.options import FSDP


def with_memory(options: RunOptions, fabric: Fabric, say: Callable[[str], None]) -> RunOptions:
    """The options with `train.memory` resolved and, where it is auto, with what it chooses and says.

    The choice is the first process's, by the smallest device of all; all processes must call this at once.
    """
    train, device = options.train, fabric.device
    is_auto = train.memory_is_auto(device.type)
    options = _with_train(options, memory="auto" if is_auto else "off")
    if not is_auto and train.memory_gb is not None:
        say(f"warning: train.memory_gb={train.memory_gb:g} changes nothing; expected train.memory=auto with it")
    if not is_auto or None not in (train.prompts_at_once, train.checkpoint_activations):
        return options
    total = _device_bytes(options, fabric)
    chosen = train.prompts_at_once or 0, bool(train.checkpoint_activations)
    if fabric.is_global_zero:
        try:
            choice = choose(
                Forecaster(step_kind(options, device.type)),
                train.batch_size,
                prompts_of_image(options)[1],
                total,
                prompts_at_once=train.prompts_at_once,
                checkpoint_activations=train.checkpoint_activations,
                may_split=may_split(options),
            )
        except ForecastError as error:
            say(f"train.memory=auto: {error}; goes on with the options as they are")
        else:
            sharded = "; sharding takes less" if train.strategy == FSDP else ""
            say(f"train.memory=auto: {choice}{sharded}")
            chosen = choice.passes.prompts_at_once, choice.passes.checkpoint_activations
    at_once, checkpointing = fabric.broadcast(chosen)
    return _with_train(options, prompts_at_once=at_once, checkpoint_activations=checkpointing)


def may_split(options: RunOptions) -> bool:
    """Whether a step may have passes of fewer prompts: not where it is sharded, nor where this changes the loss."""
    return options.train.strategy != FSDP and not options.loss.alignment


def step_kind(options: RunOptions, device: str) -> StepKind:
    """What the run's steps are, but for the images of a batch."""
    present, _ = prompts_of_image(options)
    boxes = int(any(data.exemplars for data in (options.data, *options.more_data.values())))  # one a prompt, at most
    parts, train = (options.model, options.hyperet, options.stage, options.loss), options.train
    has_buckets = train.devices * train.nodes > 1 and train.strategy != FSDP
    copies = int(has_buckets) + int(train.ema > 0)
    return StepKind(*parts, precision=train.precision, present=present, boxes=boxes, copies=copies, device=device)


def prompts_of_image(options: RunOptions) -> tuple[int, int]:
    """How many prompts of an image show something, and how many there are, at most."""
    every = [options.data, *options.more_data.values()]
    return max(data.num_positives for data in every), max(data.num_positives + data.num_negatives for data in every)


def _device_bytes(options: RunOptions, fabric: Fabric) -> int:
    """Memory of the smallest device of all processes."""
    if options.train.memory_gb is not None:
        return round(options.train.memory_gb * 1e9)
    if fabric.device.type == "cuda":
        total = torch.cuda.get_device_properties(fabric.device).total_memory
    else:
        total = psutil.virtual_memory().total // options.train.devices
    return int(reduced(fabric, torch.tensor(total, dtype=torch.int64), "min"))


def _with_train(options: RunOptions, **changes: object) -> RunOptions:
    return replace(options, train=replace(options.train, **changes))  # type: ignore[arg-type]
