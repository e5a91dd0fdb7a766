"""The values of label maps: how many pixels have each, and whether they fit the names in more than one way."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sam3_hyperet.arrays.positions import spread
from sam3_hyperet.data.annotations import some, spoken
from sam3_hyperet.data.image_files import image_size
from sam3_hyperet.errors import DataError
from sam3_hyperet.override import override

MAX_VALUE = 65_535
_THREADS = 8
_PIXELS = 100_000_000  # that are in memory at once, in all threads, at some 13 bytes each
_BLOCK = 1 << 20  # pixels that are counted at once: NumPy takes eight bytes for each
LOOKED_AT = 1000  # label maps that are opened to see which values occur; of larger sets so many, evenly spread
IGNORE_MARK = "(ignore)"
_MANY_IGNORED = 0.5  # fraction of the pixels
_FEW = 5  # names that a remedy writes out
_VOID = frozenset(
    {
        "background",
        "bg",
        "void",
        "unlabeled",
        "unlabelled",
        "ignore",
        "ignored",
        "other",
        "none",
        "unknown",
        "unassigned",
    }
)


@dataclass(frozen=True)
class ValueCounts:
    """Pixels and label maps of each value, and the first label map that has it, in `looked_at` of `total`."""

    pixels: Mapping[int, int]
    maps: Mapping[int, int]
    first: Mapping[int, Path]
    looked_at: int
    total: int
    faults: tuple[str, ...] = ()  # of those that cannot be read

    def fraction(self, value: int) -> str:
        """The fraction of the pixels that have a value, in per cent."""
        return f"{self.pixels.get(value, 0) / max(sum(self.pixels.values()), 1):.2%}"

    @property
    def where(self) -> str:
        """Which label maps were looked at."""
        return f"{self.looked_at:,} of {self.total:,} label maps" if self.looked_at < self.total else "all label maps"


def count_values(files: Sequence[Path], read: Callable[[Path], np.ndarray]) -> ValueCounts:
    """Count the values of some label maps, evenly spread; those that cannot be read are among the `faults`.

    read: (H, W) values of a file, from 0; raises DataError.
    """
    chosen = spread(len(files), LOOKED_AT)

    def counts(i: int) -> np.ndarray | str:
        try:
            return value_counts(read(files[i]))
        except DataError as error:
            return str(error)

    pixels, maps, first, faults = Counter[int](), Counter[int](), dict[int, Path](), list[str]()
    with ThreadPoolExecutor(_threads([files[i] for i in chosen])) as pool:
        for i, found in zip(chosen, pool.map(counts, chosen), strict=True):
            if isinstance(found, str):
                faults.append(found)
                continue
            for value in np.flatnonzero(found).tolist():
                pixels[value] += int(found[value])
                maps[value] += 1
                first.setdefault(value, files[i])
    return ValueCounts(pixels, maps, first, len(chosen), len(files), tuple(faults))


def value_counts(values: np.ndarray) -> np.ndarray:
    """Counts of the values of an array of whole numbers, from 0."""
    flat, counts = values.ravel(), np.zeros(1, np.int64)
    for start in range(0, flat.size, _BLOCK):
        found = np.bincount(flat[start : start + _BLOCK], minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    return counts


def _threads(files: Sequence[Path]) -> int:
    """How many of these images may be in memory at once, by the largest of a few."""
    pixels = [1]
    for i in spread(len(files), _THREADS):
        with suppress(DataError):  # which is among the faults
            pixels.append(math.prod(image_size(files[i])))
    return max(1, min(_THREADS, _PIXELS // max(pixels)))


@dataclass(frozen=True)
class LabelValues:
    """What the values of label maps mean, beside what they are: names by value, the ignored values, their counts.

    shown: what to call a value, where it stands for a colour.
    """

    names: Mapping[int, str]
    ignore: tuple[int, ...]
    counts: ValueCounts
    shown: Mapping[int, str] = field(default_factory=dict)

    def lines(self, listed: int) -> list[str]:
        """Each class with its value and fraction of the pixels, classes without a pixel, and what is ignored."""
        found, counts = self.counts.pixels, self.counts
        shown = {value: self.shown.get(value, str(value)) for value in (*self.names, *self.ignore)}
        present = [f"{shown[v]} {name} {counts.fraction(v)}" for v, name in self.names.items() if v in found]
        kind = "colour" if self.shown else "value"
        lines = [f"{kind}, class and fraction of the pixels, in {counts.where}: {some(present, listed) or 'none'}"]
        if counts.faults:
            lines.append(f"warning: {len(counts.faults)} of them cannot be read, the first: {counts.faults[0]}")
        if missing := [f"{name} ({shown[value]})" for value, name in self.names.items() if value not in found]:
            asked = ", never taken as absent" if counts.looked_at == counts.total else ""
            lines.append(f"warning: without a pixel in {counts.where}{asked}: {some(missing, listed)}")
        ignored = [f"{shown[value]} {counts.fraction(value)}" for value in self.ignore if value in found]
        if not self.shown and (nowhere := [shown[value] for value in self.ignore if value not in found]):
            lines.append(f"the ignored value {some(nowhere)} occurs nowhere in {counts.where}")
        if ignored:
            lines.append(f"ignored {kind} and fraction of the pixels: {', '.join(ignored)}")
        if hint := self._of_binary_masks() or self._mostly_ignored(shown):
            lines.append(f"warning: {hint}")
        return lines

    def _mostly_ignored(self, shown: Mapping[int, str]) -> str:
        """What follows where most pixels are ignored, and what to do if they are a background."""
        pixels = {value: n for value in self.ignore if (n := self.counts.pixels.get(value, 0))}
        fraction = sum(pixels.values()) / max(sum(self.counts.pixels.values()), 1)
        if fraction <= _MANY_IGNORED:
            return ""
        most = max(pixels, key=lambda value: pixels[value])
        return (
            f"{fraction:.0%} of the pixels are ignored: what is found there costs nothing in mIoU, and training takes "
            f"them for none of the classes; if {shown[most]} is what the classes leave, name it background"
        )

    def check_present(self, where: Path) -> None:
        """Raise a DataError where no pixel has a class that a prompt can ask for."""
        found, classes = self.counts.pixels, {v: name for v, name in self.names.items() if not is_background(name)}
        if found and not classes.keys() & found.keys():
            values = [f"{self.shown.get(value, value)} {self.counts.fraction(value)}" for value in sorted(found)]
            hint = self._of_binary_masks()
            raise DataError(
                f"{where}: no pixel in {self.counts.where} has one of the classes {some(classes.values())}; found "
                f"{some(values)}, which are no class, background or ignored{'; ' if hint else ''}{hint}"
            )

    def _of_binary_masks(self) -> str:
        """What to do about masks of 0 and 255 whose 255 is ignored."""
        if set(self.counts.pixels) != {0, 255} or 255 not in self.ignore or 1 not in self.names:
            return ""
        other, name = self.names.get(0, "background"), self.names[1]
        return (
            f"the label maps have the values 0 and 255 alone, and 255 is ignored; if it is {name!r}, say "
            f"{override('data.colors', {other: 0, name: 255})}"
        )


def is_background(name: str) -> bool:
    """Whether a class is what is left when all others are taken: its pixels count, but no prompt asks for it."""
    return spoken(name).strip("_ ").lower() in ("background", "bg")


def is_void(name: str) -> bool:
    """Whether a class's name says that its pixels have no class."""
    return name.rstrip().endswith(IGNORE_MARK) or spoken(name).strip("( )").lower() in _VOID


def implied_offset(names: Sequence[str], ignore: Sequence[int]) -> int | None:
    """The value of the first name where names and ignored values tell it, else None.

    A name of no class that is at an ignored value, counted from 0, is where it belongs; where 0 is ignored and the
    first name is a class, the names begin at 1.
    """
    if any(0 <= value < len(names) and is_void(names[value]) for value in ignore):
        return 0
    return 1 if 0 in ignore else None


def check_readings(
    counts: ValueCounts, names: Sequence[str], offset: int | None, ignore: Sequence[int], where: Path, options: str
) -> tuple[str, ...]:
    """Raise a DataError where the values do not fit the names, or, without an `offset`, fit them in two ways.

    options: what the options `offset` and `ignore` begin with in a remedy, such as "data.". Returns a sentence about
    what is taken to be, if anything is.
    """
    found, number, first = sorted(counts.pixels.keys() - set(ignore)), len(names), offset or 0
    if not found:
        return ()
    values = f"{found[0]} to {found[-1]}" if len(found) > 1 else str(found[0])
    wrong = [value for value in found if not first <= value < first + number]
    from_one = f"{options}offset=1"
    background, unknown = _with_background(names, options), f"{options}ignore=0, only if what is at 0 is unknown"
    if offset is None and wrong == [number]:
        expected = f"if the names begin at 1, expected {from_one}"
        if 0 in found:
            expected = f"expected {background} if 0 is what the classes leave; or {unknown}"
            expected += f"; if {number} is no class: {options}ignore={number}"
        raise DataError(f"{where}: label maps have the values {values}, for {number} names; {expected}")
    if wrong:
        value = wrong[0]
        maps = f"in {counts.maps[value]} of {counts.looked_at} label maps looked at"
        more = f" (and {len(wrong) - 1} more such values)" if len(wrong) > 1 else ""
        none = f"; if {value} is no class: {options}ignore={value}" if len(wrong) == 1 else ""
        if value == 0:
            none = f"; if 0 is what the classes leave: {background}, and {options}offset=0; or {unknown}"
        raise DataError(
            f"{counts.first[value]}: it has the label {value}{more}, expected {first} to {first + number - 1}, or "
            f"{some(ignore)} for no class{none}; {counts.fraction(value)} of the pixels have it, {maps}"
        )
    if offset is not None or is_void(names[0]):
        return ()
    if 0 not in found:
        other = f"from 0, so that {names[0]!r} has no pixel, or from 1"
    elif number == 1 and 255 in ignore and 255 in counts.pixels:
        colors = override(f"{options}colors", {"background": 0, names[0]: 255})
        raise DataError(
            f"{where}: label maps have the values 0 and 255 alone, for one name; expected {colors} if 255 is "
            f"{names[0]!r}, or {options}offset=0 if 0 is"
        )
    elif counts.pixels.keys() & set(ignore):
        return ()
    elif len(found) == number:
        first_name = f"names begin at the value 0, {names[0]!r}, as each value from 0 to {number - 1} occurs"
        return (f"{first_name}; if 0 is what the classes leave: {background}",)
    else:
        other = f"from 0, so that every pixel has a class, or from 1, with 0 as no class ({counts.fraction(0)} of them)"
        from_one = f"{background}, or {unknown},"
    shares = [f"{value} {counts.fraction(value)}" for value in found]
    raise DataError(
        f"{where}: the values {values} of its label maps fit the {number} names in two ways: {other}; expected "
        f"{options}offset=0 for the first, {from_one} for the second. Value and fraction of the pixels: "
        f"{some(shares, 12)}; the names begin with {some(map(repr, names))}"
    )


def _with_background(names: Sequence[str], options: str) -> str:
    """How to name the value 0 before others; the arguments as for `check_readings`."""
    if options and len(names) <= _FEW:
        return override(f"{options}names", ["background", *names])
    return f"a first name, background, before {names[0]!r}"
