"""Counts in the words of messages: 1 image, 1,200 images."""

_ENDINGS = {"s": "ses", "x": "xes", "y": "ies"}


def count_of(n: int, noun: str) -> str:
    """A count and its noun, in the singular for 1; the noun is the last word."""
    if n == 1:
        return f"1 {noun}"
    ending = noun[-1]
    is_plain = ending not in _ENDINGS or noun.endswith(("ay", "ey", "oy"))
    plural = f"{noun}s" if is_plain else noun[:-1] + _ENDINGS[ending]
    return f"{n:,} {plural}"
