"""Query, key and value projections of a vision transformer, found by the structure of its attention modules."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.encoders.places import described, stack
from sam3_hyperet.modeling.sites.trunk_qv import AdjustedWeight, HyperETProjection

_FUSED = ("qkv", "Wqkv")
_SEPARATE = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("to_q", "to_k", "to_v"),
    ("wq", "wk", "wv"),
    ("q", "k", "v"),
)


class ReadProjection(HyperETProjection):
    """A projection whose `weight` is the adjusted one, for attention that reads it instead of calling the module."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # the frozen one is a parameter by this name
        return self.adjusted_weight()


class ReadAttention(AdjustedWeight, nn.MultiheadAttention):
    """PyTorch's attention whose `in_proj_weight` is the adjusted one."""

    frozen_name = "in_proj_weight"

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]  # the frozen one is a parameter by this name
        return self.adjusted_weight()


def attentions(model: nn.Module) -> dict[str, dict[str, str]]:
    """Each attention's projections, {name: "qkv", or "q" and "v"}, by the name of the attention.

    An attention is an `nn.MultiheadAttention`, or has linear children of the names above: one whose rows are q, k and v
    one behind the other, or three of equal inputs.
    """
    found = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if type(module) is nn.MultiheadAttention:
            if module._qkv_same_embed_dim:
                found[name] = {name: "qkv"}
        elif parts := _projections(module):
            found[name] = {f"{prefix}{child}": part for child, part in parts.items()}
    return found


def chosen_attentions(model: nn.Module, pattern: str | None) -> dict[str, dict[str, str]]:
    """Those whose names `pattern` is found in; by default those of the one numbered stack of blocks.

    Raises ConfigError, which lists the candidates, where there is none or, without a pattern, more than one stack.
    """
    found = attentions(model)
    if not found:
        names = ", ".join((*_FUSED, *map("/".join, _SEPARATE)))
        raise ConfigError(
            f"found no attention in this {type(model).__name__}: no nn.MultiheadAttention, and no module with linear "
            f"layers named {names}; wrap(module, pattern) adjusts the outputs of any modules"
        )
    if pattern is not None:
        chosen = {name: parts for name, parts in found.items() if re.search(pattern, name)}
        if not chosen:
            raise ConfigError(f"pattern={pattern!r} matches no attention; expected one of {described(found)}")
        return chosen
    by_stack: dict[str, dict[str, dict[str, str]]] = {}
    for name, parts in found.items():
        by_stack.setdefault(stack(name), {})[name] = parts
    stacks = [one for one in by_stack if "*" in one] or list(by_stack)
    if len(stacks) > 1:
        raise ConfigError(
            f"this {type(model).__name__} has attention in {len(stacks)} stacks: {described(found)}; pass the part "
            "that is the vision transformer, or pattern= a regular expression that is found in the names of one"
        )
    return by_stack[stacks[0]]


def _projections(module: nn.Module) -> Mapping[str, str]:
    """Children that are projections, by the parts that they have; none where the module is no such attention."""
    children = module._modules
    for name in _FUSED:
        if isinstance(fused := children.get(name), nn.Linear) and fused.out_features % 3 == 0:
            # these lay q, k and v out head by head: an equal third of the rows is none of them
            by_head = hasattr(module, "key_dim") or getattr(module, "head_first", False)
            return {} if by_head else {name: "qkv"}
    for names in _SEPARATE:
        layers = [children.get(name) for name in names]
        if len({layer.in_features for layer in layers if isinstance(layer, nn.Linear)}) == 1 and all(
            isinstance(layer, nn.Linear) for layer in layers
        ):
            return {names[0]: "q", names[2]: "v"}
    return {}
