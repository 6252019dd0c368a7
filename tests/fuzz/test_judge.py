"""The judge of the fuzz tests passes only inputs that work or end in one clear line."""

import os
import sys
import time
import warnings

import pytest

from novobench.errors import ConfigError, DataError
from tests.fuzz import judge as judging
from tests.fuzz.judge import CLEAR_ERROR, WORKED, Fuzz, judge, judge_command


def raising(error):
    def call():
        raise error

    return call


def test_success_and_clear_errors_pass():
    assert judge(lambda: None) == WORKED
    assert judge(raising(DataError("a.png cannot be decoded.")), "a.png") == CLEAR_ERROR
    assert judge(raising(ConfigError("'x\x1b[31m' is no key.")), "x\x1b[31m") == CLEAR_ERROR


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (raising(ValueError("x")), ValueError),
        (raising(SystemExit(0)), AssertionError),
        (raising(DataError("it failed")), AssertionError),  # names nothing
        (raising(DataError("")), AssertionError),
        (raising(DataError("a.png: <class 'int'>")), AssertionError),
        (lambda: warnings.warn("a.png", UserWarning, stacklevel=1), UserWarning),
        (lambda: bytearray(1 << 40), MemoryError),
    ],
)
def test_anything_else_fails(call, kind):
    with pytest.raises(kind):
        judge(call, "a.png")


def test_a_hang_fails(monkeypatch):
    monkeypatch.setattr(judging, "LONGEST_SECONDS", 0.05)

    def hang():
        while True:
            try:
                time.sleep(1)
            except Exception:
                continue

    with pytest.raises(AssertionError, match="no end after 0.05 s"):
        judge(hang)


def command(code, out="", err=""):
    def main(_):
        sys.stdout.write(out)
        sys.stderr.write(err)
        sys.exit(code)

    return main


@pytest.mark.parametrize(
    ("code", "out", "err", "expected"),
    [
        (0, "done\n", "", WORKED),
        (1, "", "novobench: a.png is damaged.\n", CLEAR_ERROR),
        (2, "", "usage: novobench plan\n    [-h]\nnovobench plan: error: x\n", CLEAR_ERROR),
        (0, "", "novobench: a.png is damaged.\n", None),
        (1, "", "", None),
        (1, "", "Traceback …\nnovobench: a.png\n", None),
        (1, "", "novobench: a.png\nnovobench: more\n", None),
        (3, "", "novobench: a.png\n", None),
        (2, "", "usage: novobench plan\nnovobench plan: error: x\ny\n", None),
        (1, "", "novobench: a.png\x1b[31m\n", None),
    ],
)
def test_commands(code, out, err, expected, monkeypatch):
    monkeypatch.setattr("novobench.cli.main", command(code, out, err))
    if expected:
        assert judge_command(["plan"], "a.png") == expected
    else:
        with pytest.raises(AssertionError):
            judge_command(["plan"], "a.png")


def test_output_that_a_terminal_cannot_encode_fails(monkeypatch):
    monkeypatch.setattr("novobench.cli.main", command(0, "\udcff"))
    with pytest.raises(UnicodeEncodeError):
        judge_command(["plan"])


def test_counts():
    from hypothesis import strategies as st

    fuzz, odd = Fuzz(), raising(DataError("odd"))
    fuzz(30, lambda number: judge(odd if number % 2 else os.getpid), number=st.integers(0, 99))
    assert sum(fuzz.counts.values()) == 30
    assert set(fuzz.counts) == {WORKED, CLEAR_ERROR}
