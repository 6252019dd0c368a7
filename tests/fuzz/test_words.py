"""Arguments of the command line: overrides of every key with values of every kind, commands and options."""

import dataclasses
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from novobench import places
from novobench.config import CellConfig, to_yaml
from novobench.config_loading import load_tree, override, parse_overrides
from novobench.suite.experiment import load_experiment
from novobench.suite.plan import plan
from novobench.tasks.catalog import resolve
from tests.cells import SHARED, SMALL
from tests.fuzz.judge import extents, judge, judge_command
from tests.fuzz.odd import argument, numbers, words
from tests.tasks.translation.small import SMALL as SMALL_TRANSLATION

TASKS = ("image", "language", "speech", "translation")
RECIPES = {**SMALL, "translation": {name: value for name, value in SMALL_TRANSLATION.items() if name != "task"}}


def recipe(task: str) -> dict[str, Any]:
    """Overrides of the task's laptop config that make a cell of seconds."""
    return {key: value for key, value in {**SHARED, **RECIPES[task]}.items() if key != "seed"}


def values(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of everything in a config, including mappings and entries of lists."""
    values_by_key: dict[str, Any] = {}
    if isinstance(config, dict):
        for name, value in config.items():
            values_by_key |= {f"{prefix}{name}": value, **values(value, f"{prefix}{name}.")}
    elif isinstance(config, list) and config:
        values_by_key |= {f"{prefix[:-1]}[0]": config[0], **values(config[0], f"{prefix[:-1]}[0].")}
    return values_by_key


def default_values(task: str) -> dict[str, Any]:
    tree = override(
        load_tree(places.workspace().task_config(task, "laptop")), {"task": task, "seed": 0, **recipe(task)}, ""
    )
    return values(dataclasses.asdict(resolve(tree, "")))


DEFAULTS = {task: default_values(task) for task in TASKS}
NUMERIC = {
    task: [key for key, value in defaults.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    for task, defaults in DEFAULTS.items()
}


@pytest.fixture
def tasks(workspace):
    """An experiment of one row for each task, named as the task."""
    for task in TASKS:
        content = {
            "title": "One row", "where": "nowhere", "task": task, "set": recipe(task),
            "columns": [{"key": "loss", "split": "test", "metric": "loss", "label": "loss"}],
            "rows": [{"id": "a", "label": "A", "laptop": {}}],
        }  # fmt: skip
        (workspace / "experiments" / f"{task}.yaml").write_text(yaml.safe_dump(content))
    return {task: load_experiment(task) for task in TASKS}


@st.composite
def misspelt(draw: st.DrawFn, key: str) -> str:
    at = draw(st.integers(0, len(key)))
    put = draw(
        st.sampled_from(["", ".", "..", "[0]", "[-1]", "[99999999999999999999]", "[", "]", "[a]", "x", "_", "\u2028"])
    )
    return key[:at] + put + key[at + draw(st.integers(0, 2)) :]


@st.composite
def overrides(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A task and values for `--set`."""
    task = draw(st.sampled_from(TASKS))
    settings = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        key = draw(st.sampled_from(sorted(DEFAULTS[task])))
        kind = draw(st.integers(0, 9))
        if kind == 0:
            key = draw(misspelt(key))
        elif kind == 1:
            key = draw(words())
        elif kind == 2:
            key += draw(st.sampled_from([".x", "[0]", "[1]", ".0", ".", "[0].x", "[-1]"]))
        equals = draw(st.sampled_from(["="] * 20 + ["", "==", " = ", ": "]))
        default = DEFAULTS[task].get(key)
        similar = near(default) if type(default) in (int, float) else st.just(plain(default))
        value = draw(words() if kind < 6 else similar)
        settings.append(argument(f"{key}{equals}{value}"))
    return task, settings


def named(task: str, settings: list[str]) -> list[str]:
    """What an error may name: the file, or a key that is set."""
    keys = [word.partition("=")[0] for word in settings]
    return [
        f"{task}.yaml",
        *(" ".join(key.split()) for key in keys if key.strip()),
        *(f"'{word[:40]}" for word in settings),
    ]


def planned(experiment: Any, extra: dict[str, Any]) -> list[CellConfig]:
    """The configs of a plan, each of which can be written, read again, and has a folder of its own inside runs/."""
    cells = plan([experiment], "laptop", [0], extra).cells
    for cell in cells:
        text = to_yaml(cell.config)
        text.encode()
        assert resolve(override(load_text(text), {}, ""), "") == cell.config
        assert cell.folder.path.resolve().parent.parent == places.workspace().runs("laptop").parent.resolve()
    return [cell.config for cell in cells]


def load_text(text: str) -> Any:
    """Like `load_tree`, without a file."""
    from omegaconf import OmegaConf

    from novobench.yaml_text import parse_yaml

    return OmegaConf.create(parse_yaml(text))


@extents(40, 2500)
def test_overrides(inputs, tasks, fuzz):
    def attempt(drawn):
        task, settings = drawn
        return judge(lambda: planned(tasks[task], parse_overrides(settings)), *named(task, settings))

    fuzz(inputs, attempt, drawn=overrides())


def plain(value: Any) -> str:
    """A value of a config as a word."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@st.composite
def numeric_overrides(draw: st.DrawFn) -> tuple[str, list[str]]:
    task = draw(st.sampled_from(TASKS))
    keys = draw(st.lists(st.sampled_from(NUMERIC[task]), min_size=1, max_size=2))
    return task, [f"{key}={draw(near(DEFAULTS[task][key]))}" for key in keys]


def near(value: float) -> st.SearchStrategy[str]:
    """Numbers that planning may well accept."""
    if isinstance(value, int):
        return st.one_of(st.integers(0, 4).map(str), st.integers(1, max(2, 2 * value)).map(str), numbers())
    return st.one_of(st.floats(0, 1).map(repr), st.floats(0, max(1.0, 2 * value)).map(repr), numbers())


@extents(3, 200)
def test_models_and_data_of_accepted_plans(inputs, tasks, fuzz, tmp_path, monkeypatch):
    """What planning accepts can be built: the network on the meta device, and the built-in data."""
    from novobench.suite.show import parameters
    from novobench.tasks.base import build

    monkeypatch.setenv("NOVOBENCH_DATA", str(tmp_path))

    def attempt(drawn):
        task, settings = drawn

        def call():
            for config in planned(tasks[task], parse_overrides(settings)):
                small = parameters(config) < 2_000_000
                if small:
                    _, data = build(config)
                    data.setup("fit")

        return judge(call, *named(task, settings), "data '", "data.", "model.", "batch.")

    fuzz(inputs, attempt, drawn=numeric_overrides())


# ---------------------------------------------------------------------------------------------- commands


@pytest.fixture
def nothing_runs(monkeypatch):
    """Commands without the work that they would start."""
    import novobench.bench.optimizer_step
    import novobench.bench.throughput
    from novobench import doctor
    from novobench.suite import check, runner

    monkeypatch.setattr(runner, "run_local", lambda *_: {})
    monkeypatch.setattr(check, "optimizer", lambda *_, **__: 0)
    monkeypatch.setattr(runner, "run", lambda *_: 0)
    monkeypatch.setattr(doctor, "check", lambda *_: 0)
    monkeypatch.setattr(novobench.bench.optimizer_step, "main", lambda *_: 0)
    monkeypatch.setattr(novobench.bench.throughput, "main", lambda *_: 0)


@extents(6, 500)
def test_commands_with_overrides(inputs, tasks, nothing_runs, fuzz):
    def attempt(drawn, verb):
        task, settings = drawn
        options = [part for word in settings for part in ("--set", word)]
        return judge_command([verb, task, *options], *named(task, settings), "argument --set")

    fuzz(inputs, attempt, drawn=overrides(), verb=st.sampled_from(["plan", "run"]))


VERBS = [
    "list", "plan", "config", "run", "search", "doctor", "bench", "bench optimizer", "bench throughput", "--help",
    "trian", "compare", "compare adamw novograd --task image", "compare adamw novograd --task image --dry-run", "data",
    "data image", "check", "check optimizer",
]  # fmt: skip
OPTIONS = [
    "--scale", "--seeds", "--rows", "--set", "--jobs", "--trials", "--keys", "--target", "--margin",
    "--name", "--task", "--rounds", "--models",
    "--only", "--threads", "--device", "--sweep", "--updates", "--attention", "--published", "--checkpoint", "--help",
    "--unscale-and-clip", "--sca", "-h", "--", "-", "--set=", "--seeds=", "--no-such",
]  # fmt: skip
OPERANDS = [
    *TASKS,
    "small",
    "smal",
    "optimizers",
    "tasks",
    "laptop",
    "gpu",
    "full",
    "sgd",
    "a",
    "1",
    "2",
    "0",
]


@extents(20, 800)
def test_words_on_the_command_line(inputs, tasks, nothing_runs, fuzz):
    def attempt(verb, arguments):
        arguments = [argument(word) for word in arguments]
        return judge_command([*verb.split(), *(word for word in arguments if word != "--debug")])

    word = st.one_of(st.sampled_from(OPTIONS), st.sampled_from(OPERANDS), words())
    fuzz(inputs, attempt, verb=st.sampled_from(VERBS), arguments=st.lists(word, max_size=5))
