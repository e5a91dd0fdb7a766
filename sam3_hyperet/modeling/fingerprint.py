"""Fingerprints of base weights, by which an adapter finds its base again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sam3_hyperet.modeling.parameters import base_state_dict


def base_fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and values of `base_state_dict`: two models that share it are the same base.

    An image model and the detector of a video model share it where they share weights; a half-precision copy does not
    (see `rounded_fingerprints`).
    """
    return tensors_digest(sorted(base_state_dict(model).items()))


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, shapes, dtypes and values, in the given order."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Rounded(NamedTuple):
    """A fingerprint of rounded base weights, and whether rounding changed none of them."""

    digest: str
    is_exact: bool

    def __str__(self) -> str:
        return f"{self.digest} {'exact' if self.is_exact else 'rounded'}"

    @classmethod
    def parse(cls, text: str | None) -> Rounded | None:
        """The inverse of `str`; None of None."""
        if text is None:
            return None
        digest, _, kind = text.partition(" ")
        return cls(digest, kind == "exact")


def rounded_fingerprints(model: nn.Module) -> dict[str, Rounded]:
    """Fingerprints of the base weights after rounding, by precision, whatever their dtype.

    Two bases of which one is a copy of the other in a lower precision share that precision's digest, and that one's is
    exact.
    """
    found = {}
    for dtype in (torch.bfloat16, torch.float16):
        is_exact = True

        def rounded(dtype: torch.dtype = dtype) -> Iterator[tuple[str, Tensor]]:
            nonlocal is_exact
            for name, tensor in sorted(base_state_dict(model).items()):
                half = tensor.to(dtype)
                is_exact = is_exact and torch.equal(half.to(tensor.dtype), tensor)
                yield name, half

        digest = tensors_digest(rounded())
        found[str(dtype).removeprefix("torch.")] = Rounded(digest, is_exact)
    return found
