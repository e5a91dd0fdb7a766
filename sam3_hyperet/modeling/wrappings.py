"""Wrappings of models, by torch.compile, Fabric or data parallelism: what is inside, and names without them."""

from collections.abc import Iterator
from typing import Any, TypeVar

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from sam3_hyperet.errors import ConfigError

_COMPILED = "_orig_mod"
_INSIDE = (_COMPILED, "_forward_module")
"""Children by which a wrapping of torch.compile or of Fabric has its model."""
_Model = TypeVar("_Model")


def unwrapped(model: _Model) -> _Model:
    """The model inside its wrappings, else itself."""
    inner: Any = model
    while isinstance(inner, nn.Module) and (name := _attribute(inner)):
        inner = inner._modules[name]
    found: _Model = inner
    return found


def check_unwrapped(model: object) -> None:
    """Raise a ConfigError for a wrapping, which knows nothing of parameters that its model gets afterwards."""
    if isinstance(model, nn.Module) and (name := _attribute(model)):
        public = _COMPILED if name == _COMPILED else "module"
        remedy = f"adapters first, then wrap or compile: pass its .{public}"
        raise ConfigError(f"found a {type(model).__name__}, which wraps a model; {remedy}")


def check_uncompiled(model: nn.Module) -> None:
    """Raise a ConfigError for a wrapping, and for a model with compiled parts, which go on running what they had."""
    check_unwrapped(model)
    for name, _ in model.named_modules():
        if name != without_wrappings(name):
            raise ConfigError(f"{without_wrappings(name)} is compiled; adapters first, then compile")


def without_wrappings(name: str) -> str:
    """The name of a parameter or module as it is where no part of the model is compiled."""
    if _COMPILED not in name:  # nearly always, and every name of a model is asked for
        return name
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters by their names without wrappings."""
    return ((without_wrappings(name), parameter) for name, parameter in unwrapped(model).named_parameters())


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules by their names without wrappings; a compiled one follows its wrapping, by the same name."""
    return ((without_wrappings(name), module) for name, module in unwrapped(model).named_modules())


def _attribute(model: nn.Module) -> str | None:
    """Name of the child that a wrapping wraps; None of what is no wrapping."""
    if isinstance(model, DataParallel | DistributedDataParallel):
        return "module"
    return next((name for name in _INSIDE if name in model._modules), None)
