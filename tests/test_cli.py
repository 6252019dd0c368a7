"""Arguments of the command line."""

import argparse

import pytest

from novobench.cli import _parser


def options(parser: argparse.ArgumentParser, path: str = "") -> list[tuple[str, argparse.Action]]:
    """All options with their commands, as pairs."""
    pairs = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                pairs += options(sub, f"{path} {name}".strip())
        elif action.option_strings:
            pairs.append((path, action))
    return pairs


LISTS = [(path, action) for path, action in options(_parser()) if action.nargs in ("+", "*")]


BEFORE = {
    **{name: ["table1"] for name in ("run", "plan", "config", "search", "check optimizer")},
    "compare": ["adam", "sgd", "--task", "image"],
}
"""What a command needs besides options."""


@pytest.mark.parametrize(
    ("path", "action"), LISTS, ids=lambda value: value if isinstance(value, str) else value.option_strings[0]
)
def test_a_repeated_list_option_keeps_all_values(path, action):
    flag = action.option_strings[0]
    before = BEFORE.get(path, [])
    parse = _parser().parse_args
    assert getattr(parse([*path.split(), *before, flag, "a", "b", flag, "c"]), action.dest) == ["a", "b", "c"]
    assert getattr(parse([*path.split(), *before, flag, "d"]), action.dest) == ["d"]  # not those of the call before
    assert getattr(parse([*path.split(), *before]), action.dest) == []


def test_the_list_options_are_covered():
    flags = {f"{path} {action.option_strings[0]}" for path, action in LISTS}
    assert {"run --set", "run --rows", "plan --set", "config --set", "search --keys", "bench throughput --set"} <= flags
    assert {"bench optimizer --models", "bench optimizer --only"} <= flags


def test_repeated_settings_reach_the_plan(workspace, novobench):
    code, out, err = novobench("plan", "small", "--rows", "sgd", "--set", "batch.micro=8", "--set", "budget=7steps")
    assert (code, err) == (0, "")
    [line] = [line for line in out.splitlines() if line.startswith("image-sgd")]
    assert "32 = 8 × 1 × 4" in line
    assert " 7 " in line
