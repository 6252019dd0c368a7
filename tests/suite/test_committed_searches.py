"""The committed searches are as the experiments declare, and the rates of `tuned-<scale>.yaml` are their best."""

from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from novobench.places import ROOT
from novobench.suite.experiment import Experiment, load_experiment
from novobench.suite.search_checks import departures
from novobench.suite.search_file import SearchedKey, read_search, searched_keys
from novobench.suite.search_space import LAST_ROUND, edges, points

FILES = sorted(ROOT.glob("configs/*/tuned-*.yaml"))


def committed(path: Path) -> dict[str, SearchedKey]:
    """Key -> its search, for the tuned rates in a file."""
    scale, task = path.stem.removeprefix("tuned-"), path.parent.name
    searched = {each.key: each for each in searched_keys(read_search(scale), task) if each.study == 0}
    keys = yaml.safe_load(path.read_text())
    assert keys.keys() <= searched.keys(), "rates that no search found"
    return {key: searched[key] for key in keys}


def by_experiment(path: Path) -> list[tuple[Experiment, list[SearchedKey]]]:
    groups = defaultdict(list)
    for each in committed(path).values():
        groups[each.experiment].append(each)
    return [(load_experiment(name), group) for name, group in groups.items()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_tuned_rates_are_the_best_of_their_search(path):
    tuned = yaml.safe_load(path.read_text())
    for key, searched in committed(path).items():
        assert searched.best.rates == tuned[key], key
        means = [trial.mean for trial in searched.trials if trial.mean is not None]
        smaller = load_experiment(searched.experiment).columns[0].better == "smaller"
        assert searched.best.mean == (min if smaller else max)(means), key


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_committed_searches_have_the_declared_trials_and_ranges(path):
    """Trials, seeds, points and equal rounds. A winner may be at an edge, which the table then says."""
    for experiment, group in by_experiment(path):
        for each in group:
            assert departures(each, experiment, group) == [], f"{experiment.name} {each.key}"
            ranges = experiment.search.ranges_of(each.optimizer)
            for round in range(each.rounds):
                tried = [trial.rates for trial in each.trials if trial.round == round]
                assert tried == points(ranges, experiment.search.trials, experiment.search.widen, 0, round)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_committed_searches_were_widened_while_a_winner_was_at_an_edge(path):
    for experiment, group in by_experiment(path):
        smaller = experiment.columns[0].better == "smaller"
        for last in range(max(each.rounds for each in group)):
            at_edge = {}
            for each in group:
                trials = [trial for trial in each.trials if trial.round <= last]
                means = [trial.mean for trial in trials if trial.mean is not None]
                best = next(trial for trial in trials if trial.mean == (min if smaller else max)(means))
                at_edge[each.key] = edges(best.rates, [trial.rates for trial in trials])
            was_widened = any(each.rounds > last + 1 for each in group)
            assert was_widened == (any(at_edge.values()) and last < LAST_ROUND), (
                f"{experiment.name} round {last}: {at_edge}"
            )


def test_searches_are_judged_on_held_out_splits():
    assert {each.split for each in searched_keys(read_search("laptop"))} == {"search", "valid", "dev-clean"}
