"""A backward pass in Python: PyTorch's own refuses tensors on "cuda" where there is no GPU, even fake ones."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

_FIRST = 1 << 62  # gradients are added to parameters as soon as they are there


def backward(losses: list[Tensor]) -> None:
    """Take the one loss out of the list, and let its gradients flow, in PyTorch's order, to all that requires them.

    As in PyTorch's own pass, what a node has saved is freed once the node is done; so the caller must not hold on to
    the loss, nor to what it was computed from.
    """
    loss = losses.pop()
    root: Any = loss.grad_fn
    gradient = torch.ones_like(loss)
    waiting, functions = _uses(root)
    del loss
    gradients: dict[Any, list[Tensor | None]] = {root: [gradient]}
    order = itertools.count()
    ready = [(-root._sequence_nr(), next(order), root)]
    del root, gradient
    with torch.no_grad():
        while ready:
            node = heapq.heappop(ready)[2]
            function = functions.pop(node, None)
            flowing = _applied(node, function, gradients.pop(node))
            edges = node.next_functions if function is None else function.edges
            waiting.pop(node, None)
            del node, function
            for number, (target, place) in enumerate(edges):
                if target is None:
                    continue
                outputs = functions[target].outputs if target in functions else target._input_metadata
                _add(gradients.setdefault(target, []), place, flowing[number], outputs[place])
                flowing[number] = None
                waiting[target] -= 1
                if not waiting[target]:
                    heapq.heappush(ready, (-_turn(target, functions), next(order), target))
            target = edges = None  # nodes live as long as something names them


class _Function:
    """What the backward pass of a Python `Function` needs of its node, and the context it is given.

    Before PyTorch 2.14 the Python object does not keep its node: once the node's users are gone, it can tell nothing.
    """

    def __init__(self, node: Any) -> None:
        self._node, self.saved_tensors = node, node.saved_tensors
        self.outputs, self.edges = node._input_metadata, node.next_functions
        self.turn: int = node._sequence_nr()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)


def _uses(root: Any) -> tuple[Counter[Any], dict[Any, _Function]]:
    """How many edges lead to each node, and which nodes are a Python `Function`'s."""
    uses: Counter[Any] = Counter()
    functions = dict[Any, _Function]()
    seen, stack = {root}, [root]
    while stack:
        node = stack.pop()
        if isinstance(node, BackwardCFunction):
            functions[node] = _Function(node)
        for target, _ in node.next_functions:
            if target is not None:
                uses[target] += 1
                if target not in seen:
                    seen.add(target)
                    stack.append(target)
    return uses, functions


def _turn(node: Any, functions: dict[Any, _Function]) -> int:
    """A number that is higher the earlier PyTorch runs a node that is ready."""
    if node in functions:
        return functions[node].turn
    return _FIRST if "AccumulateGrad" in node.name() else int(node._sequence_nr())


def _applied(node: Any, function: _Function | None, gradients: list[Tensor | None]) -> list[Tensor | None]:
    metadata = node._input_metadata if function is None else function.outputs
    gradients += [None] * (len(metadata) - len(gradients))
    if function is None:
        result = node(*gradients)
    else:  # it expects every gradient
        whole = [
            torch.empty(one.shape, dtype=one.dtype, device=one.device) if gradient is None else gradient
            for gradient, one in zip(gradients, metadata, strict=True)
        ]
        result = node._forward_cls.backward(function, *whole)
    return list(result) if isinstance(result, tuple) else [result]


def _add(gradients: list[Tensor | None], place: int, gradient: Tensor | None, output: Any) -> None:
    """Add to what has flowed to this output of a node so far, at the output's shape and precision."""
    gradients += [None] * (place + 1 - len(gradients))
    if gradient is None:
        return
    if gradient.shape != output.shape:
        gradient = gradient.sum_to_size(output.shape)
    gradient = gradient.to(output.dtype)
    before = gradients[place]
    gradients[place] = gradient if before is None else before + gradient
