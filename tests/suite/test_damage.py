"""Damage of every kind to results and run folders: it is reported in one line or repaired, and nothing else is lost."""

import json
import random
import re

import pytest

from novobench.errors import NovobenchError
from novobench.places import display_path
from novobench.suite.results import Results
from tests.suite.finished import TOP1, collected, content, finished

RANDOM_DAMAGES = 60


# ------------------------------------------------------------------------------------ paths that cannot be written


@pytest.mark.parametrize("place", ["runs/laptop/collect.lock", "runs", "results", "results/laptop/small.csv"])
def test_a_file_or_folder_in_the_way_of_what_a_command_writes(workspace, novobench, results, place):
    (workspace / "runs" / "laptop").mkdir(parents=True)
    folder = finished("small", "sgd", TOP1)
    path = workspace / place
    if path.suffix:
        path.mkdir(parents=True)
    else:
        if path.exists():
            path.rename(workspace / "away")
        path.write_text("")
    code, _, err = novobench("run", "small", "--rows", "sgd")
    assert code == 1
    assert err.startswith("novobench: Cannot ")
    assert display_path(path) in err
    assert err.count("\n") == 1
    assert place == "runs" or folder.finished


# ------------------------------------------------------------------------------------ damage of any kind


ENDS = [b"[1]\n", b"null\n", b"{}\n", b"1\n", b"\n\n", b'"', b"\xff", b"<<<<<<< HEAD\n"]


def damaged(content, chance):
    """The content with some damage."""
    place = chance.randrange(len(content) + 1)
    some = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 6)))
    return chance.choice(
        [
            lambda: content[:place],
            lambda: content[:place] + some + content[place + len(some) :],
            lambda: content[:place] + some + content[place:],
            lambda: content[:place] + content[place + chance.randrange(1, 40) :],
            lambda: content[:place] + b"\0" * (len(content) - place),
            lambda: content.replace(b"\n", b"\r\n"),
            lambda: content[place:] + content[:place],
            lambda: content.replace(*chance.sample([b"1", b"2", b",", b'"', b"\n", b"0", b"e", b":"], 2)),
            lambda: content + content,
            lambda: content + chance.choice(ENDS),
        ]
    )()


def collect(folders):
    """The lines that a collection returns, or the text of its error."""
    try:
        return collected(*folders)
    except NovobenchError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(RANDOM_DAMAGES // 20))
def test_no_damage_ends_in_a_traceback_or_in_a_wrong_number(results, workspace, novobench, seed):
    """Whatever the file, one line reports the damage or it is repaired. The other cell's value stays in any case."""
    chance = random.Random(seed)
    folders = finished("small", "sgd", TOP1), finished("small", "novograd", {"test": {"top1": 60.0, "loss": 1.0}})
    assert collected(*folders) == []
    files = [*results.iterdir(), *folders[0].path.iterdir()]
    results_before = content(results)
    whole = {path: path.read_bytes() for path in files}
    for _ in range(20):
        path = chance.choice(files)
        path.write_bytes(damaged(whole[path], chance))
        problems = collect(folders)
        if isinstance(problems, str):  # nothing was written
            assert path.parent == results
            assert path.name in problems
        else:
            assert problems or path.parent != results or content(results) == results_before
            reread = Results.load("laptop")
            assert reread.value(folders[1].path.name, "test", "top1") == 60.0
            assert path.parent != results or reread.value(folders[0].path.name, "test", "top1") == 50.0
        for file, text in whole.items():
            file.write_bytes(text)


# ------------------------------------------------------------------------------------ damaged run folders

RUN_DAMAGES = {
    "record.json": {
        "empty": lambda b: b"",
        "cut": lambda b: b[:-40],
        "null": lambda b: b"null",
        "latin-1": lambda b: b + b"\xff",
        "without a key": lambda b: b.replace(b'"updates"', b'"update"'),
        "without n": lambda b: b.replace(b'"n": 597, ', b""),
        "text for a number": lambda b: b.replace(b"50.0", b'"half"'),
        "another cell's": lambda b: b.replace(b"-s100-", b"-s1-"),
        "a number too large": lambda b: b.replace(b"50.0", b"1" + b"0" * 400),
        "half a character": lambda b: b.replace(b'"a machine', b'"\\ud800 machine'),
        "a long text": lambda b: b.replace(b'"a machine', b'"' + b"a" * 200_000),
        "a line break": lambda b: b.replace(b'"a machine', b'"a\\r\\nmachine'),
        "no text": lambda b: b.replace(b'"a machine, 2 cores"', b"[2]"),
        "no fingerprint": lambda b: b.replace(b'"digits:0123"', b"null"),
        "a cell in a metric": lambda b: b.replace(b'"n": 597, ', b'"n": 597, "cell": "x", '),
        "deep": lambda b: b"[" * 100_000,
    },
    "config.yaml": {
        "empty": lambda b: b"",
        "no YAML": lambda b: b"a: [",
        "zeros": lambda b: b"\0" * len(b),
        "another task's": lambda b: b.replace(b"task: image", b"task: speech"),
        "deleted": None,
    },
    "environment.json": {
        "half a character": lambda b: b'{"a": "\\ud800"}',
        "cut": lambda b: b[:-3],
        "list": lambda b: b"[]",
        "deleted": None,
    },
    "metrics.jsonl": {
        "latin-1": lambda b: b + b"\xff\n",
        "cut": lambda b: b[:-10],
        "a line twice": lambda b: b + b[: b.index(b"\n") + 1],
        "in the middle": lambda b: b.replace(b"}\n", b"\n", 1),
        "a list": lambda b: b + b"[1]\n",
        "without epoch": lambda b: b + b'{"update": 9, "split": "train", "loss": 1}\n',
        "without split": lambda b: b + b'{"update": 9, "epoch": 1, "loss": 1}\n',
        "text for a number": lambda b: b + b'{"update": 9, "epoch": 1, "split": "train", "loss": "x"}\n',
        "deleted": None,
    },
    "predictions-test.jsonl.gz": {
        "empty": lambda b: b"",
        "no gzip": lambda b: b"hello",
        "cut": lambda b: b[:-6],
        "flipped": lambda b: b[:20] + b"\x55\x55" + b[22:],
    },
}


def stored_of(folder, results):
    """The lines and JSON entries of a cell."""
    cell = folder.path.name
    lines = [line for name in ("records.csv", "curves.csv") for line in (results / name).read_text().splitlines()]
    examples, cells = (json.loads((results / name).read_text()) for name in ("examples.json", "cells.json"))
    return [line for line in lines if cell in line], [examples[cell], cells["cells"][cell]]


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in RUN_DAMAGES.items() for kind in kinds])
def test_a_damaged_file_of_a_finished_run(results, name, kind):
    """It is named, the other cells are collected, and what was collected from it before stays."""
    folder, other = finished("small", "sgd", TOP1), finished("small", "novograd", TOP1)
    collected(folder)
    before = stored_of(folder, results)
    path, damage = folder.path / name, RUN_DAMAGES[name][kind]
    if damage is None:
        path.unlink()
    else:
        damaged = damage(path.read_bytes())
        assert damaged != path.read_bytes()
        path.write_bytes(damaged)
    (line,) = collected(folder, other)
    assert re.match(rf"{re.escape(display_path(path))} (line \d+ |of a finished cell )is damaged[:,] ", line)
    assert "\n" not in line
    assert set(Results.load("laptop").cells) == {folder.path.name, other.path.name}
    assert stored_of(folder, results) == before
