"""Which cells (training runs) count as trained because their results are in `results/<scale>/`, though not in `runs/`.

This holds for seeds that a command names, so that seeds can be added to results of another machine. The cells of an
experiment that share a seed are compared, and must come from one type of processor.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

from novobench import hardware
from novobench.suite.forkserver import forkserver
from novobench.suite.plan import Plan
from novobench.suite.results import Results


def collected_cells(plan: Plan, results: Results, other_data: Collection[str] = ()) -> set[str]:
    """Ids of the planned cells that need no training; none if the plan's seeds were not named.

    If a seed of an experiment is not complete, or comes from several types of processors, only results of this
    machine's type count: the others are trained again. other_data: cells that were trained on other data than today's.
    """
    if not plan.seeds_are_named:
        return set()
    counted = {
        cell.id for cell in plan.cells if cell.own_recipe and cell.id in results.cells and cell.id not in other_data
    }
    types = {cell: hardware.processor_type(results.hardware(cell)) for cell in counted}
    groups: dict[tuple[str, int], list[str]] = {}
    for cell in plan.cells:
        for experiment in {row.partition("/")[0] for row in cell.requested_by}:
            groups.setdefault((experiment, cell.config.seed), []).append(cell.id)
    before = -1
    while len(counted) != before:  # experiments share cells, so one that is trained again may break another's group
        before = len(counted)
        for group in groups.values():
            of_group = {types[cell] for cell in group if cell in counted}
            if of_group and (len(of_group) > 1 or not counted.issuperset(group)):
                counted -= {cell for cell in group if cell in counted and types[cell] != this_processor()}
    return counted


@cache
def this_processor() -> str:
    """The type of processor or GPU that cells are trained on here, found out in another process: CUDA must not start in
    this one."""
    with forkserver().Pool(1) as pool:
        return hardware.processor_type(pool.apply(hardware.describe))
