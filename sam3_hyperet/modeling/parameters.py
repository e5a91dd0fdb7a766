"""The parameters of a model: those of the base, and those that adapters add."""

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
    """Parameters of the image detector by name, without adapters and what it never reads (`UNREAD`).

    SAM 3 keeps no other state than derived buffers. Names and values are the base's own also where LoRA has renamed a
    layer's, or bias tuning has changed them.
    """
    added = {name for name, _ in adapter_parameters(model)}
    base: dict[str, Tensor] = {k: v for k, v in model.named_parameters() if k not in added and not k.startswith(UNREAD)}
    for adapter in adapter_sites(model).values():
        base = adapter.base_tensors(base)
    return base


def parameter_report(model: nn.Module) -> dict[str, float]:
    """Numbers of parameters: `trainable`, `added` by the adapter, `total` of the model, and `added_ratio` to the base.

    Tuned biases count as added, for the adapter's file holds them, and once in the total, for they are the base's.
    """
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    adapter = {name: p.numel() for name, p in adapter_parameters(model)}
    added = sum(adapter.values())
    base = total - sum(adapter[name] for name in adapter.keys() - base_state_dict(model).keys())
    return {"trainable": trainable, "added": added, "total": total, "added_ratio": added / base}
