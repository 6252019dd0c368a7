"""The command line's own words."""

import argparse

import pytest

from novobench.cli import _parser


def options(parser: argparse.ArgumentParser, path: str = "") -> list[tuple[str, argparse.Action]]:
    """All options of all commands, with the command."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                found += options(sub, f"{path} {name}".strip())
        elif action.option_strings:
            found.append((path, action))
    return found


LISTS = [(path, action) for path, action in options(_parser()) if action.nargs in ("+", "*")]


@pytest.mark.parametrize(
    ("path", "action"), LISTS, ids=lambda value: value if isinstance(value, str) else value.option_strings[0]
)
def test_an_option_of_several_words_given_twice_keeps_all(path, action):
    flag = action.option_strings[0]
    before = ["table1"] if path in ("run", "plan", "search") else []
    parse = _parser().parse_args
    assert getattr(parse([*path.split(), *before, flag, "a", "b", flag, "c"]), action.dest) == ["a", "b", "c"]
    assert getattr(parse([*path.split(), *before, flag, "d"]), action.dest) == ["d"]  # nothing is left of a call before
    assert getattr(parse([*path.split(), *before]), action.dest) == []


def test_all_such_options_are_covered():
    flags = {f"{path} {action.option_strings[0]}" for path, action in LISTS}
    assert {"run --set", "run --rows", "plan --set", "search --keys", "bench throughput --set"} <= flags
    assert {"bench optimizer --models", "bench optimizer --only"} <= flags


def test_settings_given_twice_reach_the_plan(workspace, novobench):
    code, out, err = novobench("plan", "small", "--rows", "sgd", "--set", "batch.micro=8", "--set", "budget=7steps")
    assert (code, err) == (0, "")
    [line] = [line for line in out.splitlines() if line.startswith("image-sgd")]
    assert "32 = 8 × 1 × 4" in line
    assert " 7 " in line
