"""Statistics of radii by level, as functions of how often each image counts."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sam3_hyperet.data.annotations import GRANULARITIES
from sam3_hyperet.evaluation.bootstrap import intervals
from sam3_hyperet.evaluation.metrics.evaluator import Record
from sam3_hyperet.evaluation.metrics.ranking import Ranking, partial_correlation, rank_correlations

EDGES = ("part_object", "object_group")
_DRAWS = 1000
_ENDS = ("low", "high")
Statistics = Callable[[np.ndarray], dict[str, float]]


def of_regions(records: Sequence[Record]) -> Statistics:
    """The statistics of each place in the records, for (images,) weights; NaN where undefined.

    - `<place>/<level>`: the mean radius of a level;
    - `<place>/<edge>/delta`: δ, the sign difference within pairs (Cliff's paired d_w): the fraction in which the
      coarser one lies farther out, less that in which the finer one does; `…/elsewhere`, the same of the masks at
      random places, as a control; `…/beyond`, δ less that of the control;
    - `<place>/<edge>/g`: Hedges' g, the mean difference coarser − finer by the standard deviation within the two;
    - `<place>/rho`: Spearman's ρ of level and radius; `…/rho_area`, with the area held fixed.
    """
    places = [key.removeprefix("radius/") for key in records[0] if key.startswith("radius/")]
    found = [_of_place(records, place) for place in places]
    return lambda weights: {key: value for statistics in found for key, value in statistics(weights).items()}


def of_names(pairs: Mapping[int, np.ndarray]) -> dict[str, float]:
    """δ and g of (2, m) radii of names, finer and coarser, for each kind of pair; as `text/…`.

    Their intervals, `…/low` and `…/high`, are from drawing the pairs anew, where there are enough of them. Pairs share
    names: intervals say too little.
    """
    metrics = dict[str, float]()
    for edge, (finer, coarser) in pairs.items():
        there = np.isfinite(finer) & np.isfinite(coarser)
        if there.any():
            sums = _pair_sums(finer[there], coarser[there])
            count, edge_name = int(there.sum()), f"text/{EDGES[edge]}"
            effects = _effects(sums.sum(axis=1))
            metrics |= {f"{edge_name}/{name}": value for name, value in effects.items()}
            ends = intervals(_of_pairs(sums), count, _DRAWS)
            low, high = np.clip(ends["delta"], -1.0, 1.0).tolist()  # of few pairs an interval can leave the range of δ
            ends["delta"] = low, high
            of_ends = {
                f"{edge_name}/{name}/{end}": x for name in ends for end, x in zip(_ENDS, ends[name], strict=True)
            }
            metrics |= {key: value for key, value in of_ends.items() if np.isfinite(value)}
    return metrics


def _of_place(records: Sequence[Record], place: str) -> Statistics:
    image = np.repeat(np.arange(len(records)), [len(record["level"]) for record in records])
    level, area, radius = (np.concatenate([r[key] for r in records]) for key in ("level", "area", f"radius/{place}"))
    there = np.isfinite(radius)
    image, level, radius = image[there], level[there], radius[there]
    rankings = [Ranking(level), Ranking(radius), Ranking(area[there])]
    several = len(np.unique(level)) > 1
    means = {GRANULARITIES[k]: _by_image(records, [level == k, radius * (level == k)], image) for k in np.unique(level)}
    edges = {}
    for number, edge in enumerate(EDGES):
        rows = [record[f"pairs/{place}"][record["edge"] == number] for record in records]
        pairs, of = np.concatenate(rows), np.repeat(np.arange(len(records)), [len(r) for r in rows])
        kept = np.isfinite(pairs).all(axis=1)
        if kept.any():
            finer, coarser, *moved = pairs[kept].T
            columns = [*_pair_sums(finer, coarser), np.sign(moved[1] - moved[0])]
            edges[edge] = _by_image(records, columns, of[kept])

    def statistics(weights: np.ndarray) -> dict[str, float]:
        found = {}
        for name, sums in means.items():
            count, total = sums @ weights
            found[f"{place}/{name}"] = total / count if count else np.nan
        for edge, sums in edges.items():
            *own, moved = sums @ weights
            found |= {f"{place}/{edge}/{name}": value for name, value in _effects(np.array(own)).items()}
            found[f"{place}/{edge}/elsewhere"] = moved / own[0] if own[0] else np.nan
            found[f"{place}/{edge}/beyond"] = found[f"{place}/{edge}/delta"] - found[f"{place}/{edge}/elsewhere"]
        if several:
            correlations = rank_correlations(rankings, weights[image])
            found[f"{place}/rho"] = float(correlations[0, 1])
            found[f"{place}/rho_area"] = partial_correlation(correlations)
        return found

    return statistics


def _by_image(records: Sequence[Record], columns: Sequence[np.ndarray], image: np.ndarray) -> np.ndarray:
    """(columns, images) sums."""
    return np.stack([np.bincount(image, column, minlength=len(records)) for column in columns])


def _pair_sums(finer: np.ndarray, coarser: np.ndarray) -> np.ndarray:
    """(6, m) what `_effects` needs the sums of."""
    return np.stack([np.ones(len(finer)), np.sign(coarser - finer), finer, coarser, finer**2, coarser**2])


def _of_pairs(sums: np.ndarray) -> Statistics:
    """`_effects` of (6, m) sums as a function of how often each pair counts."""
    return lambda weights: _effects(sums @ weights)


def _effects(sums: np.ndarray) -> dict[str, float]:
    """δ and g from the sums over pairs."""
    count, signs, *moments = sums
    if count < 2:
        return {"delta": signs / count if count else np.nan, "g": np.nan}
    finer, coarser, finer_square, coarser_square = np.array(moments) / count
    variance = (finer_square - finer**2 + coarser_square - coarser**2) / 2 * count / (count - 1)
    small_sample = 1 - 3 / (8 * count - 9)
    g = small_sample * (coarser - finer) / np.sqrt(variance) if variance > 0 else np.nan
    return {"delta": float(signs / count), "g": float(g)}
