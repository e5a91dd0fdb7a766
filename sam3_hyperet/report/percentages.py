"""Small rates as percentages, with digits enough to tell them apart: false alarms of .2 and .65 %."""

from __future__ import annotations


def percent(x: float) -> str:
    """A fraction as 35.2 % or 0.65 %."""
    return f"{_of_hundred(x)} %"


def points_between(interval: tuple[float, float]) -> str:
    """An interval of differences of fractions as "+0.42 to +0.48 points"."""
    low, high = (_signed(_of_hundred(end)) for end in interval)
    return f"{low} to {high} points"


def _of_hundred(x: float) -> str:
    text = f"{abs(100 * x):.3g}" if abs(x) >= 0.01 else f"{round(abs(100 * x), 2):g}"
    return f"−{text}" if x < 0 and text != "0" else text


def _signed(text: str) -> str:
    if text.startswith("−"):
        return text
    return f"±{text}" if text == "0" else f"+{text}"
