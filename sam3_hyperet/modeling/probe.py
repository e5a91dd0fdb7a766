"""Watch the hyperbolic radius of features on both sides of every adjustment, through forward hooks."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.adapters.attention import HyperbolicGates
from sam3_hyperet.hyperbolic.radius import normalized_radius, radius_statistics, saturation_rate
from sam3_hyperet.hyperbolic.radius import radius as hyperbolic_radius
from sam3_hyperet.modeling.parameters import adapter_sites
from sam3_hyperet.modeling.sites.trunk_qv import RowAdjustment

BINS = 40


class SiteRadii:
    """Sums over the features that one adjustment has seen, before (row 0) and after it (row 1).

    Attributes:
        histogram: (2, BINS) counts of positions by normalised radius, in equal bins of [0, 1].
        positions: how many there were.
    """

    def __init__(self) -> None:
        self.histogram = torch.zeros(2, BINS, dtype=torch.int64)
        self.positions = 0
        self._sums = torch.zeros(2, 3, dtype=torch.float64)

    def add(self, before: Tensor, after: Tensor, adjustment: HyperET) -> None:
        """Count all positions of one pair of feature tensors."""
        c, dim = adjustment.curvature(), adjustment.channel_dim
        for row, features in enumerate((before, after)):
            v = features.detach().float()
            normalised = normalized_radius(v, c, dim).cpu()
            self.histogram[row] += _counts(normalised)
            self._sums[row] += torch.stack(
                [
                    hyperbolic_radius(v, dim).double().sum().cpu(),
                    normalised.double().sum(),
                    saturation_rate(v, c, dim).double().cpu() * normalised.numel(),
                ]
            )
        self.positions += normalised.numel()

    def mean(self) -> Tensor:
        """(2, 3): mean hyperbolic radius, mean normalised radius and saturation rate, before and after."""
        return self._sums / max(1, self.positions)


class RadiusProbe:
    """Context in which the features around every adjustment of features are watched (scheme P adjusts weights).

    Args:
        model: with adapters.
        accumulate: sum over all features seen, into `sites`; else only the latest are kept, for `latest`.
    """

    def __init__(self, model: nn.Module, accumulate: bool = False) -> None:
        self._modules: dict[str, HyperET] = {}
        self._reporting: dict[str, HyperET | HyperbolicGates] = {}
        for site in adapter_sites(model).values():
            for name, module in site.named_modules():
                if isinstance(module, HyperET | HyperbolicGates):
                    self._reporting[site.site_name(name)] = module
                if isinstance(module, HyperET) and not isinstance(site, RowAdjustment):
                    self._modules[site.site_name(name)] = module
        self._accumulate = accumulate
        self._latest: dict[str, tuple[Tensor, Tensor]] = {}
        self.sites: dict[str, SiteRadii] = {name: SiteRadii() for name in self._modules}

    def __enter__(self) -> RadiusProbe:
        self._handles = [
            module.register_forward_hook(self._hook(name), always_call=False) for name, module in self._modules.items()
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def latest(self) -> dict[str, float]:
        """Figures of the features seen last, as metrics: `radius/<site>/mean`…, `base/radius/<site>/mean`…, and of the
        adjustments themselves: `adapter/<site>/identity_gap`, `adapter/<site>/curvature`…"""
        figures: dict[str, float] = {}
        for name, (before, after) in self._latest.items():
            module = self._modules[name]
            for prefix, features in (("base/", before), ("", after)):
                statistics = radius_statistics(features, module.curvature(), module.channel_dim)
                for key in ("radius/mean", "radius/std", "normalized_radius/mean", "saturation"):
                    kind, _, figure = key.rpartition("/")
                    figures[f"{prefix}{kind or 'radius'}/{name}/{figure}"] = statistics[key]
        for name, reporting in self._reporting.items():
            figures |= {f"adapter/{name}/{key}": value for key, value in reporting.statistics().items()}
        return figures

    @torch.no_grad()
    def histograms(self) -> dict[str, Tensor]:
        """(BINS,) counts of the positions seen last by normalised radius, in equal bins of [0, 1], on the CPU:
        `normalized_radius/<site>` and `base/normalized_radius/<site>`."""
        counts = {}
        for name, pair in self._latest.items():
            module = self._modules[name]
            for prefix, features in zip(("base/", ""), pair, strict=True):
                normalised = normalized_radius(features.float(), module.curvature(), module.channel_dim)
                counts[f"{prefix}normalized_radius/{name}"] = _counts(normalised)
        return counts

    def _hook(self, name: str) -> Any:
        def hook(module: HyperET, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if self._accumulate:
                self.sites[name].add(inputs[0], output, module)
            else:
                self._latest[name] = (inputs[0].detach(), output.detach())

        return hook


def _counts(normalised: Tensor) -> Tensor:
    return torch.histc(normalised, BINS, 0.0, 1.0).long().cpu()
