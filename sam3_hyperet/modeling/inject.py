"""Put adjustments into a SAM 3 model, report them, switch them off, and freeze what is not to train."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.checkpoint import adapter_parameters, base_state_dict
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.controls.bias_tuning import install_bias_tuning
from sam3_hyperet.modeling.controls.lora import install_lora
from sam3_hyperet.modeling.sites.behind_encoder import install_encoder_out, install_pixel_decoder
from sam3_hyperet.modeling.sites.pyramid import install_fpn, install_prompt
from sam3_hyperet.modeling.sites.tokens import install_attention, install_layers
from sam3_hyperet.modeling.sites.trunk_qv import install_qv

_INSTALL = {
    "fpn": install_fpn,
    "encoder_layer": install_layers,
    "attention": install_attention,
    "trunk_qv": install_qv,
    "encoder_out": install_encoder_out,
    "pixel_decoder": install_pixel_decoder,
    "prompt": install_prompt,
}


def inject(model: host.Sam3Image, config: HyperETConfig) -> host.Sam3Image:
    """Add the configured adjustments to a SAM 3 image model, in place; its outputs stay the same until they train.

    Works on `build_model`'s models and on those of `sam3.model_builder`: no base weight is copied or renamed, but that
    LoRA, the control, wraps its layers in peft's, and that bias tuning keeps a copy of the biases.

    Raises:
        ConfigError: the model already has adapters, or a level, layer or block that is chosen and not there; for the
            controls, also what `install_lora` and `install_bias_tuning` raise.
    """
    if hasattr(model, "hyperet_config"):
        raise ConfigError(f"the model already has adapters ({model.hyperet_config}); build a fresh one")
    with unchanged_on_error(model):
        if config.adapter == "lora":
            install_lora(model, config, hyperet_size(model, config) if config.rank is None else None)
        elif config.adapter == "bitfit":
            install_bias_tuning(model, config)
        else:
            _install(model, config)
        model.hyperet_config = config
    return model


def hyperet_size(model: host.Sam3Image, config: HyperETConfig) -> int:
    """How many parameters HyperET adds to a model without adapters, at the sites of `config` and with its options."""
    restore = _snapshot(model)
    try:
        _install(model, config)
        return sum(p.numel() for _, p in adapter_parameters(model))
    finally:
        restore()


def _install(model: host.Sam3Image, config: HyperETConfig) -> None:
    for site in config.resolved_sites:
        _INSTALL[site](model, config)


@contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """If an error leaves it, the modules and the config are again those from before."""
    restore = _snapshot(model)
    try:
        yield
    except BaseException:
        restore()
        raise


def _snapshot(model: nn.Module) -> Callable[[], None]:
    """A function that brings the present modules and config back."""
    before = [(module, dict(module._modules)) for module in model.modules()]
    config = vars(model).get("hyperet_config")

    def restore() -> None:
        for module, children in before:
            module._modules = children
        if config is None:
            vars(model).pop("hyperet_config", None)

    return restore


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
