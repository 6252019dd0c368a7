"""Text for Markdown, CSV and terminals: nothing in it breaks a line, a table or a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

NOT_FINITE = "not finite"


def four_digits(value: float) -> str:
    """A number for a sentence; in words if it is not finite."""
    return f"{value:.4g}" if math.isfinite(value) else NOT_FINITE


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]


def one_line(text: str) -> str:
    """Text for a CSV file, a figure or a terminal: on one line, without characters that these cannot hold or take for
    commands."""
    return " ".join(_NOT_TEXT.sub(" ", text).split())


_NOT_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+")
"""Control characters, surrogates and noncharacters."""


def plain(text: str) -> str:
    """Markdown that shows the text as it is, its special characters included, on one line."""
    return _SPECIAL.sub(r"\\\g<0>", one_line(text))


_SPECIAL = re.compile(r"[\\`*<|~$]|\[(?=[^\]]*\][(\[:])|(?<![^\W_])_|_(?![^\W_])|&(?=#|\w+;)")
"""Markdown's special characters within a line. An underscore inside a word is not one, nor is a bracket that does not
begin a link."""


def prose(text: str) -> str:
    """Markdown that shows a note as it is, except that a pair of backticks marks code."""
    parts = re.split(r"(`[^`]+`)", one_line(text))
    escaped = "".join(part if index % 2 else _SPECIAL.sub(r"\\\g<0>", part) for index, part in enumerate(parts))
    return re.sub(r"^(\d*)([-+=>#.)])", r"\1\\\2", escaped)  # no list, quotation or heading
