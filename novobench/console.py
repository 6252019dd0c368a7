"""Output of the commands. It is printed as well as the terminal allows, and never ends a training if it cannot be."""

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

_REPLACEMENTS = {
    "×": "x", "·": ".", "–": "-", "—": "-", "−": "-", "‖": "|", "…": "...", "±": "+-", "≤": "<=", "≥": ">=", "→": "->",
    "←": "<-", "²": "2", "§": "sec.", "≈": "~", "’": "'", "‘": "'", "“": '"', "”": '"', "━": "-", "─": "-", "•": "*",
    "β": "beta", "ε": "eps", "λ": "lambda", "σ": "sigma", "₁": "1", "₂": "2", "√": "sqrt", "Δ": "d", "μ": "mu",
}  # fmt: skip
"""Replacements for characters that the encoding of the output lacks; others become escapes, such as `\\xe9`."""


def console() -> Console:
    """Standard output. If it is not a terminal, it is wide, so that lines in a pipe are not broken.

    Brackets and colons are plain text, since names and errors contain them: markup and emoji are off.
    """
    from rich.console import Console

    terminal = Console(highlight=False, markup=False, emoji=False, soft_wrap=False)
    return terminal if terminal.is_terminal else Console(highlight=False, markup=False, emoji=False, width=240)


def counted(number: int, noun: str) -> str:
    """`1 cell`, `3 cells`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """`42 s`, `3.5 min`, `18.2 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def resilient_output() -> Iterator[list[OSError]]:
    """Make standard output and error accept everything, even if it cannot be written.

    A full disk, a closed terminal, a reader that has exited (`| head`) or a descriptor closed from the start (`>&-`)
    lose the text, but do not stop the work. Yields the list of errors of standard output, each errno once. Characters
    that the encoding lacks are replaced by plain ones.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # otherwise the next opened file would receive the output
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    errors: list[OSError] = []
    sys.stdout = _resilient(sys.stdout, sys.__stdout__, 1, errors)
    sys.stderr = _resilient(sys.stderr, sys.__stderr__, 2, [])
    try:
        yield errors
    finally:
        for stream, original in zip((sys.stdout, sys.stderr), before, strict=True):
            if stream is not original:
                stream.flush()
        sys.stdout, sys.stderr = before


def _resilient(stream: Any, original: Any, descriptor: int, errors: list[OSError]) -> Any:
    if stream is not original:  # replaced on purpose, as pytest does
        return stream
    encoding, buffered = "utf-8", True
    if stream is not None:
        try:
            stream.flush()
        except OSError as error:
            errors.append(error)
        encoding, buffered = stream.encoding, not (stream.line_buffering or stream.write_through)
    raw = _ResilientDescriptor(descriptor, errors)
    buffer, line_buffering = io.BufferedWriter(raw), descriptor == 2 or not buffered
    return io.TextIOWrapper(buffer, encoding, errors=_replace_missing.__name__, line_buffering=line_buffering)


class _ResilientDescriptor(io.RawIOBase):
    """A file descriptor that accepts everything and records the first error of each errno."""

    def __init__(self, descriptor: int, errors: list[OSError]) -> None:
        self._descriptor, self._errors = descriptor, errors

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
            except BlockingIOError:  # a program that shares the terminal made it non-blocking
                select.select([], [self._descriptor], [], 1.0)
            except OSError as error:
                if error.errno not in {each.errno for each in self._errors}:
                    self._errors.append(error)
                return len(content)


def output_problem(errors: list[OSError]) -> str:
    """A message about standard output that could not be written; empty if only its reader has exited."""
    reasons = [error.strerror or str(error) for error in errors if error.errno != errno.EPIPE]
    return f"Standard output could not be written: {'; '.join(reasons)}. The work itself is kept." if reasons else ""


def _replace_missing(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    chars = error.object[error.start : error.end]
    replaced = (_REPLACEMENTS.get(char) or char.encode("ascii", "backslashreplace").decode() for char in chars)
    return "".join(replaced), error.end


codecs.register_error(_replace_missing.__name__, _replace_missing)
