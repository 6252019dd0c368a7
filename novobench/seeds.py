"""Seeds on a command line: `3`, `100-109` or `100,103-105`."""

from __future__ import annotations

import re

FIRST_SEED = 100
"""The first seed of results that decide something. Searches and explorations use seeds from 0, so that no result comes
from a seed that its rates were chosen by."""
_MOST = 1_000_000


def parse_seeds(text: str) -> list[int]:
    """The seeds that a text names: a count, or ranges and numbers separated by commas, of which there is at least one
    hyphen or comma. Raises ValueError, which says what is wrong."""
    if text.isdecimal():
        if not 1 <= (count := _number(text)) <= _MOST:
            raise ValueError(f"'{text}' is not a whole number from 1 to {_MOST:,}")
        return list(range(count))
    seeds: list[int] = []
    for part in text.split(","):
        if not (match := re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())):
            raise ValueError(f"'{text}' is neither a number of seeds, such as 3, nor a range, such as 100-109")
        first, last = _number(match[1]), _number(match[2] or match[1])
        if not first <= last < _MOST:
            raise ValueError(f"'{part}' is not a range of seeds from 0 to {_MOST - 1:,}")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def _number(text: str) -> int:
    return int(text) if len(text) < 10 else _MOST + 1
