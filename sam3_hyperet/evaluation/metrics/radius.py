"""Radius statistics of every site of adjustments, counted image by image so that they resume and add up."""

from collections.abc import Sequence

import numpy as np

from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Record
from sam3_hyperet.modeling.radius_sums import BINS, RadiusSums, metric_name

METRICS = tuple(metric_name(one, "{}") for one in ("radius/mean", "normalized_radius/mean", "saturation"))
BEFORE = "_before"


class RadiusEvaluator(Evaluator):
    """Means of the radii of the features behind each adjustment and, as `…_before`, in front of it.

    The features are those between two calls of `finish`. A model with its adapters off has none and gets no metric.
    The probe is entered by the caller while the model runs.
    """

    def __init__(self, probe: RadiusSums) -> None:
        self._probe, self.sites = probe, tuple(probe.sites)  # in the order of the records' rows

    def finish(self) -> dict[str, np.ndarray]:
        """Of S sites, before and after: `histogram` (S, 2, BINS) of normalised radii in [0, 1]; `sums` (S, 2, 3) of
        radius, normalised radius and saturation over the `positions` (S,)."""
        radii = list(self._probe.take().values())
        return {
            "histogram": np.array([site.histogram.numpy() for site in radii]).reshape(-1, 2, BINS),
            "sums": np.array([site.sums().numpy() for site in radii]).reshape(-1, 2, 3),
            "positions": np.array([site.positions for site in radii], np.int64),
        }

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        positions = _added(records, "positions")
        metrics: dict[str, float] = {}
        for name, sums, count in zip(self.sites, _added(records, "sums"), positions, strict=True):
            if count:
                for suffix, means in ((BEFORE, sums[0] / count), ("", sums[1] / count)):
                    metrics |= {key.format(name) + suffix: float(m) for key, m in zip(METRICS, means, strict=True)}
        return metrics

    def histograms(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """(2, BINS) positions by normalised radius, before and after the adjustment, of each site, for plots."""
        return dict(zip(self.sites, _added(records, "histogram"), strict=True))


def _added(records: Sequence[Record], name: str) -> np.ndarray:
    added: np.ndarray = np.sum([record[name] for record in records], axis=0)
    return added
