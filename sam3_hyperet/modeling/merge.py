"""Fold adapters into the base weights, exactly, where they fold: then the model is SAM 3's own again.

`trunk_qv` adjusts weights, so it folds in every geometry. `fpn` and `prompt` adjust the output of a linear layer: they
fold where the adjustment is linear, which is `euclidean`, and `moebius` as long as no feature reaches its norm cap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.adapters.conversion import converted
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.hyperbolic.fused import norm
from sam3_hyperet.hyperbolic.numerics import max_norm, sqrt_curvature
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.controls.merging import merge_control
from sam3_hyperet.modeling.sites.trunk_qv import HyperETProjection

PROMPTS = ("object", "person", "sky", "small red car", "the window of a house", "group of trees in the background")
_DOES_NOT_FOLD = {
    "encoder_layer": "it follows the residual sum of a layer, which no single linear layer makes",
    "attention": "its scores and means are not those of a dot product",
    "encoder_out": "the segmentation head reads the same memory without it, and the decoder adds positions after it",
    "pixel_decoder": "the detector reads the same features without it, and its last level is a residual sum",
}


def merge(model: host.Sam3Image, images: Tensor | None = None, prompts: Sequence[str] = PROMPTS) -> host.Sam3Image:
    """Fold the model's adapters into its base weights, in place: it is then SAM 3's own model, in evaluation mode.

    Args:
        images: (B, 3, S, S) normalised pictures on which the norm cap of a `moebius` adjustment of the pyramid is
            checked; None takes a flat, a striped and a noisy one.
        prompts: on which that of the text is checked.

    Raises:
        ConfigError: no adapters, or one that does not fold, named with the reason; the model is then unchanged.
    """
    config = getattr(model, "hyperet_config", None)
    if config is None:
        raise ConfigError("the model has no adapters to merge; call inject or load_adapter first")
    if config.adapter != "hyperet":
        return merge_control(model)
    for site in config.resolved_sites:
        if site in _DOES_NOT_FOLD:
            raise ConfigError(f"site {site} does not fold into the base weights: {_DOES_NOT_FOLD[site]}")
    model.eval()
    folded: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        if "fpn" in config.resolved_sites:
            folded += _fold_fpn(model, config, _pictures(model) if images is None else images)
        if "prompt" in config.resolved_sites:
            folded += _fold_prompt(model, prompts)
        if "trunk_qv" in config.resolved_sites:
            folded += [(qkv.weight, qkv.adjustment(qkv.weight)) for qkv in _projections(model).values()]
        for parameter, value in folded:
            parameter.copy_(value)
    _restore(model)
    return model


def _fold_fpn(model: host.Sam3Image, config: HyperETConfig, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    adjustment = model.backbone.fpn_adjustment
    adjustments = {f"fpn.{level}": adjustment.level(level) for level in adjustment.indices}
    maps = _linear_maps(adjustments, lambda: model.backbone.forward_image(images.to(model.device)))
    convolutions = [model.backbone.vision_backbone.convs[level][-1] for level in adjustment.indices]
    return [fold for layer, m in zip(convolutions, maps, strict=True) for fold in _after(layer, m)]


def _fold_prompt(model: host.Sam3Image, prompts: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    adjustments = {"prompt": model.backbone.prompt_adjustment.hyperet}
    (m,) = _linear_maps(adjustments, lambda: model.backbone.forward_text(list(prompts), device=model.device))
    return _after(model.backbone.language_backbone.resizer, m)


def _linear_maps(adjustments: dict[str, HyperET], run: Callable[[], object]) -> list[Tensor]:
    """Each adjustment as a (D, D) float64 matrix; `run` makes the model send the features through that are checked."""
    for site, adjustment in adjustments.items():
        if adjustment.geometry not in ("euclidean", "moebius"):
            raise ConfigError(
                f"site {site} does not fold into the base weights: geometry {adjustment.geometry} is not a linear map "
                "of features; euclidean is, and moebius below its norm cap"
            )
    _check_caps({site: a for site, a in adjustments.items() if a.geometry == "moebius"}, run)
    maps = []
    for adjustment in adjustments.values():
        matrix = adjustment.matrix.as_matrix().double()
        if adjustment.alpha is not None:
            identity = torch.eye(len(matrix)).to(matrix)
            matrix = identity + adjustment.alpha.double() * (matrix - identity)
        maps.append(matrix)
    return maps


def _check_caps(adjustments: dict[str, HyperET], run: Callable[[], object]) -> None:
    longest = dict.fromkeys(adjustments, 0.0)

    def watch(site: str) -> Callable[[HyperET, tuple[Tensor, ...]], None]:
        def before(module: HyperET, inputs: tuple[Tensor, ...]) -> None:
            z = module.matrix.matvec(inputs[0].float(), module.channel_dim)
            length = (sqrt_curvature(module.curvature()) * norm(z, module.channel_dim)).max()
            longest[site] = max(longest[site], length.item() / max_norm(z.dtype))

        return before

    handles = [adjustment.register_forward_pre_hook(watch(site)) for site, adjustment in adjustments.items()]
    try:
        if adjustments:
            run()
    finally:
        for handle in handles:
            handle.remove()
    for site, length in longest.items():
        if length >= 1.0:
            raise ConfigError(
                f"site {site} does not fold into the base weights: a feature is {length:.2f} times as long as the norm "
                "cap of geometry moebius, which is not linear there"
            )


def _after(layer: nn.Linear | nn.Conv2d, matrix: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of `layer` followed by `matrix` along its output channels."""
    folded = [(layer.weight, torch.tensordot(matrix, layer.weight.double(), 1))]
    return folded if layer.bias is None else [*folded, (layer.bias, matrix @ layer.bias.double())]


def _pictures(model: host.Sam3Image) -> Tensor:
    side = resolution(model)
    stripes = (torch.arange(side) // 8 % 2 * 2.0 - 1.0).expand(3, side, side)
    noise = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    return torch.stack([torch.zeros(3, side, side), stripes, noise])


def _projections(model: host.Sam3Image) -> dict[str, HyperETProjection]:
    return {name: module for name, module in model.named_modules() if isinstance(module, HyperETProjection)}


def _restore(model: host.Sam3Image) -> None:
    """Put SAM 3's own classes back."""
    for name, projection in _projections(model).items():
        parent = model.get_submodule(name.rpartition(".")[0])
        parent.qkv = converted(projection, nn.Linear)
        _drop(parent.qkv, "adjustment", "_kept")
    model.backbone = converted(model.backbone, host.SAM3VLBackbone)
    _drop(model.backbone, "fpn_adjustment", "prompt_adjustment")
    del model.hyperet_config


def _drop(module: nn.Module, *names: str) -> None:
    for name in names:
        module._modules.pop(name, None)
        vars(module).pop(name, None)
