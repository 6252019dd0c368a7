"""What `novobench data` prints: what is in the data, and the options that train on them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from novobench.console import console
from novobench.suite.own_data import measure, problem_lines


def report(task: str, scale: str, overrides: Mapping[str, Any]) -> int:
    """Measure the data and print what they are."""
    measured = measure(task, scale, overrides)
    out = console()
    out.print(f"data '{measured.name}' for the task {task} at {scale} scale")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for heading, text in measured.facts:
        table.add_row(heading, text)
    out.print(table)
    for line in problem_lines(measured):
        out.print(line)
    for note in measured.notes:
        out.print(note)
    out.print(f"fingerprint {measured.fingerprint}")
    out.print("\nTo train on them, add this to run, plan, config, search or compare, which measures them again:")
    print(f"  --data {words(measured.given_words)}")
    out.print("Or this, with the numbers found now:")
    print(f"  --set {words(measured.options)}")
    return 0


def words(options: list[str]) -> str:
    """Options as they are typed in a shell."""
    return " ".join(
        f'"{word}"' if "'" in word and not set(word) & set('"$`\\!\n') else shlex.quote(word) for word in options
    )
