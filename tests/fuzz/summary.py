"""The counts of all fuzz tests, printed below pytest's summary."""

import ast
from collections import Counter
from typing import Any

PROPERTY = "fuzz"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Inputs by kind: tried, worked, clear errors. The counts are properties of the tests, which xdist passes on."""
    counts: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", []):
                if name == PROPERTY and report.when == "teardown":
                    kind, _, count_by_result = value.partition(": ")
                    counts.setdefault(kind, Counter()).update(ast.literal_eval(count_by_result))
    if not counts:
        return
    counts["all"] = sum(counts.values(), Counter())
    terminalreporter.section("inputs of the fuzz tests")
    for kind, count in counts.items():
        parts = ", ".join(f"{number} {result}" for result, number in sorted(count.items(), reverse=True))
        terminalreporter.write_line(f"{kind}: {sum(count.values())} tried, {parts}")
