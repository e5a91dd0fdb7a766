"""Fingerprints of base weights, by which an adapter finds its base again."""

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.parameters import adapter_parameters, adapter_sites, base_state_dict, changes_features


def base_fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and values of `base_state_dict`, by which two models have the same base."""
    return tensors_digest(sorted(base_state_dict(model).items()))


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, shapes, dtypes and values, in the given order."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def rounded_fingerprints(model: nn.Module) -> dict[str, str]:
    """Text "<digest> exact" or "<digest> rounded" of the base weights after rounding, by precision.

    It is exact where rounding changes nothing. A base and its copy in a precision have the same digest there.
    """
    base, found = sorted(base_state_dict(model).items()), {}
    for dtype in (torch.bfloat16, torch.float16):
        digest = tensors_digest((name, tensor.to(dtype)) for name, tensor in base)
        is_exact = all(torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) for _, tensor in base)
        found[str(dtype).removeprefix("torch.")] = f"{digest} {'exact' if is_exact else 'rounded'}"
    return found


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


def _adapter(model: nn.Module) -> str | None:
    """The adapters' configuration and a digest of their weights; None where none is switched on."""
    sites = adapter_sites(model).values()
    if not any(changes_features(site) for site in sites):
        return None
    buffers = [(name, buffer) for site in sites for name, buffer in site.named_buffers()]
    return f"{tensors_digest([*adapter_parameters(model), *buffers])} {adapter_config(model)}"
