"""The endless order: what several processes see together is what one process sees, wherever it begins."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from sam3_hyperet.data.loading import EndlessOrder


def picks(count, **order):
    return list(itertools.islice(EndlessOrder(**order), count))


@given(
    st.integers(1, 30),
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 9),
)
def test_all_processes_together_see_the_row_of_one(pictures, seed, world, batch_size, accumulate, steps):
    """At every step, and wherever the run goes on; one process with the same total is the measure."""
    each, total = batch_size * accumulate, batch_size * accumulate * world
    row = picks((steps + 2) * total, images=pictures, seed=seed)
    parts = [picks((steps + 2) * each, images=pictures, seed=seed, rank=rank, world=world) for rank in range(world)]
    for step in range(steps + 2):
        union = [pick for part in parts for pick in part[step * each : (step + 1) * each]]
        assert sorted(union) == sorted(row[step * total : (step + 1) * total])
    for rank, part in enumerate(parts):
        assert part[steps * each :] == picks(
            2 * each, images=pictures, seed=seed, rank=rank, world=world, first=steps * each
        )


@given(st.integers(1, 30), st.integers(0, 2**32))
def test_every_epoch_has_every_picture_once_in_an_order_of_its_own(pictures, seed):
    row = picks(3 * pictures, images=pictures, seed=seed)
    epochs = [row[epoch * pictures : (epoch + 1) * pictures] for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [[(e, i) for i in range(pictures)] for e in range(3)]
    if pictures > 9:
        assert len({tuple(index for _, index in epoch) for epoch in epochs}) == 3
        assert row != picks(3 * pictures, images=pictures, seed=seed + 1)
