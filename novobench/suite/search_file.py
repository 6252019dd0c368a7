"""`results/<scale>/search.csv`: every cell of every search, and what its lines say about how a key was searched."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple

from novobench import places
from novobench.errors import NovobenchError
from novobench.files import number
from novobench.places import display_path
from novobench.suite import search_space
from novobench.suite.checked_files import Flag, Integer, Name, OptionalNumber, Text, read_lines


def rates_text(rates: dict[str, float]) -> str:
    """Rates as `search.csv` has them: `optimizer.lr=0.05 optimizer.weight_decay=0.001`."""
    return " ".join(f"{key}={value:g}" for key, value in rates.items())


def _rates(text: str) -> dict[str, float]:
    """The reverse of `rates_text`."""
    return {key: float(value) for key, value in (part.split("=") for part in text.split())}


class SearchLine(NamedTuple):
    """A line of `search.csv`: one cell (training run) of a trial."""

    schema: Integer
    key: Name
    experiment: Name
    row: Name
    optimizer: Name
    study: Integer
    round: Integer
    trial: Integer
    rates: Annotated[str, _rates]
    seed: Integer
    cell: Name
    split: Text
    metric: Name
    value: OptionalNumber
    """Empty if the training failed, `nan` if it ended in a number that is not finite."""
    chosen: Flag
    """Whether the trial is the best of its study."""


def search_path(scale: str) -> Path:
    return places.workspace().results(scale) / "search.csv"


def is_of_task(line: SearchLine, task: str) -> bool:
    return line.cell.startswith(f"{task}-")  # two tasks may use the same key


def read_search(scale: str) -> list[SearchLine]:
    """The lines of `search.csv`. Raises NovobenchError if the file is damaged or lacks the trial that won a search."""
    path = search_path(scale)
    lines = read_lines(path, SearchLine, unique=("key", "study", "round", "trial", "seed", "cell"))
    searches = {_search_of(line): line.key for line in lines}
    for line in lines:
        if line.chosen == "1":
            searches.pop(_search_of(line), None)
    if searches:
        raise NovobenchError(
            f"{display_path(path)} lacks the chosen trial of {', '.join(dict.fromkeys(searches.values()))}, so some of "
            "its lines are lost. Restore it from git, or remove the other lines of the key and search it again."
        )
    return lines


def _search_of(line: SearchLine) -> tuple[str, str, int]:
    """Task, key and study."""
    return line.cell.partition("-")[0], line.key, int(line.study)


@dataclass(frozen=True)
class SearchedTrial:
    """A trial as `search.csv` has it."""

    round: int
    number: int
    rates: dict[str, float]
    chosen: bool
    values: list[float] = field(default_factory=list)
    """One per seed; NaN if the training failed or ended in a number that is not finite."""

    @property
    def mean(self) -> float | None:
        """Over seeds; None for a trial that cannot win, because a seed failed."""
        return math.fsum(self.values) / len(self.values) if all(map(math.isfinite, self.values)) else None


@dataclass(frozen=True)
class SearchedKey:
    """One study of a key as `search.csv` has it."""

    task: str
    key: str
    experiment: str
    """That it was searched for."""
    study: int
    optimizer: str
    metric: str
    split: str
    trials: list[SearchedTrial]

    @cached_property
    def best(self) -> SearchedTrial:
        return next(trial for trial in self.trials if trial.chosen)

    @property
    def rounds(self) -> int:
        return 1 + max(trial.round for trial in self.trials)

    @property
    def edges(self) -> dict[str, str]:
        """See `search_space.edges`."""
        return search_space.edges(self.best.rates, [trial.rates for trial in self.trials])


def searched_keys(lines: Iterable[SearchLine], task: str | None = None) -> list[SearchedKey]:
    """The studies of a task's keys, or of all tasks', in the order of their lines."""
    studies: dict[tuple[str, str, int], list[SearchLine]] = {}
    for line in lines:
        if task is None or is_of_task(line, task):
            studies.setdefault(_search_of(line), []).append(line)
    return [_searched_key(lines) for lines in studies.values()]


def _searched_key(lines: Sequence[SearchLine]) -> SearchedKey:
    trials: dict[tuple[str, str], SearchedTrial] = {}
    for line in lines:
        trial = trials.setdefault(
            (line.round, line.trial),
            SearchedTrial(int(line.round), int(line.trial), _rates(line.rates), line.chosen == "1"),
        )
        trial.values.append(number(line.value) if line.value else math.nan)
    first = lines[0]
    split = next((line.split for line in lines if line.split), "")
    task, key, study = _search_of(first)
    return SearchedKey(task, key, first.experiment, study, first.optimizer, first.metric, split, list(trials.values()))
