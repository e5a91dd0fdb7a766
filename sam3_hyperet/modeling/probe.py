"""Forward hooks on every adjustment of features, and the base as the same hooks see it."""

from abc import ABC, abstractmethod
from functools import partial
from typing import TypeVar

from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.adjustment import HyperET, Unadjusted
from sam3_hyperet.modeling.copies import shared_copy
from sam3_hyperet.modeling.parameters import adapter_sites, base_state_dict
from sam3_hyperet.modeling.sites.tokens import PromptAdjustment
from sam3_hyperet.modeling.sites.trunk_qv import RowAdjustment

P = TypeVar("P", bound="FeatureProbe")


class FeatureProbe(ABC):
    """Context in which each adjustment of features (scheme P adjusts weights) hands over what it gets and returns."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._padding: dict[str, Tensor | None] = {}  # of the texts that a site adjusts, as it was called last
        self._find()

    def __enter__(self: P) -> P:
        self._find()  # others have taken their places where the model was compiled since
        self._handles = [m.register_forward_hook(partial(self._record, name)) for name, m in self._modules.items()]
        texts = [site for site in adapter_sites(self._model).values() if isinstance(site, PromptAdjustment)]
        self._handles += [site.register_forward_pre_hook(self._keep_padding) for site in texts]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _find(self) -> None:
        self._modules = feature_adjustments(self._model)

    def real(self, name: str) -> Tensor | None:
        """Which positions of a site's present features are no padding of texts, (tokens, B); None for all."""
        padding = self._padding.get(name)
        return None if padding is None else ~padding.t()

    def _keep_padding(self, site: PromptAdjustment, inputs: tuple[Tensor | None, ...]) -> None:
        self._padding[site.name] = inputs[2] if len(inputs) > 2 else None

    @abstractmethod
    def _record(self, name: str, module: HyperET, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Take the features of one call of the adjustment at a site."""


def feature_adjustments(model: nn.Module) -> dict[str, HyperET]:
    """The adjustments of features, by the names of their sites."""
    return {
        site.site_name(name): module
        for site in adapter_sites(model).values()
        if not isinstance(site, RowAdjustment)
        for name, module in site.named_modules()
        if isinstance(module, HyperET)
    }


def watchable_base(model: host.Sam3Image, base: host.Sam3Image | None = None) -> host.Sam3Image:
    """The base of an adapted model, which passes its features through the model's sites unchanged, for a probe.

    Radii are at the curvature of the model's adjustments. All tensors are shared with the model, or with `base`,
    without adapters, where the model has trained base weights.
    """
    twin = shared_copy(model)
    for name, tensor in base_state_dict(base).items() if base is not None else ():
        owner, _, attribute = name.rpartition(".")
        setattr(twin.get_submodule(owner), attribute, tensor)
    for site in adapter_sites(twin).values():
        adjustments = [module for module in site.modules() if isinstance(module, HyperET)]
        site.enabled = site.enabled and bool(adjustments) and not isinstance(site, RowAdjustment)
        for module in adjustments:
            module.__class__ = Unadjusted
    return twin
