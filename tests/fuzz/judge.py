"""Judges what an input does: it works, or it ends in one clear line. Anything else is a bug in novobench.

No function here knows what is wrong with an input; the modules that draw inputs say what an error must name.
"""

import gc
import io
import resource
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import pytest

from novobench.errors import MAX_LENGTH, NovobenchError, one_line

WORKED, CLEAR_ERROR = "worked", "clear errors"
LONGEST_SECONDS = 60.0
"""After this time an input counts as hanging."""
MOST_MEMORY = 4 << 30
"""Bytes that one input may allocate in addition to those of the process."""
_RAW = ("Traceback", " object at 0x", "<class '", "<function ")
"""Signs of text that is meant for programmers."""


class _Hangs(BaseException):
    """Not an Exception, so that code that treats any Exception as a bad input does not catch it."""


def judge(call: Callable[[], Any], *names: str) -> str:
    """Return `WORKED` or `CLEAR_ERROR`; fail for anything else. An error must name one of `names`: files, keys or
    words. Without names, any clear error passes."""
    try:
        with _limited():
            call()
    except NovobenchError as error:
        _check_line(one_line(error), names)
        return CLEAR_ERROR
    except (Exception, KeyboardInterrupt, pytest.fail.Exception):
        raise
    except BaseException as error:  # a hang, an exit, a panic in another library
        raise AssertionError(f"ended by {type(error).__name__}: {error}") from error
    return WORKED


def judge_command(words: list[str], *names: str) -> str:
    """The same for `novobench words`: exit code 0, or 1 or 2 with one line on standard error, below argparse's usage if
    there is one. Standard output must be able to encode every printed character."""
    from novobench.cli import main

    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")  # as Python's own
    code: Any = None
    with redirect_stdout(out), redirect_stderr(err):
        try:
            with _limited():
                main(words)
        except SystemExit as ended:
            code = ended.code
        except _Hangs as error:
            raise AssertionError(f"hangs: {error}") from error
    err.flush()
    message = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
    if code == 0:
        assert message == "", message
        return WORKED
    assert code in (1, 2), f"exit code {code}: {message}"
    usage = message.startswith("usage: ")
    start = message.find("\nnovobench") + 1 if usage else 0
    line = message[start:].removesuffix("\n")
    assert line.startswith("novobench"), f"exit code {code}: {message}"
    _check_line(line, () if usage else names)
    return CLEAR_ERROR


def _check_line(line: str, names: tuple[str, ...]) -> None:
    assert line.strip(), "an empty error message"
    assert len(line) <= MAX_LENGTH, f"{len(line)} characters: {line}"
    assert line.isprintable(), f"not printable, or not one line: {line!r}"
    assert not any(raw in line for raw in _RAW), line
    expected = [one_line(name)[:60] for name in names]
    assert not expected or any(name in line for name in expected), f"names none of {expected}: {line}"


@contextmanager
def _limited() -> Iterator[None]:
    """Limit time and memory of one input. Does nothing outside the main thread, which alone receives signals."""
    if threading.current_thread() is not threading.main_thread() or sys.platform != "linux":
        yield
        return

    def hangs(*_: Any) -> None:
        raise _Hangs(f"no end after {LONGEST_SECONDS:g} s")

    now = _address_space()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if _address_space() > now + MOST_MEMORY // 8:  # errors and their frames refer to each other
            gc.collect()


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


# ---------------------------------------------------------------------------------------------- many inputs


class Fuzz:
    """Draws inputs and counts the results."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, inputs: int, attempt: Callable[..., str], **strategies: Any) -> None:
        """Call `attempt` with `inputs` draws from the strategies; it returns what `judge` returned. The first failure
        ends the run and is reported with the smallest input that fails in the same way."""
        from hypothesis import HealthCheck, Phase, given, settings

        def counted(**drawn: Any) -> None:
            self.counts[attempt(**drawn)] += 1

        setup = settings(
            max_examples=inputs,
            derandomize=inputs < FEW,
            database=None,
            deadline=None,
            print_blob=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
        )
        setup(given(**strategies)(counted))()


FEW = 100
"""A test with fewer inputs than this draws the same ones every time."""


def extents(few: int, many: int) -> Any:
    """Number of inputs of a test: `few` in `make test`, `many` in `make test-long`."""
    assert few < FEW <= many
    return pytest.mark.parametrize(
        "inputs", [pytest.param(few, id="few"), pytest.param(many, id="many", marks=pytest.mark.long)]
    )
