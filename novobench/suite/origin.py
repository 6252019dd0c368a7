"""Where results come from: the processor and the code that cells (training runs) were trained with.

Another type of processor or another commit may change a result beyond what the seed does. So the two trainings of a
pair should agree in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from novobench import hardware
from novobench.seeds import seeds_text
from novobench.suite.results import Results
from novobench.suite.table_rows import TableRow, seed_of


class Origin(NamedTuple):
    """The origin of a cell. Its text is `str(origin)`."""

    hardware: str
    code: str
    """Commit."""
    is_dirty: bool
    """Whether the code had uncommitted changes."""

    @classmethod
    def of(cls, results: Results, cell: str) -> Origin:
        return cls(results.hardware(cell), results.code(cell), results.is_dirty(cell))

    @property
    def processor(self) -> str:
        """The type of processor or GPU, whatever the number."""
        return hardware.processor_type(self.hardware)

    def __str__(self) -> str:
        return f"{self.hardware}, code {self.code}{' with uncommitted changes' if self.is_dirty else ''}"


def origins_note(rows: Sequence[TableRow]) -> str:
    """`Seeds 100-109: AMD EPYC, 2 cores, code e97574d0c1a2; seed 110: …`"""
    by_seed: dict[int, set[Origin]] = {}
    for row in rows:
        for cell in row.cells:
            by_seed.setdefault(seed_of(cell), set()).add(Origin.of(row.results, cell))
    seeds_by_origins: dict[tuple[Origin, ...], list[int]] = {}
    for seed, origins in sorted(by_seed.items()):
        seeds_by_origins.setdefault(tuple(sorted(origins)), []).append(seed)
    if not seeds_by_origins:
        return "Nothing has been trained yet."
    parts = [f"{seeds_text(seeds)}: {' and '.join(map(str, origins))}" for origins, seeds in seeds_by_origins.items()]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def pair_problems(results: Results, first_cells: Sequence[str], second_cells: Sequence[str]) -> dict[int, str]:
    """Seed -> why its trainings on both sides are no clean pair, for the seeds that both sides have: they were trained
    on different types of processors, by different commits, or with uncommitted changes."""
    first, second = _origins_by_seed(results, first_cells), _origins_by_seed(results, second_cells)
    problems = {}
    for seed in sorted(first.keys() & second.keys()):
        origins = first[seed] | second[seed]
        reasons = []
        if len(processors := {each.processor for each in origins}) > 1:
            reasons.append(f"trained on different processors ({', '.join(sorted(processors))})")
        if len(commits := {each.code for each in origins}) > 1:
            reasons.append(f"trained with different code ({', '.join(sorted(commits))})")
        if any(each.is_dirty for each in origins):
            reasons.append("trained with uncommitted changes to the code")
        if reasons:
            problems[seed] = "; ".join(reasons)
    return problems


def _origins_by_seed(results: Results, cells: Sequence[str]) -> dict[int, set[Origin]]:
    origins: dict[int, set[Origin]] = {}
    for cell in cells:
        origins.setdefault(seed_of(cell), set()).add(Origin.of(results, cell))
    return origins
