"""Fully sharded training: each process keeps a share of every parameter, of its gradient and its optimizer state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

FSDP = "fsdp"


def sharding_strategy(processes: int) -> ModelParallelStrategy:
    """Fabric's strategy for FSDP2 over all processes, on GPUs or on CPUs; for a `ModelAndLoss`."""
    return ModelParallelStrategy(_shard, data_parallel_size=processes, tensor_parallel_size=1)


@contextmanager
def whole_parameters(module: nn.Module) -> Iterator[None]:
    """Within it the parameters are plain tensors in every process, to be read and not to be changed.

    All processes must enter it at once. Where nothing is sharded it does nothing.
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    sharded = [
        (part, name, parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if isinstance(parameter, DTensor)
    ]
    # copies: the memory that FSDP itself gathers into must be resizable, which writing a file of it ends
    whole = {
        parameter: nn.Parameter(gathered(parameter.detach()), requires_grad=parameter.requires_grad)
        for _, _, parameter in sharded
    }
    for part, name, parameter in sharded:
        part.register_parameter(name, whole[parameter])
    try:
        yield
    finally:
        for part, name, parameter in sharded:
            part.register_parameter(name, parameter)


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, in every process; any other tensor as it is. All processes must ask at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_as(tensor: Tensor, parameter: Tensor) -> Tensor:
    """This process's share of a whole tensor that goes with a parameter: its value, or a moment of its gradient."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    whole = tensor.to(parameter.device)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


def gathered_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's `state_dict`, with whole tensors. All processes must ask at once."""
    state = optimizer.state_dict()
    return state | {"state": {i: {k: gathered(v) for k, v in one.items()} for i, one in state["state"].items()}}


def split_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What `gathered_state` returned, as this optimizer can load it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {i: {k: split_as(v, parameters[i]) for k, v in one.items()} for i, one in state["state"].items()}
    return {**state, "state": moments}


def _shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Gather the blocks of both encoders one at a time, all that is left together."""
    backbone = module.model.backbone
    blocks = [*backbone.vision_backbone.trunk.blocks, *backbone.language_backbone.encoder.transformer.resblocks]
    users = Counter(id(parameter) for block in blocks for parameter in block.parameters())
    for block in blocks:
        if all(users[id(parameter)] == 1 for parameter in block.parameters()):  # not with a shared adjustment
            fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"])
    return module
