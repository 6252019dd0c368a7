"""The ledger, configs/deviations.yaml: each entry is complete, and its switch exists."""

import pytest

from novobench.config_loading import parse_overrides, read_yaml
from novobench.errors import ConfigError
from novobench.places import ROOT
from novobench.suite.experiment import experiment_names, load_experiment, row_config
from novobench.tasks.catalog import plain, task_names

LEDGER = read_yaml(ROOT / "configs" / "deviations.yaml")
SWITCHES = [(name, switch) for name, entry in LEDGER.items() for switch in entry["switch"].split(", ")]


@pytest.fixture(scope="module")
def rows():
    """The rows that NovoGrad trains, by task, each with its experiment."""
    experiments = [load_experiment(name) for name in experiment_names()]
    rows_by_task = {task: [] for task in task_names()}
    for experiment in experiments:
        for row in experiment.rows:
            config = row_config(experiment, row, "laptop", 0) or row_config(experiment, row, "full", 0)
            if config and config.optimizer.name == "novograd":
                rows_by_task[config.task].append((experiment, row))
    return rows_by_task


@pytest.mark.parametrize("name", LEDGER)
def test_an_entry_is_complete(name):
    assert list(LEDGER[name]) == ["paper", "alternatives", "choice", "why", "switch"]
    assert all(isinstance(text, str) and text.strip() for text in LEDGER[name].values())


@pytest.mark.parametrize(("name", "switch"), [pair for pair in SWITCHES if pair[1] != "none"])
def test_a_switch_exists(name, switch, rows):
    """A switch is a row, or a key of a task's config, with a valid value if it has one."""
    if switch.startswith("the row "):
        assert switch.split()[2] in {row.id for pairs in rows.values() for _, row in pairs}
        return
    key, has_value, _ = switch.partition("=")
    failures = []
    for experiment, row in (pairs[0] for pairs in rows.values()):
        try:
            tree = plain(row_config(experiment, row, "laptop", 0, parse_overrides([switch]) if has_value else {}))
            for part in key.removesuffix(".*").split("."):
                tree = tree[part]
            return
        except (ConfigError, KeyError) as error:
            failures.append(f"{experiment.task}: {error}")
    pytest.fail(f"{name}: {switch}: {'; '.join(failures)}")
