"""What `novobench rubric` prints: the tree of leaves at a scale, or the counts at all scales."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from rich.table import Table

from novobench.config import SCALES
from novobench.console import console
from novobench.suite.rubric import KINDS, STATES, Leaf, leaves
from novobench.suite.rubric_file import load_rubric

_MARKS = {"met": "✓", "not met": "✗", "not judged": "–"}


def report(scale: str | None) -> None:
    """Print the leaves at a scale, section by section, and their counts; without a scale, the counts at all scales."""
    out, found = console(), leaves(SCALES if scale is None else (scale,))
    if scale is not None:
        for line in tree(scale, found[scale], load_rubric().sections):
            out.print(line, soft_wrap=True)
    out.print(counts(found))
    if scale is None:
        out.print("`novobench rubric --scale laptop` prints every leaf of a scale.")


def tree(scale: str, found: Sequence[Leaf], sections: Mapping[str, str]) -> Iterator[str]:
    """Indented lines: section, then table, figure or kind of sentence, then what is printed, with its leaves."""
    yield f"The paper at {scale} scale: ✓ met, ✗ not met, – not judged"
    for section, in_section in groupby(found, key=lambda leaf: leaf.section):
        yield f"{section}: {sections[section]}"
        for group, in_group in groupby(in_section, key=lambda leaf: leaf.group):
            yield f"  {group}"
            for name, of_name in groupby(in_group, key=lambda leaf: leaf.name):
                yield f"    {_line(name, list(of_name))}"


def _line(name: str, of_name: Sequence[Leaf]) -> str:
    """`t1_sgd_100: ✓ implemented, ✗ runs (no finished training)`."""
    parts = []
    for leaf in of_name:
        reason = f" ({leaf.reason})" if leaf.reason else ""
        parts.append(f"{_MARKS[leaf.state]} {leaf.kind}{reason}")
    return f"{name}: {', '.join(parts)}; {', '.join(dict.fromkeys(leaf.paper for leaf in of_name))}"


def counts(found: Mapping[str, Sequence[Leaf]]) -> Table:
    """How many leaves of each kind are met, by scale."""
    table = Table(box=None, pad_edge=False)
    for heading in ("scale", "kind", *STATES, "leaves"):
        table.add_column(heading, justify="left" if heading in ("scale", "kind") else "right")
    for scale, of_scale in found.items():
        for kind in KINDS:
            states = Counter(leaf.state for leaf in of_scale if leaf.kind == kind)
            table.add_row(scale, kind, *(str(states[state]) for state in STATES), str(states.total()))
    return table
