"""Fold adapters into the base weights, exactly, where they fold: then the model is SAM 3's own again.

`trunk_qv` adjusts weights, so it folds in every geometry. `fpn` and `prompt` adjust the output of a linear layer: they
fold where the adjustment is linear, which is `euclidean`, and `mobius` as long as no feature reaches its norm cap.
Controls fold up to rounding, those that tune the base exactly. What is folded is what the adapters are at their dial.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.hyperbolic.fused import norm
from sam3_hyperet.hyperbolic.numerics import max_norm, sqrt_curvature
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.inject import adapters_switched, remove_adapter, unchanged_on_error
from sam3_hyperet.modeling.parameters import adapter_parameters, adapter_sites
from sam3_hyperet.modeling.wrappings import unwrapped

_Model = TypeVar("_Model", bound=nn.Module)
PROMPTS = ("object", "person", "sky", "small red car", "the window of a house", "group of trees in the background")


def merge(model: _Model, images: Tensor | None = None, prompts: Sequence[str] = PROMPTS) -> _Model:
    """Fold the model's adapters, at their dial, into its base weights, in place.

    It is then SAM 3's own model, or another encoder's, in evaluation mode.
    The norm cap of a `mobius` adjustment is checked on (B, 3, S, S) normalised images (None: a flat, a striped and a
    noisy one; another encoder needs some) for features of the image, and on `prompts` for the text. Raises ConfigError
    for no adapters, one that does not fold, named with the reason, or a value that is not a finite number; the model is
    then unchanged.
    """
    given, model = model, unwrapped(model)
    if adapter_config(model) is None:
        raise ConfigError("the model has no adapters to merge; call inject or load_adapter first")
    for name, parameter in adapter_parameters(model):
        if not parameter.isfinite().all():
            raise ConfigError(f"{name} has values that are not finite numbers; nothing was merged")
    with unchanged_on_error(model), torch.no_grad():
        model.eval()
        folded = [pair for adapter in adapter_sites(model).values() for pair in adapter.fold(model)]
        with adapters_switched(model, True):
            _check_caps(model, images, prompts)
        remove_adapter(model)
        for tensor, value in folded:
            tensor.copy_(value)
    return given


def _check_caps(model: nn.Module, images: Tensor | None, prompts: Sequence[str]) -> None:
    """Fail where a feature reaches the norm cap of a `mobius` adjustment."""
    passes = _passes(model, images, prompts)
    for adapter in adapter_sites(model).values():
        adjustments = ((adapter.site_name(k), m) for k, m in adapter.named_modules() if isinstance(m, HyperET))
        capped = {site: adjustment for site, adjustment in adjustments if adjustment.geometry == "mobius"}
        if capped and (kind := adapter.name.partition(".")[0]) in passes:
            for site, ratio in _longest(capped, passes[kind]).items():
                if ratio >= 1.0:
                    raise ConfigError(
                        f"site {site} does not fold into the base weights: a feature is {ratio:.2f} times as long as "
                        "the norm cap of geometry mobius, which is not linear there"
                    )


def _passes(model: nn.Module, images: Tensor | None, prompts: Sequence[str]) -> dict[str, Callable[[], object]]:
    """What runs the features of each kind of site that folds into a layer."""
    if not isinstance(model, host.Sam3Image):

        def run() -> object:
            if images is None:
                raise ConfigError(
                    "merge(model, images): needs the encoder's input, on which mobius' norm cap is checked"
                )
            return model(images)

        return {"output": run}

    def run_one_by_one() -> None:
        for pixels in _patterns(model) if images is None else images:
            model.backbone.forward_image(pixels[None].to(model.device))

    return {
        "fpn": run_one_by_one,
        "prompt": lambda: model.backbone.forward_text(list(prompts), device=model.device),
    }


def _longest(adjustments: dict[str, HyperET], run: Callable[[], object]) -> dict[str, float]:
    """Longest adjusted feature during `run` by site, in units of the norm cap."""
    longest = dict.fromkeys(adjustments, 0.0)

    def measure(site: str, module: HyperET, inputs: tuple[Tensor, ...]) -> None:
        z = module.matrix.matvec(inputs[0].float(), module.channel_dim)
        length = (sqrt_curvature(module.curvature()) * norm(z, module.channel_dim)).max()
        longest[site] = max(longest[site], length.item() / max_norm(z.dtype))

    with ExitStack() as hooks:
        for site, adjustment in adjustments.items():
            hooks.enter_context(adjustment.register_forward_pre_hook(partial(measure, site)))
        run()
    return longest


def _patterns(model: host.Sam3Image) -> Tensor:
    side = resolution(model)
    stripes = (torch.arange(side) // 8 % 2 * 2.0 - 1.0).expand(3, side, side)
    noise = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    return torch.stack([torch.zeros(3, side, side), stripes, noise])
