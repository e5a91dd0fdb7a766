"""Adapters put into a SAM 3 model, switched off for a while, and taken out again."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from torch import nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.conversion import is_converted, reverted
from sam3_hyperet.adapters.module import AdapterModule
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.config import HyperETConfig, adapter_config
from sam3_hyperet.modeling.controls.table import install_control
from sam3_hyperet.modeling.parameters import adapter_parameters, adapter_sites
from sam3_hyperet.modeling.sites.table import SITES
from sam3_hyperet.modeling.wrappings import check_unwrapped, unwrapped

_Model = TypeVar("_Model", bound=nn.Module)


def inject(model: host.Sam3Image, config: HyperETConfig | Mapping[str, object]) -> host.Sam3Image:
    """Add the configured adapters to a SAM 3 image model, in place; its outputs stay the same until they train.

    Bit for bit, but that "mobius" caps norms, and that "attention", and "encoder_out" and "pixel_decoder" on a GPU, are
    computed in another order than the base, "attention" in fp32 under bf16 autocast as well.

    Works on `build_model`'s models and on those of `sam3.model_builder`: no base weight is copied or renamed, but that
    controls by peft wrap their layers in peft's, and that `ln` and `bitfit` keep a copy of what they tune.
    Raises ConfigError for a model that is not SAM 3's or already has adapters, for a chosen level, layer or block that
    is not there or is of no adjusted site, for a residual of 0 and for a control that does not fit the model.
    """
    if not isinstance(config, HyperETConfig):
        config = HyperETConfig.from_mapping(config)
    config.check_learns()
    return inject_named(model, config, None)


def inject_named(model: host.Sam3Image, config: HyperETConfig, tuned: Collection[str] | None) -> host.Sam3Image:
    """As `inject`; `ln` and `bitfit` tune parameters of these names, or None: those of the configuration."""
    check_model(model)
    if (present := adapter_config(model)) is not None:
        raise ConfigError(
            f"the model already has adapters ({present}): take them out by remove_adapter(model), or make a second "
            "model on the same base weights by adapted_copy(base, config)"
        )
    config.check_sites()
    with unchanged_on_error(model):
        if config.adapter == "hyperet":
            _install(model, config)
        else:
            install_control(model, config, lambda: hyperet_size(model, config), tuned)
        model.hyperet_config = config
    return model


def remove_adapter(model: _Model) -> _Model:
    """Take the adapters out, in place: classes, state-dict keys and outputs are the base's again, bit for bit.

    Base weights that were trained themselves keep their trained values; what requires a gradient still does.
    Raises ConfigError for a model without adapters.
    """
    given, model = model, unwrapped(model)
    if adapter_config(model) is None:
        raise ConfigError("the model has no adapters to remove")
    for adapter in adapter_sites(model).values():
        adapter.remove(model)
    model._modules.pop("hyperet_control", None)
    for module in list(model.modules()):
        if is_converted(module) and any(isinstance(child, AdapterModule) for child in module.children()):
            replace_module(model, module, reverted(module))
    del model.hyperet_config
    vars(model).pop("hyperet_places", None)
    return given


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` in every place where the model has `old`."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if child is old:
                parent._modules[name] = new


def check_model(model: object) -> None:
    """Raise a ConfigError unless `model` is SAM 3's image model."""
    if isinstance(model, host.Sam3Image):
        return
    check_unwrapped(model)
    inner = [name for name in ("module", "detector") if isinstance(getattr(model, name, None), host.Sam3Image)]
    remedy = f"pass its .{inner[0]}" if inner else "see build_model and sam3.model_builder.build_sam3_image_model"
    found = f"{type(model).__module__}.{type(model).__qualname__}"
    raise ConfigError(f"found a {found}; expected SAM 3's image model, a sam3 Sam3Image: {remedy}")


def hyperet_size(model: host.Sam3Image, config: HyperETConfig) -> int:
    """Number of parameters that HyperET of `config` would add to a model without adapters."""
    with unchanged_on_error(model, always=True):
        _install(model, config)
        return sum(p.numel() for _, p in adapter_parameters(model))


def _install(model: host.Sam3Image, config: HyperETConfig) -> None:
    for site in config.resolved_sites:
        SITES[site].install(model, config)


@contextmanager
def unchanged_on_error(model: nn.Module, always: bool = False) -> Iterator[None]:
    """Context that brings modules, their modes and the configuration back after an error, or `always`."""
    before = [(module, dict(module._modules), module.training) for module in model.modules()]
    config, restore = adapter_config(model), True
    try:
        yield
        restore = always
    finally:
        for module, children, training in before if restore else ():
            module._modules, module.training = children, training
        if restore and config is None:
            for name in ("hyperet_config", "hyperet_places"):
                vars(model).pop(name, None)


def adapters_disabled(model: nn.Module) -> AbstractContextManager[nn.Module]:
    """Context in which the model is exactly the base model, bit for bit."""
    return adapters_switched(model, False)


@contextmanager
def adapters_switched(model: nn.Module, enabled: bool) -> Iterator[nn.Module]:
    """Context with the adapters switched on or off."""
    before = [(site, site.enabled) for site in adapter_sites(model).values()]
    for site, _ in before:
        site.enabled = enabled
    try:
        yield model
    finally:
        for site, own in before:
            site.enabled = own
