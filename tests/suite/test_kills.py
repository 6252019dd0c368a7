"""SIGKILL at any moment, to one process of a command or to all: the same command finishes, with the same bits."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from novobench.places import ROOT
from novobench.training.run_folder import RunFolder
from tests.cells import result

HOOK = Path(__file__).with_name("kill_hook")
EXPERIMENTS = Path(__file__).with_name("kills")
RUN = "run kills_image kills_language kills_translation --jobs 3"
SEARCH = "search kills_image --trials 2 --seeds 1 --jobs 2"

TRAINING = [
    "before config.yaml all",
    "before [0-9a-f][0-9a-f][0-9a-f][0-9a-f]* all",  # the corpus of the language cell
    "before baselines-* one",
    "before numbers-* all",  # of the translation cell, as the two after it
    "after pieces-* all",
    "before neighbours-* one",
    "before environment.json all",
    "before update-000000010.ckpt one",
    "after update-000000020.ckpt all",
    "before update-000000030.ckpt all",
    "before predictions-test.jsonl.gz one",
    "before record.json all",
    "after record.json all",
]
COLLECTION = [
    "before records.csv all",
    "after records.csv one",
    "after curves.csv all",
    "after examples.json one",
    "before cells.json all",
    "after cells.json one",
    "before kills_image.csv one",
    "after kills_language.md all",
    "before kills_language.svg one",
]
SEARCHING = [
    "before record.json one",
    "after record.json all",
    "before search.csv one",
    "after search.csv all",
    "before tuned-laptop.yaml one",
    "after tuned-laptop.yaml all",
]

_TIMED = re.compile("train_seconds|per_second")
"""Numbers that differ each time."""


class Checkout:
    """A copy of the code with these experiments, nothing run and nothing cached."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("novobench", "configs"):
            shutil.copytree(ROOT / name, path / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(EXPERIMENTS, path / "experiments")
        (path / "configs" / "claims.yaml").write_text("{}\n")  # the paper's are about other experiments

    def start(self, command: str, kill_at: str | None = None) -> subprocess.Popen:
        """The command, in a process group of its own."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("NOVOBENCH_")}
        environment |= {"PYTHONPATH": f"{HOOK}:{self.path}", "NOVOBENCH_CACHE": str(self.path / "cache")}
        if kill_at:
            environment |= {"KILL_AT": kill_at, "KILL_MARK": str(self._mark)}
        words = [sys.executable, "-m", "novobench", *command.split()]
        with (self.path / "output").open("a") as file:
            return subprocess.Popen(
                words, cwd=self.path, env=environment, stdout=file, stderr=file, start_new_session=True
            )

    _mark = property(lambda self: self.path / "killed")

    def killed_at(self, command: str, moment: str) -> None:
        self._mark.unlink(missing_ok=True)
        process = self.start(command, moment)
        while process.poll() is None and not self._mark.exists():
            time.sleep(0.1)
        assert self._mark.exists(), f"nothing was written {moment}: {self.output()}"
        with suppress(subprocess.TimeoutExpired):  # what one process leaves to the others is for the moments after it
            process.wait(timeout=2)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def killed_after(self, command: str, seconds: float, who: str) -> bool:
        """Kill `who` after a time; False if the command ended before."""
        process = self.start(command)
        try:
            process.wait(timeout=seconds)
            return False
        except subprocess.TimeoutExpired:
            pass
        if who == "all":
            os.killpg(process.pid, signal.SIGKILL)
        elif who == "the command":
            process.kill()
        else:
            others = [pid for pid in _group(process.pid) if pid != process.pid]
            os.kill(random.Random(seconds).choice(others or [process.pid]), signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):  # else it would finish what the other moments are for
                process.wait(timeout=5)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=600)
        return True

    def finish(self, command: str) -> dict:
        """The same command once more, undisturbed; everything that must be the same bits then."""
        code = self.start(command).wait(timeout=900)
        assert code == 0, self.output()
        assert "Traceback" not in self.output()
        return self.outcome()

    def output(self) -> str:
        return (self.path / "output").read_text(errors="replace")[-3000:]

    def outcome(self) -> dict:
        folders = sorted(path for path in (self.path / "runs" / "laptop").iterdir() if path.is_dir())
        found: dict = {folder.name: result(RunFolder(folder)) for folder in folders}
        results = self.path / "results" / "laptop"
        for path in sorted(results.glob("*.csv")):
            with path.open(newline="") as file:
                lines = [line for line in csv.DictReader(file) if not _TIMED.search(" ".join(line.values()))]
            found[path.name] = [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
        if (results / "examples.json").exists():
            found["examples"] = json.loads((results / "examples.json").read_text())
        for path in sorted((self.path / "configs").glob("*/tuned-laptop.yaml")):
            found[f"{path.parent.name} rates"] = path.read_text()
        return found


def _group(group: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,pgid="], capture_output=True, text=True).stdout.splitlines()
    return sorted(int(line.split()[0]) for line in listed if int(line.split()[1]) == group)


def wait_for_end(group: int) -> None:
    """Nothing that a command started runs on."""
    end = time.monotonic() + 60
    while _group(group):
        assert time.monotonic() < end
        time.sleep(0.1)


def compare(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        assert found[name] == content, name


@pytest.mark.slow
def test_the_command_finishes_after_three_kills(tmp_path):
    """The moments that are the most different, for one small cell; all of them are below."""
    command = "run kills_image"
    expected = Checkout(tmp_path / "undisturbed").finish(command)
    checkout = Checkout(tmp_path / "killed")
    for moment in ("before update-000000020.ckpt one", "before record.json all", "after records.csv one"):
        checkout.killed_at(command, moment)
    compare(checkout.finish(command), expected)


@pytest.mark.slow
def test_an_interrupt_ends_the_cells_and_keeps_what_is_finished(tmp_path, heard_signals):
    """Ctrl-C in a terminal: SIGINT to all processes of the command."""
    checkout, command = Checkout(tmp_path), "run kills_image kills_language --jobs 1"
    process = checkout.start(command)
    runs, end = checkout.path / "runs" / "laptop", time.monotonic() + 300
    while not (list(runs.glob("*/record.json")) and len(list(runs.glob("*/metrics.jsonl"))) == 2):
        assert process.poll() is None, checkout.output()
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130, checkout.output()
    wait_for_end(process.pid)
    assert "Traceback" not in checkout.output()
    assert "interrupted. Run the same command again" in checkout.output()
    (finished,) = [path.parent.name for path in runs.glob("*/record.json")]
    assert finished in (checkout.path / "results" / "laptop" / "records.csv").read_text()
    checkout.finish(command)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.7, 1.5, 3.0, 6.0])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_run_that_is_stopped_leaves_nothing_running(tmp_path, heard_signals, seconds, name):
    """Ctrl-C reaches all processes of a terminal, and so does its end; SIGTERM the command alone."""
    checkout = Checkout(tmp_path)
    process = checkout.start("run kills_image --jobs 1 --set budget=100000steps")
    time.sleep(seconds)
    send = os.kill if name == "SIGTERM" else os.killpg
    send(process.pid, getattr(signal, name))
    assert process.wait(timeout=60) == 128 + getattr(signal, name)
    wait_for_end(process.pid)
    assert "Traceback" not in checkout.output()
    assert [line.split(":")[0] for line in checkout.output().splitlines() if "again" in line] == ["novobench"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run and a search that nobody killed: what must come out, and how many seconds the run took."""
    checkout, begun = Checkout(tmp_path_factory.mktemp("undisturbed")), time.monotonic()
    ran = checkout.finish(RUN)
    lasted = time.monotonic() - begun
    return SimpleNamespace(ran=ran, searched=checkout.finish(SEARCH), lasted=lasted)


@pytest.mark.long
def test_the_same_bits_after_kills_at_named_moments(undisturbed, tmp_path, capsys):
    checkout = Checkout(tmp_path / "killed")
    for moment in TRAINING + COLLECTION:
        checkout.killed_at(RUN, moment)
    compare(checkout.finish(RUN), undisturbed.ran)
    for moment in SEARCHING:
        checkout.killed_at(SEARCH, moment)
    compare(checkout.finish(SEARCH), undisturbed.searched)
    with capsys.disabled():
        print(f"\n{len(TRAINING + COLLECTION + SEARCHING)} kills at named moments")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_the_same_bits_after_kills_at_any_moment(seed, undisturbed, tmp_path, capsys):
    drawn, killed, checkout = random.Random(seed), 0, Checkout(tmp_path / "killed")
    for who in ("all", "the command", "one process", "one process", "all", "the command"):
        killed += checkout.killed_after(RUN, drawn.uniform(0.3, undisturbed.lasted / 2), who)
    compare(checkout.finish(RUN), undisturbed.ran)
    assert killed >= 3
    with capsys.disabled():
        print(f"\n{killed} kills at moments that were drawn; an undisturbed run takes {undisturbed.lasted:.0f} s")
