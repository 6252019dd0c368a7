"""How the commands speak: what they print always arrives as far as it can, and ends no training where it cannot."""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN = {
    "×": "x", "·": ".", "–": "-", "—": "-", "−": "-", "‖": "|", "…": "...", "±": "+-", "≤": "<=", "≥": ">=", "→": "->",
    "←": "<-", "²": "2", "§": "sec.", "≈": "~", "’": "'", "‘": "'", "“": '"', "”": '"', "━": "-", "─": "-", "•": "*",
    "β": "beta", "ε": "eps", "λ": "lambda", "σ": "sigma", "₁": "1", "₂": "2", "√": "sqrt", "Δ": "d", "μ": "mu",
}  # fmt: skip
"""For output whose encoding lacks these signs; any other becomes its escape, such as `\\xe9`."""


def console() -> Console:
    """Standard output; as wide as it needs when it is not a terminal, so that a pipe gets whole lines.

    Brackets and colons are text: names and errors hold them, and none is to be taken for rich's markup or an emoji.
    """
    from rich.console import Console

    made = Console(highlight=False, markup=False, emoji=False, soft_wrap=False)
    return made if made.is_terminal else Console(highlight=False, markup=False, emoji=False, width=240)


def duration(seconds: float) -> str:
    """`42 s`, `3.5 min`, `18.2 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def resilient_output() -> Iterator[list[OSError]]:
    """Standard output and error that can be written to whatever becomes of them, as long as this lasts.

    A full disk, a terminal that is gone, a reader that has left (`| head`) or a descriptor closed from the start
    (`>&-`) take the words, not the work. Yields the list of such errors of standard output, each kind once. Signs that
    the encoding lacks become plain ones.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file that is opened would get what is printed
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    lost: list[OSError] = []
    sys.stdout = _lasting(sys.stdout, sys.__stdout__, 1, lost)
    sys.stderr = _lasting(sys.stderr, sys.__stderr__, 2, [])
    try:
        yield lost
    finally:
        for stream, original in zip((sys.stdout, sys.stderr), before, strict=True):
            if stream is not original:
                stream.flush()
        sys.stdout, sys.stderr = before


def _lasting(stream: Any, original: Any, descriptor: int, lost: list[OSError]) -> Any:
    if stream is not original:  # somebody has put another in its place, and knows why
        return stream
    encoding, buffered = "utf-8", True
    if stream is not None:
        try:
            stream.flush()
        except OSError as error:
            lost.append(error)
        encoding, buffered = stream.encoding, not (stream.line_buffering or stream.write_through)
    raw = _Lasting(descriptor, lost)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors=_plain.__name__, line_buffering=descriptor == 2 or not buffered
    )


class _Lasting(io.RawIOBase):
    """A descriptor that takes everything, and keeps the error of each kind with which the system refused to."""

    def __init__(self, descriptor: int, lost: list[OSError]) -> None:
        self._descriptor, self._lost = descriptor, lost

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        while True:
            try:
                return os.write(self._descriptor, content)
            except BlockingIOError:  # set so by a program that shares the terminal
                select.select([], [self._descriptor], [], 1.0)
            except OSError as error:
                if error.errno not in {each.errno for each in self._lost}:
                    self._lost.append(error)
                return len(content)


def output_problem(lost: list[OSError]) -> str:
    """What to say of standard output that could not be written; empty where its reader left on purpose."""
    reasons = [error.strerror or str(error) for error in lost if error.errno != errno.EPIPE]
    return f"Standard output could not be written: {'; '.join(reasons)}. What was done is done." if reasons else ""


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs), error.end


codecs.register_error(_plain.__name__, _plain)
