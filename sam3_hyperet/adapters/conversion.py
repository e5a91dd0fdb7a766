"""Conversion of a module to a subclass and back, with the same parameters."""

import inspect
from copy import copy
from typing import TypeVar

from torch import nn

_Module = TypeVar("_Module", bound=nn.Module)
_ORIGINAL = "_original_class"


def converted(module: nn.Module, cls: type[_Module]) -> _Module:
    """A module of class `cls` with the settings, parameters, buffers, children and hooks of `module`.

    Tensors and children are the same objects; what is then added to the result, or removed, leaves `module` as it was.
    `cls.__init__` is not run: the caller adds what the subclass needs.
    """
    result = cls.__new__(cls)
    nn.Module.__init__(result)
    result.__dict__.update({name: copy(v) if isinstance(v, dict) else v for name, v in module.__dict__.items()})
    result.__dict__[_ORIGINAL] = type(module)
    return result


def is_converted(module: nn.Module) -> bool:
    """Whether `module` is a result of `converted`."""
    return _ORIGINAL in vars(module)


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class of `module` before it was converted, if it was."""
    cls: type[nn.Module] = vars(module).get(_ORIGINAL, type(module))
    return cls


def reverted(module: nn.Module) -> nn.Module:
    """The inverse of `converted`: a module of the former class, without the attributes that its subclasses annotate."""
    original = vars(module)[_ORIGINAL]
    result: nn.Module = converted(module, original)
    added = [cls for cls in type(module).__mro__ if cls not in original.__mro__]
    for name in (_ORIGINAL, *(name for cls in added for name in inspect.get_annotations(cls))):
        result._modules.pop(name, None)
        vars(result).pop(name, None)
    return result
