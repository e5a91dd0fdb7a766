"""Choice of a step's passes by the memory of the device: as few as fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sam3_hyperet.training.memory.forecast import Forecaster
from sam3_hyperet.training.step import Passes

USABLE = 0.85
"""Of a device's memory: the rest is CUDA's own, fragments, and images with more objects than expected."""
_GIB = 2**30


@dataclass(frozen=True)
class Choice:
    """Passes for a step, and why.

    Attributes:
        peak: forecast with these passes, in bytes.
        plain: forecast with a batch a pass and no activations recomputed.
        total: bytes of the device's memory.
    """

    passes: Passes
    peak: int
    plain: int
    total: int

    @property
    def usable(self) -> int:
        """Bytes that a step may take."""
        return round(USABLE * self.total)

    @property
    def fits(self) -> bool:
        """Whether the forecast is within what is usable."""
        return self.peak <= self.usable

    def __str__(self) -> str:
        chosen = f"{_gib(self.peak)} GiB"
        usable = f"{_gib(self.usable)} of {_gib(self.total)} are usable"
        problem = "" if self.fits else "; it may not fit"
        if self.passes == Passes():
            return f"{self.passes}: the batch in one pass takes {chosen} by forecast; {usable}{problem}"
        return f"{self.passes}: {chosen} by forecast instead of {_gib(self.plain)}; {usable}{problem}"


def choose(
    forecaster: Forecaster,
    images: int,
    prompts: int,
    total: int,
    *,
    prompts_at_once: int | None = None,
    checkpoint_activations: bool | None = None,
    may_split: bool = True,
) -> Choice:
    """The fewest passes that fit into a device of `total` bytes, and activations recomputed only if that spares passes.

    Args:
        images: of a batch.
        prompts: of an image, at most.
        prompts_at_once, checkpoint_activations: what the user has decided; None for what is to be chosen.
        may_split: whether a step may have passes that not all processes have, which sharded training may not.

    Returns the choice that needs least where none fits. Raises ForecastError.
    """
    plain = forecaster.step(images, prompts).peak
    best: Choice | None = None
    for passes in _candidates(images, prompts, prompts_at_once, checkpoint_activations, may_split):
        found = Choice(passes, _peak(forecaster, images, prompts, passes), plain, total)
        if found.fits:
            return found
        if best is None or found.peak < best.peak:
            best = found
    assert best is not None  # there is always a candidate
    return best


def _candidates(
    images: int, prompts: int, prompts_at_once: int | None, checkpoint_activations: bool | None, may_split: bool
) -> Iterator[Passes]:
    """From the fewest passes to the most."""
    if prompts_at_once is not None:
        sizes = [prompts_at_once]
    else:
        sizes = [0]
        size = prompts if images > 1 else prompts // 2
        while may_split and size:
            sizes.append(size)
            size //= 2
    for size in sizes:
        for checkpointing in (False, True) if checkpoint_activations is None else (checkpoint_activations,):
            yield Passes(size, checkpointing)


def _peak(forecaster: Forecaster, images: int, prompts: int, passes: Passes) -> int:
    if not passes.prompts_at_once:
        return forecaster.step(images, prompts, checkpoint_activations=passes.checkpoint_activations).peak
    at_once = min(passes.prompts_at_once, prompts)
    return forecaster.interpolated(at_once, prompts, checkpoint_activations=passes.checkpoint_activations)


def _gib(size: int) -> str:
    """GiB to a tenth; what is less than one to two digits."""
    return f"{size / _GIB:.1f}" if size >= _GIB else f"{size / _GIB:.2g}"
