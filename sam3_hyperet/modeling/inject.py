"""Put adjustments into a SAM 3 model, report them, switch them off, and freeze what is not to train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.backbone import FPNAdjustment, HyperETBackbone
from sam3_hyperet.modeling.checkpoint import adapter_parameters
from sam3_hyperet.modeling.config import HyperETConfig


def inject(model: host.Sam3Image, config: HyperETConfig) -> host.Sam3Image:
    """Add the configured adjustments to a SAM 3 image model, in place; its outputs stay the same until they train.

    Works on `build_model`'s models and on those of `sam3.model_builder`: no base weight is copied or renamed.

    Raises:
        ConfigError: the model already has adapters, or a level that the model does not have.
    """
    if hasattr(model, "hyperet_config"):
        raise ConfigError(f"the model already has adapters ({model.hyperet_config}); build a fresh one")
    with unchanged_on_error(model):
        for site in config.resolved_sites:
            _INSTALL[site](model, config)
        model.hyperet_config = config
    return model


@contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """If an error leaves it, the modules and the config are again those from before."""
    before = [(module, dict(module._modules)) for module in model.modules()]
    config = vars(model).get("hyperet_config")
    try:
        yield
    except BaseException:
        for module, children in before:
            module._modules = children
        if config is None:
            vars(model).pop("hyperet_config", None)
        raise


def adapter_sites(model: nn.Module) -> dict[str, Any]:
    """The modules that `inject` added, by their name in the model."""
    return {name: module for name, module in model.named_modules() if getattr(module, "is_adapter", False)}


@contextmanager
def adapters_disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Within it the model is exactly the base model, bit for bit."""
    sites = list(adapter_sites(model).values())
    before = [site.enabled for site in sites]
    for site in sites:
        site.enabled = False
    try:
        yield model
    finally:
        for site, enabled in zip(sites, before, strict=True):
            site.enabled = enabled


def parameter_report(model: nn.Module) -> dict[str, float]:
    """Count parameters.

    Returns:
        `trainable` (they require a gradient), `added` (by `inject`), `total` (base and added), and `added_ratio`, which
        is added / base.
    """
    total = sum(p.numel() for p in model.parameters())
    added = sum(p.numel() for _, p in adapter_parameters(model))
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "added": added,
        "total": total,
        "added_ratio": added / (total - added),
    }


def _adjustment(config: HyperETConfig, dim: int, channel_dim: int, like: nn.Parameter) -> HyperET:
    try:
        return _build(config, dim, channel_dim).to(like.device)
    except ValueError as error:
        raise ConfigError(f"hyperet: {error}") from error


def _build(config: HyperETConfig, dim: int, channel_dim: int) -> HyperET:
    return HyperET(
        dim,
        structure=config.structure,
        geometry=config.geometry,
        curvature=config.curvature,
        learn_curvature=config.learn_curvature,
        residual=config.residual,
        learn_residual=config.learn_residual,
        block_size=config.block_size,
        bandwidth=config.bandwidth,
        channel_dim=channel_dim,
    )


def _install_fpn(model: host.Sam3Image, config: HyperETConfig) -> None:
    backbone = model.backbone
    neck = backbone.vision_backbone
    present = tuple(range(len(neck.convs) - backbone.scalp))
    levels = present if config.levels is None else tuple(config.levels)
    for level in levels:
        if level not in present:
            raise ConfigError(
                f"levels={list(levels)}: the model has no FPN level {level}; expected from {list(present)}"
            )
    like = next(neck.parameters())
    count = 1 if config.share else len(levels)
    adjustments = [_adjustment(config, model.hidden_dim, 1, like) for _ in range(count)]
    model.backbone = HyperETBackbone.from_backbone(backbone, FPNAdjustment(levels, adjustments))


_INSTALL = {"fpn": _install_fpn}
