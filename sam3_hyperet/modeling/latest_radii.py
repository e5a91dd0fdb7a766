"""Hyperbolic radii of the latest features in front of and behind every adjustment: figures, histograms and maps."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.adapters.attention import HyperbolicGates
from sam3_hyperet.hyperbolic.fused import norm
from sam3_hyperet.hyperbolic.radius import normalized_radius, radius_statistics
from sam3_hyperet.modeling.parameters import adapter_sites, base_state_dict
from sam3_hyperet.modeling.probe import FeatureProbe
from sam3_hyperet.modeling.radius_sums import metric_name, position_counts
from sam3_hyperet.modeling.sites.site import PyramidAdjustment

_IN_FRONT = {  # the kinds of sites whose adjustments change what another site gets
    "fpn": ("trunk_qv",),
    "prompt": (),
    "encoder_layer": ("trunk_qv", "fpn", "prompt", "attention"),
    "encoder_out": ("trunk_qv", "fpn", "prompt", "attention", "encoder_layer"),
    "pixel_decoder": ("trunk_qv", "fpn", "prompt", "attention", "encoder_layer"),
}


class _Call(NamedTuple):
    """Features in front of and behind an adjustment, and which of their positions are `real`, None for all."""

    features: tuple[Tensor, Tensor]
    real: Tensor | None

    @property
    def behind(self) -> Tensor:
        return self.features[1]


class LatestRadii(FeatureProbe):
    """A probe that keeps the latest features alone; of an adjustment that levels or layers share, those of each."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._latest: dict[str, list[_Call]] = {}

    def latest(self) -> dict[str, float]:
        """Metrics of the latest features, and of the adjustments themselves.

        `radius/<site>/mean`… behind each adjustment, and in front of it `base/radius/<site>/mean`… where these features
        are the base's, else `radius/<site>/mean_before`…: of a site behind another, or where base weights train, they
        are not. `adapter/<site>/identity_gap`, `adapter/<site>/curvature`…
        """
        metrics: dict[str, float] = {}
        of_base = self._sites_of_base()
        for name, calls in self._latest.items():
            in_front = ("base/", "") if name in of_base else ("", "_before")
            for side, (prefix, suffix) in enumerate((in_front, ("", ""))):
                statistics = self._statistics(name, side, calls)
                for key in ("radius/mean", "radius/std", "normalized_radius/mean", "saturation"):
                    metrics[f"{prefix}{metric_name(key, name)}{suffix}"] = statistics[key]
        for name, reporting in self._reporting.items():
            metrics |= {f"adapter/{name}/{key}": value for key, value in reporting.statistics().items()}
        return metrics

    @torch.no_grad()
    def histograms(self) -> dict[str, Tensor]:
        """(BINS,) counts of the latest positions by normalised radius, on the CPU; names as in `latest`."""
        counts, of_base = {}, self._sites_of_base()
        for name, calls in self._latest.items():
            key = f"normalized_radius/{name}"
            labels = f"base/{key}" if name in of_base else f"{key}_before", key
            for side, label in enumerate(labels):
                of_calls = [position_counts(self._normalised(name, call.features[side]), call.real) for call in calls]
                counts[label] = torch.stack(of_calls).sum(dim=0).cpu()
        return counts

    @torch.no_grad()
    def maps(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Normalised radii (h, w) in front of and behind every adjustment of a feature map (1, D, h, w).

        Names of an adjustment that levels share are of each, such as "fpn 72×72".
        """
        maps = {}
        for name, calls in self._latest.items():
            for call in (call for call in calls if call.behind.ndim == 4):
                front, behind = (self._normalised(name, features)[0].cpu().numpy() for features in call.features)
                maps[name if len(calls) == 1 else f"{name} {front.shape[0]}×{front.shape[1]}"] = front, behind
        return maps

    def _statistics(self, name: str, side: int, calls: list[_Call]) -> dict[str, float]:
        """Radius statistics of all positions of the features on a side, but for padding."""
        module, lengths = self._modules[name], []
        for call in calls:
            length = norm(call.features[side].float(), module.channel_dim).squeeze(module.channel_dim)
            lengths.append(length.flatten() if call.real is None else length[call.real])
        return radius_statistics(torch.cat(lengths)[:, None], module.curvature(), dtype=calls[0].features[side].dtype)

    def _normalised(self, name: str, features: Tensor) -> Tensor:
        module = self._modules[name]
        return normalized_radius(features.float(), module.curvature(), module.channel_dim)

    def _sites_of_base(self) -> set[str]:
        """Sites whose features in front are the base's."""
        if any(parameter.requires_grad for parameter in base_state_dict(self._model).values()):
            return set()
        kinds = {name.partition(".")[0] for name in self._reporting}
        layers = [name for name in self._modules if name.startswith("encoder_layer.")]
        first = min(layers, key=lambda name: int(name.rpartition(".")[2]), default="")
        later = self._modules.keys() & {"encoder_layer", *layers} - {first}
        return {name for name in self._modules.keys() - later if kinds.isdisjoint(_IN_FRONT[name.partition(".")[0]])}

    def _find(self) -> None:
        super()._find()
        self._reporting, self._places = _reporting(self._model), _places(self._model)

    def _record(self, name: str, module: HyperET, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        places, by_levels = self._places[name]
        calls = self._latest.get(name, [])
        if by_levels:  # one of them may be called again, for more prompts; layers are by turns
            calls = [call for call in calls if call.behind.shape[2:] != output.shape[2:]]
        self._latest[name] = [*calls, _Call((inputs[0].detach(), output.detach()), self.real(name))][-places:]


def _reporting(model: nn.Module) -> dict[str, HyperET | HyperbolicGates]:
    """What has figures of its own, by site: adjustments, also of weights, and gates."""
    return {
        site.site_name(name): module
        for site in adapter_sites(model).values()
        for name, module in site.named_modules()
        if isinstance(module, HyperET | HyperbolicGates)
    }


def _places(model: nn.Module) -> dict[str, tuple[int, bool]]:
    """How many levels or layers share the adjustments of a site, and whether these are levels."""
    holders = Counter(id(child) for module in model.modules() for child in module.children())
    places: dict[str, tuple[int, bool]] = {}
    for site in adapter_sites(model).values():
        shared, by_levels = max(1, holders[id(site)]), False
        if isinstance(site, PyramidAdjustment) and len(site.adjustments) == 1:
            shared, by_levels = len(site.indices), True
        adjusted = [name for name, module in site.named_modules() if isinstance(module, HyperET)]
        places |= {site.site_name(name): (shared, by_levels) for name in adjusted}
    return places
