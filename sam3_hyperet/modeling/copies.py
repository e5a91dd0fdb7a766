"""Several models in memory with one set of frozen tensors."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.modeling.adapter_file import inject_from_file, load_adapter
from sam3_hyperet.modeling.adapter_source import locate_adapter
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.inject import check_model, inject
from sam3_hyperet.modeling.parameters import adapter_parameters


def adapted_copy(base: host.Sam3Image, adapter: HyperETConfig | Mapping[str, object] | str | Path) -> host.Sam3Image:
    """A second model on the same tensors, with adapters of its own.

    What changes a base weight in place changes it for every copy: these are for evaluation, or for stage 1. The copy
    has a dial of its own, and stays on the base's device; move the base before it is copied. `adapter` is a
    configuration, whose adapters start at the identity, or an adapter as for `load_adapter`. Raises as `inject`, also
    where `base` has adapters itself, and as `load_adapter`.
    """
    check_model(base)
    model = shared_copy(base)
    adapter = locate_adapter(adapter) if isinstance(adapter, str) else adapter
    if isinstance(adapter, Path):
        inject_from_file(model, adapter)
    else:
        inject(model, adapter)
    shared = {id(parameter) for parameter in base.parameters()}
    for name, parameter in adapter_parameters(model):
        if id(parameter) in shared:  # `ln` and `bitfit` train the base's own
            owner, _, attribute = name.rpartition(".")
            own = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            setattr(model.get_submodule(owner), attribute, own)
    return load_adapter(model, adapter) if isinstance(adapter, Path) else model


def shared_copy(model: host.Sam3Image) -> host.Sam3Image:
    """A second model of the very same tensors, adapters included."""
    shared = [model.backbone.language_backbone.tokenizer, *model.parameters(), *model.buffers()]
    shared += [tensor for module in model.modules() for tensor in _plain_tensors(vars(module))]
    return copy.deepcopy(model, {id(one): one for one in shared})


def _plain_tensors(value: object) -> Iterator[Tensor]:
    """Tensors in plain attributes, such as SAM 3's caches of positions."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _plain_tensors(item)
