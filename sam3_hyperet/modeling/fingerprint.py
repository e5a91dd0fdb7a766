"""Fingerprints of base weights, by which an adapter finds its base again.

They cover what the image detector reads, so that a base is the same in every layout it is published in.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.dial import dial_of
from sam3_hyperet.modeling.encoders.places import places_of, stems, stems_before_digits
from sam3_hyperet.modeling.layouts.transformers import has_class_token
from sam3_hyperet.modeling.parameters import (
    adapter_parameters,
    adapter_sites,
    base_buffers,
    base_state_dict,
    changes_features,
    unread,
)

VERSIONS = ("1", "2", "3")
"""Of what is covered: all of `base_state_dict` in "1", without what nothing reads in "2".

In "3", which encoders other than SAM 3 have, whole stacks alone, and their buffers.
"""
_kept: WeakKeyDictionary[nn.Module, dict[str, str] | None] = WeakKeyDictionary()


def base_fingerprint(model: nn.Module, version: str | None = None) -> str:
    """SHA-256 over names, shapes, dtypes and values of the base weights that the detector reads."""
    return tensors_digest(_covered(model, version or _version(model)))


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, shapes, dtypes and values, in the given order."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def rounded_fingerprints(model: nn.Module, version: str | None = None) -> dict[str, str]:
    """Text "<digest> exact" or "<digest> rounded" of the base weights after rounding, by precision.

    It is exact where rounding changes nothing. A base and its copy in a precision have the same digest there.
    """
    base, found = _covered(model, version or _version(model)), {}
    for dtype in (torch.bfloat16, torch.float16):
        digest = tensors_digest((name, tensor.to(dtype)) for name, tensor in base)
        is_exact = all(torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) for _, tensor in base)
        found[str(dtype).removeprefix("torch.")] = f"{digest} {'exact' if is_exact else 'rounded'}"
    return found


def fingerprints(model: nn.Module) -> dict[str, str]:
    """All of a base, as an adapter file keeps them; computed once within `fingerprints_kept`."""
    is_kept = model in _kept and not any(tensor.requires_grad for tensor in base_state_dict(model).values())
    found = _kept[model] if is_kept else None
    if found is None:
        rounded = {f"base.{precision}": digest for precision, digest in rounded_fingerprints(model).items()}
        found = {"fingerprint": _version(model), "base": base_fingerprint(model), **rounded}
        if is_kept:
            _kept[model] = found
    return found


@contextmanager
def fingerprints_kept(model: nn.Module) -> Iterator[None]:
    """Context in which the caller lets nothing write to base weights that are frozen, as a training run does.

    They take seconds to read, and no sign of a write to them could be relied upon (see `sites.trunk_qv.weights_kept`).
    """
    _kept[model] = None
    try:
        yield
    finally:
        del _kept[model]


def model_facts(models: Sequence[nn.Module]) -> list[dict[str, object]]:
    """Weights, adapters and device of each model. Bases that are the same tensors are read once."""
    facts: list[dict[str, object]] = []
    bases: dict[tuple[int, ...], str] = {}
    for model in models:
        tensors = tuple(tensor.data_ptr() for tensor in base_state_dict(model).values())
        bases[tensors] = bases.get(tensors) or base_fingerprint(model)
        device = next(model.parameters()).device.type
        facts.append({"base": bases[tensors], "adapter": _adapter(model), "device": device})
    return facts


def _version(model: nn.Module) -> str:
    """The version of new fingerprints of a model."""
    return "3" if places_of(model) else "2"


def _covered(model: nn.Module, version: str) -> list[tuple[str, Tensor]]:
    """The base weights in a fixed order, of which version "2" leaves out what is never read.

    Of an encoder other than SAM 3 they are those of the stacks with adapters, in "3" with buffers.
    """
    base = sorted(base_state_dict(model).items())
    if places := places_of(model):
        of_stacks = stems(places)
        if version == "3":
            base = sorted([*base, *base_buffers(model).items()])
        else:
            of_stacks = stems_before_digits(places)
        return [(name, tensor) for name, tensor in base if name.startswith(of_stacks)]
    if version == "1":
        return base
    never_read = unread(model)
    return [(name, _read_rows(name, tensor)) for name, tensor in base if not name.startswith(never_read)]


def _read_rows(name: str, tensor: Tensor) -> Tensor:
    """A weight without the position embedding of a class token, which SAM 3 drops."""
    return tensor[:, 1:] if name.endswith("trunk.pos_embed") and has_class_token(tensor) else tensor


def _adapter(model: nn.Module) -> str | None:
    """The adapters' configuration and a digest of their weights; None where none is switched on."""
    sites = adapter_sites(model).values()
    if not any(changes_features(site) for site in sites):
        return None
    buffers = [(name, buffer) for site in sites for name, buffer in site.named_buffers()]
    dial = f" dial={dial_of(model)!r}" if dial_of(model) != 1.0 else ""
    return f"{tensors_digest([*adapter_parameters(model), *buffers])} {adapter_config(model)}{dial}"
