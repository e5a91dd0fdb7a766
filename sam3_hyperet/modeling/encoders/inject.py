"""Adapters put into any vision encoder: scheme P, or adjustments behind chosen modules."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.conversion import converted
from sam3_hyperet.adapters.module import AdapterModule
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.config import HyperETConfig, adapter_config
from sam3_hyperet.modeling.encoders.attention import ReadAttention, ReadProjection, chosen_attentions
from sam3_hyperet.modeling.encoders.outputs import BEHIND, OutputAdjustment, adjusted_class
from sam3_hyperet.modeling.encoders.places import OUTPUT, Place, described
from sam3_hyperet.modeling.inject import replace_module, unchanged_on_error
from sam3_hyperet.modeling.parameters import adapter_sites, parameter_report
from sam3_hyperet.modeling.sites.site import adjustments, chosen
from sam3_hyperet.modeling.sites.trunk_qv import AdjustedWeight, adjust_rows
from sam3_hyperet.modeling.wrappings import check_uncompiled

logger = logging.getLogger(__name__)

_Model = TypeVar("_Model", bound=nn.Module)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_UNCALLED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules that read the weights of their own, the latter in evaluation without gradients."""
_OF_SAM3 = {"adapter": "hyperet", "gate": "none", "levels": None, "layers": None}
"""Options that only SAM 3's sites have, with what they are without."""


def inject_qv(
    vit: _Model, config: HyperETConfig | Mapping[str, object] | None = None, pattern: str | None = None
) -> _Model:
    """Adjust the query and value weights of a vision transformer's blocks (scheme P), in place.

    Its outputs stay the same, bit for bit, until the adapters train, and no base weight is copied or renamed. Fused and
    separate projections are found by their names and shapes (docs/encoders.md).

    Args:
        config: structure, geometry, curvature, residual, `share` and `blocks`; scheme and sites are not read.
        pattern: regular expression, searched in the names of attention modules, where there are several stacks.

    Raises ConfigError: no such attention, several stacks and no pattern, a model with adapters or compiled, or options
    that only SAM 3's sites have.
    """
    config = _config(vit, config, sites=("trunk_qv",))
    found = list(chosen_attentions(vit, pattern).values())
    indices = chosen("blocks", config.blocks, len(found), "attention block")
    places = [
        Place(name, part, i, _in_features(vit.get_submodule(name))) for i in indices for name, part in found[i].items()
    ]
    return install_places(vit, config, places)


def wrap(
    module: _Model,
    pattern: str,
    config: HyperETConfig | Mapping[str, object] | None = None,
    channels: int | None = None,
    channel_dim: int | None = None,
) -> _Model:
    """Adjust what the submodules return whose names `pattern` is found in, in place.

    The output of each is one tensor, such as (B, N, C) or (B, C, H, W), with `channels` along `channel_dim`; both are
    known of linear layers, convolutions and `nn.LayerNorm`, and stated for others. Outputs stay the same, bit for bit,
    until the adapters train (for `mobius`, below its norm cap).

    Args:
        config: as for `inject_qv`, without `blocks`; one adjustment a module, or one for all with `share`.

    Raises ConfigError: a pattern that matches nothing, a container, what PyTorch's attention or encoder layer does not
    call, channels that are not known or are others, and as `inject_qv`. What a module of another class returns is seen
    when it first runs: channels that are not those stated are then a ConfigError that names it.
    """
    config = _config(module, config, sites=None)
    if config.blocks is not None:
        raise ConfigError(f"blocks={list(config.blocks)}: wrap has none; expected a pattern that chooses")
    names = {name: one for name, one in module.named_modules() if name}
    hits = {name: one for name, one in names.items() if re.search(pattern, name)}
    if not hits:
        raise ConfigError(f"pattern={pattern!r} matches no submodule; there are {described(names)}")
    for name in hits:
        parent = module.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, _UNCALLED):
            raise ConfigError(
                f"{name}: PyTorch's {type(parent).__name__} reads its weights without calling it, so an adjustment "
                "behind it would be skipped; expected a pattern for the whole layer, or inject_qv"
            )
    places = [
        Place(name, OUTPUT, i, *_channels(name, one, channels, channel_dim))
        for i, (name, one) in enumerate(hits.items())
    ]
    return install_places(module, config, places)


def install_places(model: _Model, config: HyperETConfig, places: Sequence[Place]) -> _Model:
    """Put adjustments into these modules, as a file lists them. Raises ConfigError for a module that does not fit."""
    check_uncompiled(model)
    modules = dict(model.named_modules())
    for place in places:
        if place.module not in modules:
            raise ConfigError(f"{place.module} is not in this {type(model).__name__}; expected the encoder it is of")
    with unchanged_on_error(model):
        if places and places[0].part == OUTPUT:
            _adjust_outputs(model, config, places)
        else:
            _adjust_weights(model, config, places)
        model.hyperet_config, model.hyperet_places = config, tuple(places)  # type: ignore[assignment]
    report = parameter_report(model)
    logger.info(
        "adjusted in %s: %s; %s parameters, %.2f %% of it",
        *(type(model).__name__, described(place.module for place in places), f"{report['added']:,}"),
        100 * report["added_ratio"],
    )
    return model


def _adjust_weights(model: nn.Module, config: HyperETConfig, places: Sequence[Place]) -> None:
    blocks: dict[int, list[AdjustedWeight]] = {}
    for place in places:
        module = model.get_submodule(place.module)
        cls = ReadAttention if isinstance(module, nn.MultiheadAttention) else ReadProjection
        if type(module) not in (nn.Linear, nn.MultiheadAttention) or _in_features(module) != place.channels:
            expected = f"expected an nn.Linear or nn.MultiheadAttention of {place.channels} inputs"
            raise ConfigError(f"{place.module}: found a {module}; {expected}".partition("\n")[0])
        projection = _replaced(model, place.module, module, cls)
        rows = projection.frozen_weight.shape[0]
        if place.part == "qkv" and rows % 3:
            raise ConfigError(f"{place.module}: its weight has {rows} rows; expected those of q, k and v")
        projection.part = place.part
        blocks.setdefault(place.block, []).append(projection)
    adjust_rows(blocks, config, training=model.training)


def _adjust_outputs(model: nn.Module, config: HyperETConfig, places: Sequence[Place]) -> None:
    kinds = {(place.channels, place.channel_dim) for place in places}
    if config.share and len(kinds) > 1:
        found = ", ".join(f"{channels} along axis {dim}" for channels, dim in sorted(kinds))
        raise ConfigError(f"share=true: the modules have different channels, {found}; expected share=false")
    shared: list[OutputAdjustment] = []
    for place in places:
        module = model.get_submodule(place.module)
        site = shared[0] if config.share and shared else None
        if site is None:
            (adjustment,) = adjustments(config, 1, place.channels, place.channel_dim, model)
            name = "output" if config.share else f"output.{place.module}"
            site = OutputAdjustment(name, adjustment, BEHIND).train(model.training)
            shared.append(site)
        cls = adjusted_class(type(module))  # type: ignore[arg-type]  # a class is hashable
        adjusted = _replaced(model, place.module, module, cls)
        adjusted.hyperet_adjustment, adjusted.hyperet_module = site, place.module


_Converted = TypeVar("_Converted", bound=nn.Module)


def _replaced(model: nn.Module, name: str, module: nn.Module, cls: type[_Converted]) -> _Converted:
    """`module` turned into one of class `cls` in every place where the model has it."""
    if "forward" in vars(module):
        raise ConfigError(
            f"{name}: the module has a forward of its own, as of a compiler; adapters first, then compile"
        )
    new = converted(module, cls)
    replace_module(model, module, new)
    return new


def _in_features(module: nn.Module) -> int:
    features = getattr(module, "in_features", getattr(module, "embed_dim", None))
    return features if isinstance(features, int) else -1


def _channels(name: str, module: nn.Module, channels: int | None, channel_dim: int | None) -> tuple[int, int]:
    """Channels of a module's output and their axis: as stated, else as its class has them."""
    known: tuple[int, int] | None = None
    width = None  # of classes whose axis may be either
    if isinstance(module, AdapterModule) or type(module).forward is nn.Module.forward:
        found = f"{name}, a {type(module).__name__}, which returns nothing"
        raise ConfigError(rf"the pattern matches {found}; expected one for what is in it, such as '{name}\.\d+$'")
    if isinstance(module, nn.Linear):
        known = module.out_features, -1
    elif isinstance(module, _CONVOLUTIONS):
        known = module.out_channels, 1
    elif isinstance(module, nn.LayerNorm):
        width = module.normalized_shape[-1]
        known = (width, -1) if type(module) is nn.LayerNorm else None
    if known is None and (channels is None or channel_dim is None):
        raise ConfigError(
            f"{name}: the channels of a {type(module).__name__} are not known; state channels= and channel_dim=, "
            "which is -1 for (B, N, C) and 1 for (B, C, H, W)"
        )
    own = known or (width or 0, 0)
    if own[0] and channels not in (None, own[0]):
        raise ConfigError(f"{name}: channels={channels}, but this {type(module).__name__} returns {own[0]}")
    return (own[0] if channels is None else channels), (own[1] if channel_dim is None else channel_dim)


def _config(
    model: nn.Module, config: HyperETConfig | Mapping[str, object] | None, sites: tuple[str, ...] | None
) -> HyperETConfig:
    """The configuration of an encoder's adapters. Raises ConfigError for one, or a model, that can have none."""
    if isinstance(model, host.Sam3Image):
        raise ConfigError(
            'found SAM 3\'s image model; expected an encoder: inject(model, {"scheme": "P"}) is for SAM 3'
        )
    check_uncompiled(model)
    if adapter_config(model) is not None or adapter_sites(model):
        raise ConfigError("the model already has adapters: take them out by remove_adapter(model)")
    if not isinstance(config, HyperETConfig):
        config = HyperETConfig.from_mapping(config or {})
    for name, without in _OF_SAM3.items():
        if (value := getattr(config, name)) != without:
            raise ConfigError(f"{name}={value!r} is for SAM 3's sites; expected {name}={without!r} for an encoder")
    return replace(config, scheme="none", sites=sites)
