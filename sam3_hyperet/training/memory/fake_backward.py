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
    root, gradient = loss.grad_fn, torch.ones_like(loss)
    del loss
    waiting = _uses(root)
    gradients: dict[Any, list[Tensor | None]] = {root: [gradient]}
    order = itertools.count()
    ready = [(-root._sequence_nr(), next(order), root)]  # type: ignore[union-attr]
    del root, gradient
    with torch.no_grad():
        while ready:
            node = heapq.heappop(ready)[2]
            flowing = _applied(node, gradients.pop(node))
            edges = node.next_functions
            waiting.pop(node, None)
            del node
            for number, (target, place) in enumerate(edges):
                if target is None:
                    continue
                _add(gradients.setdefault(target, []), place, flowing[number], target)
                flowing[number] = None
                waiting[target] -= 1
                if not waiting[target]:
                    is_leaf = "AccumulateGrad" in target.name()
                    heapq.heappush(ready, (-_FIRST if is_leaf else -target._sequence_nr(), next(order), target))
            target = edges = None  # type: ignore[assignment]  # nodes live as long as something names them


def _uses(root: Any) -> Counter[Any]:
    """How many edges lead to each node."""
    uses: Counter[Any] = Counter()
    seen, stack = {root}, [root]
    while stack:
        for target, _ in stack.pop().next_functions:
            if target is not None:
                uses[target] += 1
                if target not in seen:
                    seen.add(target)
                    stack.append(target)
    return uses


def _applied(node: Any, gradients: list[Tensor | None]) -> list[Tensor | None]:
    metadata = node._input_metadata
    gradients += [None] * (len(metadata) - len(gradients))
    if isinstance(node, BackwardCFunction):  # a Function of Python expects every gradient
        whole = [
            torch.empty(one.shape, dtype=one.dtype, device=one.device) if gradient is None else gradient
            for gradient, one in zip(gradients, metadata, strict=True)
        ]
        result = node.apply(*whole)
    else:
        result = node(*gradients)
    return list(result) if isinstance(result, tuple) else [result]


def _add(gradients: list[Tensor | None], place: int, gradient: Tensor | None, target: Any) -> None:
    """Add to what has flowed to this output of the target so far, at the output's shape and precision."""
    gradients += [None] * (place + 1 - len(gradients))
    if gradient is None:
        return
    output = target._input_metadata[place]
    if gradient.shape != output.shape:
        gradient = gradient.sum_to_size(output.shape)
    gradient = gradient.to(output.dtype)
    before = gradients[place]
    gradients[place] = gradient if before is None else before + gradient
