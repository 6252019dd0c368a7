"""The counts of all fuzz tests, below pytest's own summary."""

import ast
from collections import Counter
from typing import Any

PROPERTY = "fuzz"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Inputs by kind: tried, worked, clear errors. They travel as properties of the tests, so through xdist, too."""
    counts: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", []):
                if name == PROPERTY and report.when == "teardown":
                    kind, _, found = value.partition(": ")
                    counts.setdefault(kind, Counter()).update(ast.literal_eval(found))
    if not counts:
        return
    counts["all"] = sum(counts.values(), Counter())
    terminalreporter.section("inputs of the fuzz tests")
    for kind, found in counts.items():
        parts = ", ".join(f"{number} {what}" for what, number in sorted(found.items(), reverse=True))
        terminalreporter.write_line(f"{kind}: {sum(found.values())} tried, {parts}")
