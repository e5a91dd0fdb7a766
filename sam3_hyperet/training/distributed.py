"""Fully sharded training (FSDP2): each process keeps a part of every parameter, gradient and optimizer state."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sam3_hyperet import sam3_host as host
from sam3_hyperet.modeling.parameters import adapter_parameters


def sharding_strategy(processes: int) -> ModelParallelStrategy:
    """Fabric's strategy for FSDP2 over all processes, on GPUs or on CPUs; for a `ModelAndLoss`."""
    return ModelParallelStrategy(_shard, data_parallel_size=processes, tensor_parallel_size=1)


@contextmanager
def whole_parameters(module: nn.Module, *, adapters_only: bool = False, on_cpu: bool = False) -> Iterator[None]:
    """Context in which the parameters of the first process are whole and plain, to be read and not to be changed.

    All processes must enter it at once. Parameters are gathered one at a time, and no process but the first keeps them;
    nothing is done where nothing is sharded. `adapters_only` leaves the base's parameters as they are.
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    adapters = {id(parameter) for _, parameter in adapter_parameters(module)}
    sharded = [
        (part, name, parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if isinstance(parameter, DTensor) and (id(parameter) in adapters or not adapters_only)
    ]
    is_first = not sharded or torch.distributed.get_rank() == 0
    whole: dict[nn.Parameter, nn.Parameter] = {}
    for parameter in dict.fromkeys(parameter for _, _, parameter in sharded):
        # a copy: the memory that FSDP itself gathers into must be resizable, which writing a file of it ends
        tensor = gathered(parameter.detach())
        if is_first:
            whole[parameter] = nn.Parameter(tensor.cpu() if on_cpu else tensor, requires_grad=parameter.requires_grad)
    if is_first:
        for part, name, parameter in sharded:
            part.register_parameter(name, whole[parameter])
    try:
        yield
    finally:
        for part, name, parameter in sharded:
            part.register_parameter(name, parameter)


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, in all processes, which must call it at once; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_as(tensor: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a whole tensor of a parameter: its value, or a moment of its gradient."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    whole = tensor.to(parameter.device)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's `state_dict`; if sharded, whole in the first process, on the CPU, and empty in the others.

    All processes must call it at once.
    """
    if not any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        return optimizer.state_dict()
    return get_optimizer_state_dict(module, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the whole state that `optimizer_state` returned in the first process; each process keeps its part."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = [name for group in state["param_groups"] for name in group["params"]]  # numbers where nothing is sharded
    number = {name: i for i, name in enumerate(names)}
    moments = {
        number[name]: {key: split_as(value, parameters[number[name]]) for key, value in one.items()}
        for name, one in state["state"].items()
    }
    groups = [{**group, "params": [number[name] for name in group["params"]]} for group in state["param_groups"]]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Gather the blocks of both encoders one at a time, all that is left together."""
    model: host.Sam3Image = module.get_submodule("model")
    backbone = model.backbone
    blocks = [*backbone.vision_backbone.trunk.blocks, *backbone.language_backbone.encoder.transformer.resblocks]
    users = Counter(id(parameter) for block in blocks for parameter in block.parameters())
    for block in blocks:
        if all(users[id(parameter)] == 1 for parameter in block.parameters()):  # not with a shared adjustment
            fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"])
    return module
