"""The ledger, configs/deviations.yaml: each entry is complete, its rows exist, and its switch does what it says."""

import dataclasses
import functools
import re

import pytest

from novobench.config import SCALES, cell_id
from novobench.config_loading import parse_overrides, read_yaml
from novobench.errors import ConfigError
from novobench.places import ROOT
from novobench.suite.experiment import experiment_names, load_experiment
from novobench.suite.ledger import Deviation, Switch, ledger_notes, load_ledger
from novobench.suite.row_configs import row_config
from novobench.suite.row_patterns import matches, matching

LEDGER = load_ledger()
WITH_OVERRIDES = [id for id, entry in LEDGER.items() if entry.switch.set]


@functools.cache
def experiments():
    return {name: load_experiment(name) for name in experiment_names()}


@functools.cache
def places_of_rows():
    return [f"{name}/{row.id}" for name, experiment in experiments().items() for row in experiment.rows]


@functools.cache
def config_of(place, scale):
    """The config of `<experiment>/<row>`; None without a cell."""
    name, _, id = place.partition("/")
    return row_config(experiments()[name], experiments()[name].row(id), scale, 0)


@pytest.mark.parametrize(("id", "content"), read_yaml(ROOT / "configs" / "deviations.yaml").items())
def test_an_entry_is_complete(id, content):
    order = ["paper", "alternatives", "choice", "why", "rows", "scales", "switch"]
    assert list(content) == [key for key in order if key in content]
    assert content.get("scales") != list(SCALES)  # the default
    assert all(text.strip() for text in dataclasses.astuple(LEDGER[id])[:4])


@pytest.mark.parametrize("id", LEDGER)
def test_the_rows_of_an_entry_exist(id):
    """Each pattern matches, and each scale has a row that the entry touches, with a cell or quoted."""
    entry = LEDGER[id]
    named = matching(entry.rows, places_of_rows(), id)
    for scale in entry.scales:
        rows = [experiments()[name].row(row) for name, _, row in (place.partition("/") for place in named)]
        assert any(row.at(scale) is not None or row.quoted for row in rows), scale


@pytest.mark.parametrize("id", [id for id, entry in LEDGER.items() if entry.switch.row])
def test_a_row_that_is_a_switch_exists(id):
    assert LEDGER[id].switch.row in places_of_rows()
    assert config_of(LEDGER[id].switch.row, LEDGER[id].scales[-1]) is not None


@pytest.mark.parametrize("id", WITH_OVERRIDES)
def test_overrides_change_exactly_what_they_name(id):
    """Applied to a row that the entry names, they make a valid config of another cell; every key has another value, and
    no other key has."""
    entry = LEDGER[id]
    overrides = parse_overrides(entry.switch.set)
    scale = entry.scales[-1]
    problems = []
    for place in matching(entry.rows, places_of_rows(), id):
        if place.startswith("rivals") or (before := config_of(place, scale)) is None:
            continue
        try:
            name, _, row = place.partition("/")
            after = row_config(experiments()[name], experiments()[name].row(row), scale, 0, overrides)
        except ConfigError as error:
            problems.append(str(error))
            continue
        changed = differing(before, after)
        written = (re.sub(r"^schedule\.warmup$", "schedule.warmup_updates", key) for key in overrides)
        keys = [tuple(re.findall(r"[^.\[\]]+", key)) for key in written]
        unchanged = [key for key in keys if not any(path[: len(key)] == key for path in changed)]
        others = [path for path in changed if not any(path[: len(key)] == key for key in keys)]
        if not unchanged and not others and cell_id(before) != cell_id(after):
            return
        problems.append(f"{place}: unchanged {unchanged}, also changed {others}")
    pytest.fail("\n".join(problems))


def differing(before, after):
    """The paths of the values in which two configs differ."""
    one, other = flat(dataclasses.asdict(before)), flat(dataclasses.asdict(after))
    return {path for path in one.keys() | other.keys() if one.get(path, ()) != other.get(path, ())}


def flat(value, path=()):
    """Path -> value, for all values in nested mappings and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {}
    for key, inner in items:
        found |= flat(inner, (*path, str(key)))
    return found or {path: value}


# ---------------------------------------------------------------------------------------------- fabricated entries

ENTRY = "{{paper: silent., alternatives: a, choice: b, why: c, rows: {rows}, switch: {switch}}}"


@pytest.fixture
def ledger(workspace):
    """Writes entries, one per list of patterns."""

    def write(*rows, switch="{none: d}"):
        path = workspace / "configs" / "deviations.yaml"
        lines = [f"e{i}: {ENTRY.format(rows=patterns, switch=switch)}\n" for i, patterns in enumerate(rows)]
        path.write_text("".join(lines))

    return write


def test_a_table_names_the_entries_of_its_rows(ledger):
    ledger("[small/sgd]", "[small/s*, other/*]", "[other/*]", "['*']")
    assert ledger_notes("small", ["sgd", "novograd"], "laptop") == [
        "`e0`: the paper: silent. Here: b.",
        "`e1`: the paper: silent. Here: b.",
    ]
    assert ledger_notes("small", ["novograd"], "laptop") == []
    ledger(*["[small/sgd]"] * 7)
    [line] = ledger_notes("small", ["sgd"], "laptop")
    assert line.endswith("see `configs/deviations.yaml`: `e0`, `e1`, `e2`, `e3`, `e4`, `e5`, `e6`.")


def test_an_entry_belongs_to_scales():
    entry = Deviation("a", "b", "c", "d", ["table[12]/*_1k"], Switch(none="e"), scales=["gpu"])
    assert entry.touches("table2", "t2_1k", "gpu")
    assert not entry.touches("table2", "t2_1k", "full")
    assert not entry.touches("table3", "t3_1k", "gpu")
    assert not entry.touches("table2", "t2_8k", "gpu")
    assert matches("table1/x_1k", entry.rows)


@pytest.mark.parametrize(
    ("switch", "message"),
    [
        ("{none: a, row: b}", "'e0.switch' needs one of 'set', 'row' and 'none'"),
        ("{}", "'e0.switch' needs one of 'set', 'row' and 'none'"),
        ("{nothing: a}", "nothing"),
    ],
)
def test_a_switch_is_one_thing(ledger, switch, message):
    ledger("[small/sgd]", switch=switch)
    with pytest.raises(ConfigError, match=f"configs/deviations.yaml.*{message}"):
        load_ledger()


def test_a_scale_must_exist(ledger, workspace):
    ledger("[small/sgd], scales: [huge]")
    with pytest.raises(ConfigError, match=r"'e0.scales' has 'huge'. Known: laptop, gpu, full."):
        load_ledger()
