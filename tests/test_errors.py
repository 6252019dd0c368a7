"""Messages as one printable line."""

import pytest

from novobench.errors import MAX_LENGTH, kind_and_message, one_line


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("one\ntwo\r\n\tthree", "one two three"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("caf\udce9", "caf\\udce9"),
        ("größe – 12 × 3", "größe – 12 × 3"),
        ("right-to-left \u202e and \u2028 line", "right-to-left \\u202e and line"),
        (ValueError("a\nb"), "a b"),
    ],
)
def test_one_line(message, line):
    assert one_line(message) == line
    line.encode()  # without lone surrogates


def test_a_long_message_keeps_both_ends():
    line = one_line("begin " + "x" * 100_000 + " end")
    assert line.startswith("begin x")
    assert line.endswith("x end")
    assert len(line) <= MAX_LENGTH


def test_kind_and_message():
    assert kind_and_message(ValueError("no such\nthing.")) == "ValueError: no such thing"
    assert kind_and_message(KeyError()) == "KeyError"
