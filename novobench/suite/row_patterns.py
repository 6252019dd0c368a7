"""Patterns of rows, `<experiment>/<row>`, in configs/rubric.yaml and configs/deviations.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from novobench.errors import ConfigError, suggestion


def matches(row: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern matches `<experiment>/<row>`. `*` stands for any text, `[123]` for one of the characters."""
    return any(fnmatchcase(row, pattern) for pattern in patterns)


def matching(patterns: Sequence[str], rows: Sequence[str], where: str) -> list[str]:
    """Those of `rows` that a pattern matches. Raises ConfigError, naming `where`, for a pattern that matches none."""
    for pattern in patterns:
        if not any(fnmatchcase(row, pattern) for row in rows):
            raise ConfigError(f"{where}: '{pattern}' is no row.{suggestion(pattern, list(rows))}")
    return [row for row in rows if matches(row, patterns)]
