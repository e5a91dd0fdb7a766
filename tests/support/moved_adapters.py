"""Adapters whose parameters are not where they start."""

from __future__ import annotations

import torch

from sam3_hyperet.modeling.parameters import adapter_parameters


def moved(model, scale: float = 0.2, seed: int = 7):
    """The model itself, with noise on every parameter of its adapters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter.device))
    return model
