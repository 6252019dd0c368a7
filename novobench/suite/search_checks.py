"""What tables say about the search of a row's rates: was it as declared, and did it come to an end?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from novobench.console import counted
from novobench.errors import NovobenchError
from novobench.suite.experiment import Experiment, Row, load_experiment
from novobench.suite.row_configs import tuned_rates
from novobench.suite.search_file import SearchedKey, read_search, searched_keys
from novobench.suite.search_space import are_points_of, edge_text


def search_warnings(experiment: Experiment, rows: Sequence[Row], scale: str) -> dict[str, list[str]]:
    """Row id -> what is wrong with the search of the row's rates; rows without trials in `search.csv` are left out.

    Raises NovobenchError if `search.csv` is damaged.
    """
    by_key = {each.key: each for each in searched_keys(read_search(scale), experiment.task) if each.study == 0}
    searched_for = {experiment.name: experiment}
    warnings = {}
    for row in rows:
        key = row.tuned_key(scale)
        if key is None or key not in by_key:
            continue
        searched = by_key[key]
        name = searched.experiment
        if name not in searched_for:
            try:
                searched_for[name] = load_experiment(name)
            except NovobenchError:  # it was removed or is being edited; what it declared is unknown
                continue
        of_experiment = [each for each in by_key.values() if each.experiment == name]
        warnings[row.id] = departures(searched, searched_for[name], of_experiment)
        if edges := searched.edges:
            text = edge_text(searched.best.rates, edges)
            warnings[row.id].append(f"{text}, so a better one may lie beyond it")
        rates = tuned_rates(experiment.task, scale, key, row.id, own=True)
        if rates and {name: float(rate) for name, rate in rates.items()} != searched.best.rates:
            warnings[row.id].append("its rates are not those that its search chose")
    return warnings


def departures(searched: SearchedKey, experiment: Experiment, of_experiment: Sequence[SearchedKey]) -> list[str]:
    """How the search of a key differs from what its experiment declares.

    of_experiment: all keys that were searched for that experiment.
    """
    problems = []
    declared = experiment.search
    counts = set(Counter(trial.round for trial in searched.trials).values())
    seeds = {len(trial.values) for trial in searched.trials}
    if counts != {declared.trials} or seeds != {declared.seeds}:
        tried = " × ".join("-".join(map(str, sorted(each))) for each in (counts, seeds))
        problems.append(f"searched with {tried} trials per round instead of {declared.trials} × {declared.seeds}")
    if not _has_declared_ranges(searched, experiment):
        problems.append(f"searched in other ranges than {experiment.name} declares")
    most = max(each.rounds for each in of_experiment)
    if searched.rounds < most:
        problems.append(f"searched in {counted(searched.rounds, 'round')}, other rates of {experiment.name} in {most}")
    return problems


def _has_declared_ranges(searched: SearchedKey, experiment: Experiment) -> bool:
    try:
        ranges = experiment.search.ranges_of(searched.optimizer)
    except LookupError:  # an optimizer of another package, which is not installed here
        return True
    return all(
        are_points_of(
            ranges, experiment.search.widen, round, [trial.rates for trial in searched.trials if trial.round == round]
        )
        for round in {trial.round for trial in searched.trials}
    )
