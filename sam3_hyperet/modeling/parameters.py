"""The parameters of a model: those of the base, and those that adapters add."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sam3_hyperet.adapters.adjustment import HyperET, Unadjusted
from sam3_hyperet.adapters.module import AdapterModule
from sam3_hyperet.modeling.wrappings import named_modules, named_parameters, unwrapped, without_wrappings

INTERACTIVE = "inst_interactive_predictor."
TRACKER = ("backbone.vision_backbone.sam2_convs.", INTERACTIVE)  # what only the tracker reads


def adapter_sites(model: nn.Module) -> dict[str, AdapterModule]:
    """The modules that `inject` added, by their name in the model."""
    return {name: module for name, module in named_modules(model) if isinstance(module, AdapterModule)}


def changes_features(site: AdapterModule) -> bool:
    """Whether a site of adapters is switched on, by its dial as well, and adjusts anything."""
    adjustments = [module for module in site.modules() if isinstance(module, HyperET)]
    passes = adjustments and all(isinstance(one, Unadjusted) for one in adjustments)
    return site.enabled and site.dial != 0.0 and not passes


def adapter_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Added parameters by name, in the model's order; those of the base that `ln` and `bitfit` tune."""
    return _parameters_of(adapter_sites(model))


def base_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Parameters of the image detector by name, without adapters and what only the tracker reads.

    SAM 3 keeps no other state than derived buffers. Names and values are the base's own also where a control has
    renamed or changed them.
    """
    sites = adapter_sites(model)
    added = {name for name, _ in _parameters_of(sites)}
    base: dict[str, Tensor] = {k: v for k, v in named_parameters(model) if k not in added and not k.startswith(TRACKER)}
    for adapter in sites.values():
        base = adapter.base_tensors(base)
    return base


def base_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Floating-point buffers that a state dict keeps, by name, without those of adapters.

    They are running statistics and the like, which move in training though all parameters are frozen.
    """
    added = {id(buffer) for site in adapter_sites(model).values() for buffer in site.buffers()}
    state = unwrapped(model).state_dict(keep_vars=True)
    kept = {name: one for name, one in state.items() if isinstance(one, Tensor) and not isinstance(one, nn.Parameter)}
    return {without_wrappings(k): v for k, v in kept.items() if v.is_floating_point() and id(v) not in added}


def unread(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of base weights whose output SAM 3 drops, and of point prompts, which its detector is never given.

    Not every published file has them, no adapter depends on them, and they would never train.
    """
    sam3: Any = unwrapped(model)
    neck, head = sam3.backbone.vision_backbone, sam3.segmentation_head
    levels = len(neck.convs) - sam3.backbone.scalp
    found = ["backbone.language_backbone.encoder.text_projection", "geometry_encoder.points_"]
    found += [f"backbone.vision_backbone.convs.{i}." for i in range(levels, len(neck.convs))]
    if head is not None:
        for i in range(max(1, levels - 1), len(head.pixel_decoder.conv_layers)):
            found += [f"segmentation_head.pixel_decoder.{kind}.{i}." for kind in ("conv_layers", "norms")]
    return tuple(found)


def parameter_report(model: nn.Module) -> dict[str, float]:
    """Numbers of parameters: `trainable`, `added` by the adapter, `total` of the model, and `added_ratio` to the base.

    What `ln` and `bitfit` tune counts as added, for the adapter's file holds it, and once in the total.
    """
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    adapter = {name: p.numel() for name, p in adapter_parameters(model)}
    added = sum(adapter.values())
    base = total - sum(adapter[name] for name in adapter.keys() - base_state_dict(model).keys())
    return {"trainable": trainable, "added": added, "total": total, "added_ratio": added / base}


def _parameters_of(sites: Mapping[str, AdapterModule]) -> list[tuple[str, nn.Parameter]]:
    return [pair for name, adapter in sites.items() for pair in adapter.adapter_parameters(name)]
