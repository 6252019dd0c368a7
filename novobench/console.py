"""How the commands speak on standard output."""

from __future__ import annotations

from rich.console import Console


def console() -> Console:
    """Standard output; as wide as it needs when it is not a terminal, so that a pipe gets whole lines.

    Brackets are text: names and errors hold them, and none is to be taken for rich's markup.
    """
    made = Console(highlight=False, markup=False, soft_wrap=False)
    return made if made.is_terminal else Console(highlight=False, markup=False, width=240)


def duration(seconds: float) -> str:
    """`42 s`, `3.5 min`, `18.2 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
