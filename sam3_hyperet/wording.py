"""Words of messages and pages: 1 image, 1,200 images; files without the folders of a machine; names numbered apart."""

import itertools
import os
import re
from collections.abc import Container

_PLAIN = re.compile(r"[^\W\d_][\w '-]*")
_ENDINGS = {"s": "ses", "x": "xes", "y": "ies"}


def count_of(n: int, noun: str) -> str:
    """A count and its noun, in the singular for 1; the noun is the last word."""
    if n == 1:
        return f"1 {noun}"
    ending = noun[-1]
    is_plain = ending not in _ENDINGS or noun.endswith(("ay", "ey", "oy"))
    plural = f"{noun}s" if is_plain else noun[:-1] + _ENDINGS[ending]
    return f"{n:,} {plural}"


def is_plain_name(name: str) -> bool:
    """Whether a name is itself between commas on a command line: YAML makes nothing else of it."""
    return _PLAIN.fullmatch(name) is not None


def unique(name: str, taken: Container[str]) -> str:
    """A name, numbered where it is taken."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in taken)


def without_folders(text: str) -> str:
    """A path as a page that is passed on shows it: an absolute one by its last name, any other text as it is."""
    is_absolute = os.path.isabs(text) or text.startswith(("~", "file://"))
    return (os.path.basename(text.rstrip("/")) or text) if is_absolute else text
