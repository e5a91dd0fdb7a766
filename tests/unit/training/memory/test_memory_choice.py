"""Which passes are chosen for a device, of those that a forecast allows."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sam3_hyperet.training.memory.choice import choose
from sam3_hyperet.training.step import Passes

GIB = 2**30


@dataclass
class Step:
    peak: int


class LineForecaster:
    """3.5 GiB and 1.05 for each prompt in a pass, a part of it where activations are recomputed."""

    def step(self, images, prompts, *, checkpoint_activations=False, is_split=False):
        return Step(round((3.5 + images * prompts * (0.6 if checkpoint_activations else 1.05)) * GIB))

    def interpolated(self, prompts, most, *, checkpoint_activations):
        return self.step(1, prompts, checkpoint_activations=checkpoint_activations).peak


def chosen(gib, images=4, prompts=5, **options):
    return choose(LineForecaster(), images, prompts, round(gib * GIB), **options)


@pytest.mark.parametrize(
    ("gib", "expected"),
    [
        (80, Passes()),
        (24, Passes(0, True)),
        (12, Passes(5)),
        (8, Passes(5, True)),
        (7.5, Passes(2)),
        (5.5, Passes(1)),
        (5, Passes(1, True)),
    ],
)
def test_the_fewest_passes_that_fit(gib, expected):
    found = chosen(gib)
    assert found.passes == expected
    assert found.fits
    assert found.peak <= 0.85 * gib * GIB


def test_what_the_user_has_set_stays():
    assert chosen(24, checkpoint_activations=False).passes == Passes(5, False)
    assert chosen(12, prompts_at_once=0).passes == Passes(0, True)
    assert chosen(12, may_split=False).passes == Passes(0, True)


def test_where_nothing_fits_it_is_said():
    found = chosen(4)
    assert found.passes == Passes(1, True)
    assert not found.fits
    assert str(found) == (
        "train.prompts_at_once=1 train.checkpoint_activations=true: 4.1 GiB by forecast instead of 24.5; "
        "3.4 of 4.0 are usable; it may not fit"
    )
    passes = {"prompts_at_once": 0, "checkpoint_activations": False}
    assert str(chosen(0.05, **passes)).endswith(
        "one pass takes 24.5 GiB by forecast; 0.042 of 0.05 are usable; it may not fit"
    )
