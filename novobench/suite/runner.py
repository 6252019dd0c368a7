"""`run`: train the missing cells, show progress, collect the records, write tables and figures."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from novobench import places
from novobench.console import console, counted, duration
from novobench.errors import NovobenchError, one_line
from novobench.files import readable_os_errors
from novobench.places import display_path
from novobench.suite.claims import declare
from novobench.suite.collected import collected_cells
from novobench.suite.collection import collect, undamaged
from novobench.suite.executors import Event, default_jobs, run_local, sharing
from novobench.suite.experiment import Experiment
from novobench.suite.forecast import forecast, measured_speeds
from novobench.suite.identity import changed_data_errors, collected_on_other_data
from novobench.suite.markdown_text import four_digits
from novobench.suite.plan import Plan, PlannedCell, PlannedRow, check_not_empty, planned_rows, source_files
from novobench.suite.results import Results, locked
from novobench.suite.table_rows import table_rows
from novobench.suite.tables import markdown, write_table
from novobench.tasks.metric import Metric


def run(plan: Plan, jobs: int | None) -> int:
    """Train the missing cells, collect the finished ones and write the tables. Exit code 1 if a cell failed.

    An interrupt ends the training; cells that finished by then are still collected. Cells of an overridden recipe are
    trained but not collected: tables hold the experiment's own recipe. Results that were collected before count if the
    command names its seeds (see `collected_cells`); otherwise this machine's replace them.
    """
    out = console()
    check_not_empty(plan)
    check_writable(plan.scale)
    files = source_files(plan.experiments)
    results = Results.load(plan.scale)
    other_data = collected_on_other_data(plan.cells, results, out) if plan.seeds_are_named else ()
    collected = collected_cells(plan, results, other_data)
    again = [cell for cell in plan.cells if cell.own_recipe and cell.id in results.cells and cell.id not in collected]
    if plan.seeds_are_named and again:
        out.print(
            f"{counted(len(again), 'cell')} in {display_path(results.folder)} cannot be paired with cells of this "
            "machine: they come from another type of processor, or from other data."
        )
    wrong_data = changed_data_errors([cell for cell in plan.cells if cell.id not in collected], out)
    to_collect = [cell for cell in plan.cells if cell.own_recipe and cell.id not in (wrong_data.keys() | collected)]
    declare(plan)
    try:
        failed = wrong_data | train(plan.cells, results, jobs, out, collected)
    except KeyboardInterrupt:
        _collect(plan, files, to_collect, collected, results, out, complete=False)
        raise
    problems = _collect(plan, files, to_collect, collected, results, out, complete=not failed)
    for cell in plan.cells:
        if not cell.own_recipe and cell.folder.finished and cell.id not in wrong_data:
            try:
                _print_metrics(cell, out)
            except NovobenchError as error:
                problems.append(str(error))
    return summarize(failed, problems, plan.cells)


def _collect(
    plan: Plan,
    files: Mapping[Path, bytes | None],
    cells: Sequence[PlannedCell],
    collected: Collection[str],
    results: Results,
    out: Console,
    *,
    complete: bool,
) -> list[str]:
    """Add the finished ones among `cells` to `results/<scale>/`, where those in `collected` are, and write tables and
    figures; returns the problems.

    `files` is the content of configs and experiments when the cells were planned: a search may have changed the rates
    since. Unless everything was trained (`complete`), only rows with results are printed.
    """
    if not cells and not collected:
        return []
    scale = plan.scale
    with locked(scale):
        results = results.reloaded()
        problems = collect((cell.folder for cell in cells), results)
        files_changed = source_files(plan.experiments) != files
        for experiment in plan.experiments:
            planned = plan.rows[experiment.name]
            rows = table_rows(experiment, results, planned)
            rows_to_print = rows if complete else [row for row in rows if row.cells]
            if not rows_to_print:
                continue
            _, table = write_table(experiment, scale, rows)
            out.print(Markdown(markdown(experiment, rows_to_print, scale)))
            out.print(f"Written: {display_path(table)}")
            if experiment.figure:
                from novobench.suite.plots import write_figure

                out.print(f"Written: {display_path(write_figure(experiment, scale, rows))}")
            if files_changed and _changed(experiment, planned, scale):
                out.print(
                    f"The rates or configs of {experiment.name} changed while this command ran; the table shows the "
                    "ones it started with. Run it again for the new ones."
                )
    return problems


def _changed(experiment: Experiment, planned: Sequence[PlannedRow], scale: str) -> bool:
    """Whether the rows would be planned differently now, or cannot be read any more."""
    try:
        return planned_rows(experiment, scale) != planned
    except NovobenchError:
        return True


def train(
    cells: Sequence[PlannedCell], results: Results, jobs: int | None, out: Console, collected: Collection[str] = ()
) -> dict[str, str]:
    """Train the cells that have no record yet; returns the errors by cell id. collected: cells that need no record."""
    to_do = [cell for cell in cells if cell.id not in collected and not cell.folder.finished]
    speeds = measured_speeds(results)
    # The longest cell first, so that the last one to finish is short.
    to_do.sort(key=lambda cell: -(forecast(cell, speeds).seconds or 0.0))
    finished = len(cells) - len(collected) - len(to_do)
    before = f"{len(collected)} in {display_path(results.folder)}, " if collected else ""
    out.print(f"{counted(len(cells), 'cell')}: {before}{finished} already finished, {len(to_do)} to train.")
    if not to_do:
        return {}
    jobs = jobs or default_jobs(to_do)
    if notice := sharing(to_do, jobs):
        out.print(notice)
    with _Display(len(to_do), out) as display:
        return run_local(to_do, jobs, display.on_event)


class _Display:
    """Progress bars for all cells together and for each running cell; only plain lines without a terminal."""

    def __init__(self, total: int, out: Console) -> None:
        self.out = out
        self.progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=out, transient=True, disable=not out.is_terminal,
        )  # fmt: skip
        self.all = self.progress.add_task("all cells", total=total)
        self.bars: dict[str, TaskID] = {}
        self.count, self.total = 0, total

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def on_event(self, event: Event) -> None:
        cell = event.cell.id
        if event.kind == "started":
            self.bars[cell] = self.progress.add_task(cell, total=100)
        elif event.kind == "progress":
            self.progress.update(self.bars[cell], completed=round(100 * event.done))
        else:
            self.count += 1
            self.progress.remove_task(self.bars.pop(cell))
            self.progress.advance(self.all)
            outcome = f"in {duration(event.seconds)}" if event.kind == "finished" else "FAILED"
            self.out.print(f"[{self.count}/{self.total}] {cell} ({', '.join(event.cell.requested_by)}) {outcome}")


def check_writable(scale: str) -> None:
    """Raise NovobenchError before hours of training if their results could not be written."""
    for folder in (places.workspace().runs(scale), places.workspace().results(scale)):
        with readable_os_errors(folder, "write into"):
            places.check_writable(folder)


def _print_metrics(cell: PlannedCell, out: Console) -> None:
    lines = []
    with undamaged(cell.folder, "record.json"):
        record = cell.folder.read_record()
        for split, metrics in record.metrics.items():
            baselines = _values(record.baselines.get(split, {}))
            lines.append(f"{cell.id} {split}: {_values(metrics)}" + (f" (baselines: {baselines})" if baselines else ""))
    for line in lines:
        out.print(line)


def _values(metrics: Mapping[str, Metric]) -> str:
    return ", ".join(f"{name} {four_digits(metric.value)}" for name, metric in metrics.items())


def summarize(failed: Mapping[str, str], problems: Sequence[str], cells: Sequence[PlannedCell]) -> int:
    """Print one line per failure; returns the exit code."""
    for cell, error in failed.items():
        print(f"novobench: {cell} failed: {one_line(error)}", file=sys.stderr)
    for problem in problems:
        print(f"novobench: {one_line(problem)}", file=sys.stderr)
    if failed:
        print(
            f"novobench: {len(failed)} of {len(cells)} cells failed; the others are finished and kept. "
            "Run the same command again to retry.",
            file=sys.stderr,
        )
    return 1 if failed or problems else 0
