"""The commands of BRING_YOUR_DATA.md, from a folder to a verdict."""

import re
import shlex

import pytest

from novobench.places import ROOT
from novobench.tasks.catalog import task_names
from tests.own_data import sentence_pairs, write_images, write_pairs, write_recordings, write_texts

PAGE = (ROOT / "novobench" / "tasks" / "BRING_YOUR_DATA.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^## (\w+)\n.*?^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = {heading.lower().removesuffix("s"): block.strip().splitlines() for heading, block in BLOCKS}
"""Task -> its commands."""
SPLITS = {"train": 16, "dev": 4, "test": 4}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The page's folders in the current one."""
    monkeypatch.chdir(tmp_path)
    for split, count in SPLITS.items():
        write_recordings(tmp_path / "voices" / split, count)
        write_pairs(tmp_path / "pairs", split, sentence_pairs(3 * count, seed=count))
    write_images(tmp_path / "photos" / "train", {"ant": 20, "bee": 20}, 16, 16)
    write_images(tmp_path / "photos" / "val", {"ant": 5, "bee": 5}, 16, 16)
    write_texts(tmp_path / "poems", train_txt=150, valid_txt=20, test_txt=20)


def test_every_task_has_at_most_three_commands():
    assert sorted(COMMANDS) == task_names()
    assert all(1 < len(commands) <= 3 for commands in COMMANDS.values())


@pytest.mark.parametrize("task", sorted(COMMANDS))
def test_the_commands_before_training(task, folders, empty_workspace, novobench):
    first, *_, last = COMMANDS[task]
    code, out, err = novobench(*shlex.split(first)[1:])
    assert code == 0, err
    assert "fingerprint" in out
    code, out, err = novobench(*shlex.split(last)[1:], "--dry-run")
    assert code == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(COMMANDS))
def test_the_commands_end_in_a_verdict(task, folders, empty_workspace, novobench):
    """With trainings of a few updates."""
    short = "--seeds", "2", "--trials", "2", "--set", "budget=2steps", "schedule.warmup=0", "runtime.curve_points=1"
    code, out, err = novobench(*shlex.split(COMMANDS[task][-1])[1:], *short)
    assert code == 0, err
    assert re.search("better|worse|equivalent|undecided", out)
    assert list((empty_workspace / "results" / "laptop" / "compare").iterdir())
    assert not list((empty_workspace / "results" / "laptop").glob("table*"))
