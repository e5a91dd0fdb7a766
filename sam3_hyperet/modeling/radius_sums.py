"""Hyperbolic radii in front of and behind every adjustment, summed over all features that pass, but for padding."""

import torch
from torch import Tensor, nn

from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.hyperbolic.radius import is_saturated, normalized_radius
from sam3_hyperet.hyperbolic.radius import radius as hyperbolic_radius
from sam3_hyperet.modeling.probe import FeatureProbe

BINS = 40


def metric_name(statistic: str, site: str) -> str:
    """The metric `radius/<site>/mean` of the statistic `radius/mean`; `saturation` is a radius's, too."""
    kind, _, name = statistic.rpartition("/")
    return f"{kind or 'radius'}/{site}/{name}"


def position_counts(normalised: Tensor, real: Tensor | None = None) -> Tensor:
    """(BINS,) counts of positions by normalised radius, in equal bins of [0, 1]; of all, or of the `real` ones."""
    counted = normalised if real is None else torch.where(real, normalised, -1.0)  # below the first bin
    return torch.histc(counted, BINS, 0.0, 1.0).long()


class SiteRadii:
    """Sums over all positions of the features of one adjustment, in front of it (row 0) and behind it (row 1)."""

    def __init__(self) -> None:
        self._histogram = torch.zeros(2, BINS, dtype=torch.int64)
        self._sums: list[Tensor] = []  # (2, 3) of each pass, added up in float64, which not every device has
        self._whole, self._masked = 0, list[Tensor]()  # positions: of passes without padding, and of each with some

    def add(self, before: Tensor, after: Tensor, adjustment: HyperET, real: Tensor | None = None) -> None:
        """Count all positions of one pair of feature tensors, or the `real`, without waiting for their device."""
        c, dim = adjustment.curvature(), adjustment.channel_dim
        self._histogram = self._histogram.to(before.device, non_blocking=True)
        sums = []
        for row, features in enumerate((before, after)):
            v = features.detach().float()
            normalised = normalized_radius(v, c, dim)
            self._histogram[row] += position_counts(normalised, real)
            saturated = is_saturated(v, c, dim, features.dtype).float()
            values = torch.stack([hyperbolic_radius(v, dim), normalised, saturated])
            sums.append((values if real is None else torch.where(real, values, 0.0)).flatten(1).sum(dim=1))
        self._sums.append(torch.stack(sums))
        if real is None:
            self._whole += normalised.numel()
        else:
            self._masked.append(real.sum())

    @property
    def positions(self) -> int:
        """How many positions were counted."""
        return self._whole + (int(torch.stack(self._masked).sum()) if self._masked else 0)

    @property
    def histogram(self) -> Tensor:
        """(2, BINS) counts of positions by normalised radius, in equal bins of [0, 1], on the CPU."""
        return self._histogram.cpu()

    def sums(self) -> Tensor:
        """(2, 3) on the CPU: sums of hyperbolic radius, normalised radius and saturation, before and after."""
        sums = torch.stack(self._sums).cpu() if self._sums else torch.zeros(1, 2, 3)
        return sums.double().sum(dim=0)

    def mean(self) -> Tensor:
        """The `sums` of each position."""
        return self.sums() / max(1, self.positions)


class RadiusSums(FeatureProbe):
    """A probe that sums the radii of all features, by site."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.sites = self._none()

    def take(self) -> dict[str, SiteRadii]:
        """The sums by site, which start anew."""
        taken, self.sites = self.sites, self._none()
        return taken

    def curvatures(self) -> dict[str, float]:
        """The curvature at each site."""
        return {name: float(module.curvature()) for name, module in self._modules.items()}

    def _none(self) -> dict[str, SiteRadii]:
        return {name: SiteRadii() for name in self._modules}

    def _record(self, name: str, module: HyperET, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.sites[name].add(inputs[0], output, module, self.real(name))
