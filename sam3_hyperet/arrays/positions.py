"""Some of many positions, evenly spread; without numpy, which may be what is broken where `doctor` runs."""


def spread(count: int, most: int) -> list[int]:
    """At most so many of the positions 0 … count - 1, the first and the last among them, evenly spread."""
    taken = min(count, most)
    if taken < 2:
        return list(range(taken))
    step = (count - 1) / (taken - 1)
    return [round(k * step) for k in range(taken - 1)] + [count - 1]
