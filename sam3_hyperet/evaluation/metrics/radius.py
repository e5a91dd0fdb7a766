"""Radius statistics of every site of adjustments, counted picture by picture so that they resume and add up."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
from torch import nn

from sam3_hyperet.evaluation.metrics.evaluator import Headline, Record
from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.modeling.probe import BINS, RadiusProbe, SiteRadii

_FIGURES = ("radius/{}/mean", "normalized_radius/{}/mean", "radius/{}/saturation")


class RadiusEvaluator:
    """Means of the radii of the features behind each adjustment and, as `…_before`, in front of it.

    It watches the model from `start` to `finish`, so the picture must be encoded in between. A model without
    adjustments, or with its adapters off, has nothing to watch and gets no metric.

    Attributes:
        sites: in the order of the records' rows.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._watching = ExitStack()
        self.sites = tuple(RadiusProbe(model).sites)

    def start(self, i: int) -> None:
        self._watching.close()
        self._probe = self._watching.enter_context(RadiusProbe(self._model, accumulate=True))

    def add(self, k: int, answer: PromptPrediction) -> None:
        """Nothing: the features are seen as they pass."""

    def finish(self) -> dict[str, np.ndarray]:
        """Of S sites, before and after: `histogram` (S, 2, BINS) of normalised radii in [0, 1]; `sums` (S, 2, 3) of
        radius, normalised radius and saturation over the `positions` (S,)."""
        self._watching.close()
        radii = [self._probe.sites[name] for name in self.sites]
        return {
            "histogram": np.array([site.histogram.numpy() for site in radii]).reshape(len(radii), 2, BINS),
            "sums": np.array([_sums(site) for site in radii]).reshape(len(radii), 2, 3),
            "positions": np.array([site.positions for site in radii], np.int64),
        }

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        positions = _added(records, "positions")
        metrics: dict[str, float] = {}
        for name, sums, count in zip(self.sites, _added(records, "sums"), positions, strict=True):
            if count:
                for suffix, means in (("_before", sums[0] / count), ("", sums[1] / count)):
                    metrics |= {key.format(name) + suffix: float(m) for key, m in zip(_FIGURES, means, strict=True)}
        return metrics

    def headline(self, records: Sequence[Record]) -> Headline:
        """The mean normalised radius behind each adjustment."""
        sums = np.array([record["sums"][:, 1, 1] for record in records]).reshape(len(records), -1)
        positions = np.array([record["positions"] for record in records]).reshape(len(records), -1)
        seen = [(s, name) for s, name in enumerate(self.sites) if positions[:, s].any()]

        def figures(weights: np.ndarray) -> dict[str, float]:
            with np.errstate(invalid="ignore"):
                means = (weights @ sums) / (weights @ positions)
            return {_FIGURES[1].format(name): float(means[s]) for s, name in seen}

        return figures

    def histograms(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """(2, BINS) positions by normalised radius, before and after the adjustment, of each site, for plots."""
        return dict(zip(self.sites, _added(records, "histogram"), strict=True))


def _sums(site: SiteRadii) -> np.ndarray:
    sums: np.ndarray = (site.mean() * site.positions).numpy()
    return sums


def _added(records: Sequence[Record], name: str) -> np.ndarray:
    added: np.ndarray = np.sum([record[name] for record in records], axis=0)
    return added
