"""Deep copies of a model, faster: its modules are pickled, and only its tensors copied one by one."""

from __future__ import annotations

import copy
import copyreg
import io
import pickle
from typing import Any

from torch import Tensor, nn

_COPIES: list[object] = []
"""What the pickle that is being loaded has as numbers."""


def quick_copy(model: Any) -> Any:
    """A copy as `deep_copy` makes it, of a model whose modules can be pickled."""
    shared = _tokenizer(model)
    apart: list[object] = []

    def as_number(one: object) -> tuple[Any, tuple[int]]:
        apart.append(one)
        return _copy_of, (len(apart) - 1,)

    file = io.BytesIO()
    pickler = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)
    kinds = (Tensor, nn.Parameter, type(shared))
    pickler.dispatch_table = {**copyreg.dispatch_table, **dict.fromkeys(kinds, as_number)}
    pickler.dump(model)
    memo = {id(shared): shared}  # with one memo, what shares memory does so in the copy
    try:
        _COPIES[:] = [copy.deepcopy(one, memo) for one in apart]
        return pickle.loads(file.getbuffer())
    finally:
        _COPIES.clear()


def deep_copy(model: Any) -> Any:
    """A deep copy that shares the tokenizer, which nothing changes and which is slow to copy."""
    shared = _tokenizer(model)
    return copy.deepcopy(model, {id(shared): shared})


def _tokenizer(model: Any) -> object:
    return model.backbone.language_backbone.tokenizer


def _copy_of(number: int) -> object:
    return _COPIES[number]
