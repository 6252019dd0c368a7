"""Seeds on a command line and in sentences: `3`, `100-109` or `100,103-105`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

FIRST_SEED = 100
"""The first seed of results that decide something. Searches and explorations use seeds from 0, so that no result comes
from a seed that its rates were chosen by."""
_MOST = 1_000_000


@dataclass(frozen=True)
class Seeds:
    """The seeds that a command is asked for."""

    numbers: list[int]
    named: bool
    """Whether the command names them: a range, not a count."""


def parse_seeds(text: str) -> Seeds:
    """The seeds that a text means: a count, which starts at `FIRST_SEED`, or numbers and ranges separated by commas,
    with at least one comma or hyphen (`7-7` is seed 7). Raises ValueError, which says what is wrong."""
    if text.isdecimal():
        if not 1 <= (count := _number(text)) <= _MOST:
            raise ValueError(
                f"'{text}' is not a whole number from 1 to {_MOST:,}. A range, such as {text}-{text}, names seeds"
            )
        return Seeds(list(range(FIRST_SEED, FIRST_SEED + count)), named=False)
    seeds: list[int] = []
    for part in text.split(","):
        if not (match := re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())):
            raise ValueError(f"'{text}' is neither a number of seeds, such as 3, nor a range, such as 100-109")
        first, last = _number(match[1]), _number(match[2] or match[1])
        if not first <= last < _MOST:
            raise ValueError(f"'{part}' is not a range of seeds from 0 to {_MOST - 1:,}")
        seeds += range(first, last + 1)
    return Seeds(list(dict.fromkeys(seeds)), named=True)


def _number(text: str) -> int:
    return int(text) if len(text) < 10 else _MOST + 1


def seeds_text(seeds: Iterable[int]) -> str:
    """`seed 0`, `seeds 0, 2` or `seeds 100-109, 111`."""
    numbers = sorted(set(seeds))
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    parts = [f"{span[0]}-{span[-1]}" if len(span) > 2 else ", ".join(map(str, span)) for span in spans]
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(parts)}"
