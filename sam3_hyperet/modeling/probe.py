"""Hyperbolic radii of features in front of and behind every adjustment, by forward hooks."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.adjustment import HyperET, Unadjusted
from sam3_hyperet.adapters.attention import HyperbolicGates
from sam3_hyperet.hyperbolic.fused import norm
from sam3_hyperet.hyperbolic.radius import normalized_radius, radius_statistics, saturation_rate
from sam3_hyperet.hyperbolic.radius import radius as hyperbolic_radius
from sam3_hyperet.modeling.copies import shared_copy
from sam3_hyperet.modeling.parameters import adapter_sites, base_state_dict
from sam3_hyperet.modeling.sites.site import PyramidAdjustment
from sam3_hyperet.modeling.sites.trunk_qv import RowAdjustment

BINS = 40
_IN_FRONT = {  # the kinds of sites whose adjustments change what another site gets
    "fpn": ("trunk_qv",),
    "prompt": (),
    "encoder_layer": ("trunk_qv", "fpn", "prompt", "attention"),
    "encoder_out": ("trunk_qv", "fpn", "prompt", "attention", "encoder_layer"),
    "pixel_decoder": ("trunk_qv", "fpn", "prompt", "attention", "encoder_layer"),
}


class SiteRadii:
    """Sums over all `positions` of the features of one adjustment, in front of it (row 0) and behind it (row 1)."""

    def __init__(self) -> None:
        self._histogram = torch.zeros(2, BINS, dtype=torch.int64)
        self._sums: list[Tensor] = []  # (2, 3) of each pass, added up in float64, which not every device has
        self.positions = 0

    def add(self, before: Tensor, after: Tensor, adjustment: HyperET) -> None:
        """Count all positions of one pair of feature tensors, without waiting for their device."""
        c, dim = adjustment.curvature(), adjustment.channel_dim
        self._histogram = self._histogram.to(before.device, non_blocking=True)
        sums = []
        for row, features in enumerate((before, after)):
            v = features.detach().float()
            normalised = normalized_radius(v, c, dim)
            self._histogram[row] += _counts(normalised)
            saturated = saturation_rate(v, c, dim, features.dtype) * normalised.numel()
            sums.append(torch.stack([hyperbolic_radius(v, dim).sum(), normalised.sum(), saturated]))
        self._sums.append(torch.stack(sums))
        self.positions += normalised.numel()

    @property
    def histogram(self) -> Tensor:
        """(2, BINS) counts of positions by normalised radius, in equal bins of [0, 1], on the CPU."""
        return self._histogram.cpu()

    def mean(self) -> Tensor:
        """(2, 3) on the CPU: mean hyperbolic radius, mean normalised radius and saturation rate, before and after."""
        sums = torch.stack(self._sums).cpu() if self._sums else torch.zeros(1, 2, 3)
        return sums.double().sum(dim=0) / max(1, self.positions)


class RadiusProbe:
    """Context that records the features around every adjustment of features (scheme P adjusts weights).

    `accumulate`: sum over all features, for `take`; else only the latest are kept, for `latest` and `maps`. Of an
    adjustment that several levels or layers share, they are the latest of each.
    """

    def __init__(self, model: nn.Module, accumulate: bool = False) -> None:
        self._model = model
        self._find()
        self._accumulate = accumulate
        self._latest: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.sites: dict[str, SiteRadii] = {name: SiteRadii() for name in self._modules}

    def _find(self) -> None:
        """Look up the adjustments, by their sites."""
        self._modules: dict[str, HyperET] = {}
        self._reporting: dict[str, HyperET | HyperbolicGates] = {}
        self._places: dict[str, tuple[int, bool]] = {}  # how many have the adjustment, and whether these are levels
        holders = Counter(id(child) for module in self._model.modules() for child in module.children())
        for site in adapter_sites(self._model).values():
            places, by_levels = max(1, holders[id(site)]), False
            if isinstance(site, PyramidAdjustment) and len(site.adjustments) == 1:
                places, by_levels = len(site.indices), True
            for name, module in site.named_modules():
                if isinstance(module, HyperET | HyperbolicGates):
                    self._reporting[site.site_name(name)] = module
                if isinstance(module, HyperET) and not isinstance(site, RowAdjustment):
                    self._modules[site.site_name(name)] = module
                    self._places[site.site_name(name)] = places, by_levels

    def __enter__(self) -> "RadiusProbe":
        self._find()  # others have taken their places where the model was compiled since
        self._handles = [m.register_forward_hook(partial(self._record, name)) for name, m in self._modules.items()]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def take(self) -> dict[str, SiteRadii]:
        """The sums by site, which start anew."""
        taken, self.sites = self.sites, {name: SiteRadii() for name in self._modules}
        return taken

    def curvatures(self) -> dict[str, float]:
        """The curvature at each site."""
        return {name: float(module.curvature()) for name, module in self._modules.items()}

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
            for (prefix, suffix), features in zip((in_front, ("", "")), zip(*calls, strict=True), strict=True):
                statistics = self._statistics(name, features)
                for key in ("radius/mean", "radius/std", "normalized_radius/mean", "saturation"):
                    kind, _, statistic = key.rpartition("/")
                    metrics[f"{prefix}{kind or 'radius'}/{name}/{statistic}{suffix}"] = statistics[key]
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
            for label, features in zip(labels, zip(*calls, strict=True), strict=True):
                counts[label] = torch.stack([_counts(self._normalised(name, one)) for one in features]).sum(dim=0).cpu()
        return counts

    @torch.no_grad()
    def maps(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Normalised radii (h, w) in front of and behind every adjustment of a feature map (1, D, h, w).

        Names of an adjustment that levels share are of each, such as "fpn 72×72".
        """
        maps = {}
        for name, calls in self._latest.items():
            for pair in (pair for pair in calls if pair[1].ndim == 4):
                front, behind = (self._normalised(name, features)[0].cpu().numpy() for features in pair)
                maps[name if len(calls) == 1 else f"{name} {front.shape[0]}×{front.shape[1]}"] = front, behind
        return maps

    def _statistics(self, name: str, calls: Sequence[Tensor]) -> dict[str, float]:
        """Radius statistics of all positions of the features."""
        module = self._modules[name]
        lengths = torch.cat([norm(features.float(), module.channel_dim).flatten() for features in calls])
        return radius_statistics(lengths[:, None], module.curvature(), dtype=calls[0].dtype)

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

    def _record(self, name: str, module: HyperET, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self._accumulate:
            self.sites[name].add(inputs[0], output, module)
        else:
            places, by_levels = self._places[name]
            calls = self._latest.get(name, [])
            if by_levels:  # one of them may be called again, for more prompts; layers are by turns
                calls = [pair for pair in calls if pair[1].shape[2:] != output.shape[2:]]
            self._latest[name] = [*calls, (inputs[0].detach(), output.detach())][-places:]


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


def _counts(normalised: Tensor) -> Tensor:
    return torch.histc(normalised, BINS, 0.0, 1.0).long()
