"""Effects of level on radius: known answers, what they do not depend on, and weights as repetitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3_hyperet.evaluation.metrics.level_statistics import of_names, of_regions

PLACE = "encoder"


def record(level, radius, pairs=(), area=None, edge=0):
    pairs = np.array(pairs, float).reshape(-1, 2)
    return {
        "level": np.array(level),
        "area": np.array(area if area is not None else np.linspace(0.1, 0.2, len(level)), float),
        "edge": np.full(len(pairs), edge),
        f"radius/{PLACE}": np.array(radius, float),
        f"pairs/{PLACE}": np.concatenate([pairs, pairs[:, ::-1]], axis=1),
    }


def statistics(records, weights=None):
    found = of_regions(records)(np.ones(len(records), int) if weights is None else np.array(weights))
    return {key.removeprefix(f"{PLACE}/"): value for key, value in found.items()}


def drawn(seed, transform=lambda r: r, images=12):
    rng, made = np.random.default_rng(seed), []
    for n in rng.integers(1, 9, images):
        level, radius, pairs = rng.integers(0, 3, n), transform(rng.random(n)), transform(rng.random((n, 2)))
        made.append(record(level, radius, pairs, rng.random(n), int(rng.integers(2))))
    return made


def test_known_effects():
    found = statistics([record([0, 0, 1, 1, 2], [1, 3, 4, 6, 7], [[1, 4], [3, 6]]), record([1], [8], [[5, 5], [2, 1]])])
    assert [found[level] for level in ("part", "object", "group")] == [2, 6, 7]
    assert found["part_object/delta"] == 1 / 4  # two above, one below, one equal
    assert found["part_object/elsewhere"] == -1 / 4
    assert found["part_object/beyond"] == 1 / 2
    finer, coarser = np.array([1, 3, 5, 2]), np.array([4, 6, 5, 1])
    spread = np.sqrt((finer.var(ddof=1) + coarser.var(ddof=1)) / 2)
    assert found["part_object/g"] == pytest.approx((coarser.mean() - finer.mean()) / spread * (1 - 3 / (4 * 6 - 1)))
    assert not any(key.startswith("object_group") for key in found)


def test_what_is_a_matter_of_area_is_not_one_of_level():
    rng = np.random.default_rng(0)
    level = rng.integers(0, 3, 4000)
    area = np.exp(level + rng.normal(size=4000))
    of_area = statistics([record(level, np.sqrt(area), area=area)])
    of_level = statistics([record(level, level + rng.normal(size=4000), area=rng.random(4000))])
    assert of_area["rho"] > 0.5
    assert abs(of_area["rho_area"]) < 0.05 or np.isnan(of_area["rho_area"])
    noisy = statistics([record(level, np.sqrt(area) * np.exp(0.3 * rng.normal(size=4000)), area=area)])
    assert noisy["rho"] > 0.5 > 0.1 > abs(noisy["rho_area"])
    assert of_level["rho_area"] == pytest.approx(of_level["rho"], abs=0.05)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([np.tanh, np.exp, lambda r: 3 * r + 1]))
def test_orders_do_not_depend_on_which_radius_is_taken(seed, transform):
    plain, other = statistics(drawn(seed)), statistics(drawn(seed, transform))
    for key in plain:
        if key.endswith(("delta", "elsewhere", "rho", "rho_area")):
            assert other[key] == pytest.approx(plain[key], nan_ok=True)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 3), min_size=12, max_size=12).filter(any))
def test_a_weight_is_a_repetition(seed, weights):
    records = drawn(seed)
    repeated = [one for one, n in zip(records, weights, strict=True) for _ in range(n)]
    found, expected = statistics(records, weights), statistics(repeated)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, nan_ok=True, abs=1e-9)


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_delta_and_g_turn_with_the_levels(seed):
    records = drawn(seed)
    turned = [{**one, f"pairs/{PLACE}": one[f"pairs/{PLACE}"][:, [1, 0, 3, 2]]} for one in records]
    found, other = statistics(records), statistics(turned)
    for key, value in found.items():
        if key.endswith(("delta", "/g", "elsewhere")):
            assert other[key] == pytest.approx(-value, nan_ok=True)
            assert key.endswith("/g") or -1 <= value <= 1


def test_what_has_no_features_is_left_out():
    with_gap = record([0, 1, 1], [1, np.nan, 2], [[1, 2], [np.nan, 3]])
    assert statistics([with_gap]) == pytest.approx(statistics([record([0, 1], [1, 2], [[1, 2]])]), nan_ok=True)
    nothing = statistics([record([], []), record([0], [np.nan], [[np.nan, np.nan]])])
    assert nothing == {}


def test_names_and_their_interval():
    found = of_names({0: np.array([[1.0, 2, 3, np.nan], [2, 3, 2, 9]]), 1: np.zeros((2, 0))})
    assert found["text/part_object/delta"] == pytest.approx(1 / 3)
    assert "text/part_object/delta/low" not in found  # of three pairs
    many = of_names({0: np.array([[1.0, 2, 3] * 8, [2, 3, 2] * 8])})
    low, high = (many[f"text/part_object/delta/{end}"] for end in ("low", "high"))
    assert low == pytest.approx(2 / 3 - high)
    assert -0.1 < low < 0.0
    assert not any("object_group" in key for key in found)
    few = of_names({0: np.array([[1.0] * 10, [2.0] * 9 + [0.5]])})
    assert (few["text/part_object/delta"], few["text/part_object/delta/high"]) == (0.8, 1.0)  # not beyond its range
