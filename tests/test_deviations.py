"""The ledger, configs/deviations.yaml: each entry is whole, and its switch is one that there is."""

import pytest

from novobench.config import parse_overrides, read_yaml
from novobench.errors import ConfigError
from novobench.places import ROOT
from novobench.suite.experiment import experiment_names, load_experiment, row_config
from novobench.tasks.catalog import plain, task_names

LEDGER = read_yaml(ROOT / "configs" / "deviations.yaml")
SWITCHES = [(name, switch) for name, entry in LEDGER.items() for switch in entry["switch"].split(", ")]


@pytest.fixture(scope="module")
def rows():
    """Each row that NovoGrad trains, by task: its experiment and itself."""
    experiments = [load_experiment(name) for name in experiment_names()]
    found = {task: [] for task in task_names()}
    for experiment in experiments:
        for row in experiment.rows:
            config = row_config(experiment, row, "laptop", 0) or row_config(experiment, row, "full", 0)
            if config and config.optimizer.name == "novograd":
                found[config.task].append((experiment, row))
    return found


@pytest.mark.parametrize("name", LEDGER)
def test_an_entry_says_all(name):
    assert list(LEDGER[name]) == ["paper", "alternatives", "choice", "why", "switch"]
    assert all(isinstance(text, str) and text.strip() for text in LEDGER[name].values())


@pytest.mark.parametrize(("name", "switch"), [pair for pair in SWITCHES if pair[1] != "none"])
def test_a_switch_is_there(name, switch, rows):
    """A row, or a key of a task's config that takes the value, if one is given."""
    if switch.startswith("the row "):
        assert switch.split()[2] in {row.id for found in rows.values() for _, row in found}
        return
    key, given, _ = switch.partition("=")
    failures = []
    for experiment, row in (found[0] for found in rows.values()):
        try:
            tree = plain(row_config(experiment, row, "laptop", 0, parse_overrides([switch]) if given else {}))
            for part in key.removesuffix(".*").split("."):
                tree = tree[part]
            return
        except (ConfigError, KeyError) as error:
            failures.append(f"{experiment.task}: {error}")
    pytest.fail(f"{name}: {switch}: {'; '.join(failures)}")
