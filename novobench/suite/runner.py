"""`run` and `search`: train what is missing, show progress, collect the records, write what follows from them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from filelock import FileLock
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from novobench.config import shown
from novobench.console import console, duration
from novobench.errors import DataError, NovobenchError
from novobench.files import told_plainly, write_json
from novobench.suite import records
from novobench.suite.executors import Event, default_jobs, run_local, sharing
from novobench.suite.experiment import Experiment, tuned_file
from novobench.suite.forecast import forecast
from novobench.suite.identity import other_data
from novobench.suite.plan import PlannedCell, plan, runs_folder
from novobench.suite.tables import write_table


def run(
    experiments: Sequence[Experiment], cells: Sequence[PlannedCell], scale: str, seeds: int, jobs: int | None
) -> int:
    """Train the missing cells, collect the finished ones and write the tables. Exit code 1 if a cell failed.

    An interrupt ends the training; what is finished by then is collected all the same. Cells of an overridden recipe
    are trained but not collected: tables hold the experiment's own recipe.
    """
    out = console()
    if not cells:
        raise NovobenchError(f"{', '.join(e.name for e in experiments)}: no row has a cell at {scale} scale.")
    _check_writable(scale)
    own = {cell.id for cell in plan(experiments, scale, range(seeds))}
    foreign = other_data(cells, out)
    ours = [cell for cell in cells if cell.id in own and cell.id not in foreign]
    try:
        failed = foreign | train(cells, scale, jobs, out)
    except KeyboardInterrupt:
        _collect(experiments, ours, scale, out)
        raise
    _collect(experiments, ours, scale, out)
    for cell in cells:
        if cell.id not in own and cell.folder.finished and cell.id not in foreign:
            _print_metrics(cell, out)
    return _summary(failed, cells)


def _collect(experiments: Sequence[Experiment], ours: Sequence[PlannedCell], scale: str, out: Console) -> None:
    """Put the finished cells into `results/<scale>/`, and write what follows from them."""
    with FileLock(runs_folder(scale) / "collect.lock"):
        records.collect((cell.folder for cell in ours), scale)
        for experiment in experiments if ours else ():
            _, markdown = write_table(experiment, scale)
            out.print(Markdown(markdown.read_text(encoding="utf-8")))
            out.print(f"Written: {shown(markdown)}")
            if experiment.figure:
                from novobench.suite.plots import write_figure

                out.print(f"Written: {shown(write_figure(experiment, scale))}")


def search(experiment: Experiment, scale: str, budget: int, seeds: int, jobs: int | None, keys: Sequence[str]) -> int:
    """Train all trials, then write `search.csv` and the tuned rates."""
    from novobench.suite import search as searching

    out = console()
    _check_writable(scale)
    done = searching.trials(experiment, scale, budget, range(seeds), keys)
    cells = list({cell.id: cell for trial in done for cell in trial.cells}.values())
    for cell, error in other_data(cells, out).items():
        raise DataError(f"{cell}: {error}")
    failed = train(cells, scale, jobs, out)
    only = f" --keys {' '.join(keys)}" if keys else ""
    command = f"novobench search {experiment.name} --scale {scale} --budget {budget} --seeds {seeds}{only}"
    with FileLock(runs_folder(scale) / "collect.lock"):
        best = searching.conclude(experiment, scale, done, command)
    for key, trial in best.items():
        out.print(f"{key}: " + ", ".join(f"{name} {value:g}" for name, value in trial.rates.items()))
    out.print(f"Written: {shown(tuned_file(experiment.task, scale))}")
    if failed:
        out.print(f"{len(failed)} trials failed and cannot win; the first: {next(iter(failed.values()))}")
    return 0


def train(cells: Sequence[PlannedCell], scale: str, jobs: int | None, out: Console) -> dict[str, str]:
    """Train those cells that have no record yet, the longest first; returns the errors by cell id."""
    past = records.speeds(scale)
    to_do = [cell for cell in cells if not cell.folder.finished]
    to_do.sort(key=lambda cell: -(forecast(cell, past).seconds or 0.0))  # so that no job is left alone with a long one
    out.print(f"{len(cells)} cells: {len(cells) - len(to_do)} finished before, {len(to_do)} to train.")
    if not to_do:
        return {}
    jobs = jobs or default_jobs(to_do)
    if notice := sharing(to_do, jobs):
        out.print(notice)
    with _Display(len(to_do), out) as display:
        return run_local(to_do, jobs, display.tell)


class _Display:
    """A bar for all cells and one for each that runs; plain lines where there is no terminal."""

    def __init__(self, total: int, out: Console) -> None:
        self.out = out
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
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

    def tell(self, event: Event) -> None:
        cell = event.cell.id
        if event.kind == "started":
            self.bars[cell] = self.progress.add_task(cell, total=100)
        elif event.kind == "progress":
            self.progress.update(self.bars[cell], completed=round(100 * event.done))
        else:
            self.count += 1
            self.progress.remove_task(self.bars.pop(cell))
            self.progress.advance(self.all)
            told = f"in {duration(event.seconds)}" if event.kind == "finished" else f"FAILED: {event.error}"
            self.out.print(f"[{self.count}/{self.total}] {cell} ({', '.join(event.cell.users)}) {told}", markup=False)


def _check_writable(scale: str) -> None:
    """Find out before hours of training that their results could not be kept."""
    for folder in (runs_folder(scale), records.results_folder(scale)):
        probe = folder / ".probe"
        with told_plainly(folder, "write into"):
            write_json(probe, {})
            probe.unlink()


def _print_metrics(cell: PlannedCell, out: Console) -> None:
    record = cell.folder.read_record()
    for split, metrics in record["metrics"].items():
        numbers = ", ".join(f"{name} {metric['value']:.4g}" for name, metric in metrics.items())
        known = ", ".join(f"{name} {found['value']:.4g}" for name, found in record["baselines"].get(split, {}).items())
        out.print(f"{cell.id} {split}: {numbers}" + (f" (without training: {known})" if known else ""))


def _summary(failed: dict[str, str], cells: Sequence[PlannedCell]) -> int:
    for cell, error in failed.items():
        print(f"novobench: {cell} failed: {error}", file=sys.stderr)
    if failed:
        print(
            f"novobench: {len(failed)} of {len(cells)} cells failed; the others are finished and kept. "
            "Run the same command again to retry.",
            file=sys.stderr,
        )
    return 1 if failed else 0
