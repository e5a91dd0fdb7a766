"""The parameters of a model: those of the base, and those that adapters add."""

from __future__ import annotations

from torch import Tensor, nn

from sam3_hyperet.adapters.adjustment import HyperET, Unadjusted
from sam3_hyperet.adapters.module import AdapterModule

INTERACTIVE = "inst_interactive_predictor."
UNREAD = ("backbone.vision_backbone.sam2_convs.", INTERACTIVE)  # the tracker's: the image detector never reads them


def adapter_sites(model: nn.Module) -> dict[str, AdapterModule]:
    """The modules that `inject` added, by their name in the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdapterModule)}


def changes_features(site: AdapterModule) -> bool:
    """Whether a site of adapters is switched on and adjusts anything."""
    adjustments = [module for module in site.modules() if isinstance(module, HyperET)]
    return site.enabled and not (adjustments and all(isinstance(one, Unadjusted) for one in adjustments))


def adapter_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Added parameters by name, in the model's order; with bias tuning, the chosen ones of the base."""
    return [pair for name, adapter in adapter_sites(model).items() for pair in adapter.adapter_parameters(name)]


def base_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Parameters of the image detector by name, adapters left out; SAM 3 keeps no other state than derived buffers.

    The SAM 2 neck of video detectors and the interactive predictor are left out as well: the detector never reads them.
    Names and values are the base's own also where LoRA has renamed a layer's, or bias tuning has changed them.
    """
    added = {name for name, _ in adapter_parameters(model)}
    base: dict[str, Tensor] = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name not in added and not name.startswith(UNREAD)
    }
    for adapter in adapter_sites(model).values():
        base = adapter.base_tensors(base)
    return base


def parameter_report(model: nn.Module) -> dict[str, float]:
    """Count parameters.

    Returns:
        `trainable` (they require a gradient), `added` (how many numbers the adapter holds), `total` (of the model), and
        `added_ratio`, which is added / base. Tuned biases count as added, for the adapter's file holds them, and once
        in the total, for they are the base's: `total` is then the size of the base.
    """
    total = sum(p.numel() for p in model.parameters())
    adapter = {name: p.numel() for name, p in adapter_parameters(model)}
    added = sum(adapter.values())
    base = total - sum(adapter[name] for name in adapter.keys() - base_state_dict(model).keys())
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "added": added,
        "total": total,
        "added_ratio": added / base,
    }
