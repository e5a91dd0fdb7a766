"""Several data sets as one: shares, the order by seed and step, and what stays of each set's own."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3_hyperet.data.mixture import MixedOrder, quotas, share


def picks(count, **order):
    return list(itertools.islice(MixedOrder(**order), count))


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6))
def test_quotas_are_the_weights_to_a_thousandth(weights):
    found = quotas(weights)
    assert sum(found) == 1000
    assert min(found) >= 1
    for part, weight in zip(share(found), weights, strict=True):
        assert part == pytest.approx(weight / sum(weights), abs=1e-3 * (len(weights) + 1))


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=3),
    st.integers(0, 2**32),
    st.integers(1, 4),
    st.integers(0, 700),
    st.data(),
)
def test_any_process_and_any_step_see_their_part_of_one_row(images, seed, world, first, data):
    """So that a resumed run, and one of another number of processes, loses and repeats nothing."""
    weights = data.draw(st.lists(st.floats(0.01, 1), min_size=len(images), max_size=len(images)))
    order = {"images": tuple(images), "quotas": quotas(weights), "seed": seed}
    row = picks((first + 9) * world, **order)
    for rank in range(world):
        assert picks(9, **order, rank=rank, world=world, first=first) == row[first * world + rank :: world][:9]


def test_shares_are_kept_and_each_set_is_seen_evenly():
    sizes, parts = (7, 50, 400), quotas([1, 2, 2])
    row = picks(5000, images=sizes, quotas=parts, seed=3)
    of_set = Counter(0 if index < 7 else 1 if index < 57 else 2 for _, index in row)
    assert [of_set[n] for n in range(3)] == [1000, 2000, 2000]
    for low, high in ((0, 7), (7, 57), (57, 457)):
        times = Counter(index for _, index in row if low <= index < high)
        assert set(times) == set(range(low, high))
        assert max(times.values()) - min(times.values()) <= 1
    epochs = [epoch for epoch, index in row if index < 7]
    assert epochs == sorted(epochs)
    assert max(epochs) == 1000 // 7
    assert row[:1000] != row[1000:2000]
    assert row != picks(5000, images=sizes, quotas=parts, seed=4)
