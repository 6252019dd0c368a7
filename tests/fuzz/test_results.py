"""Damaged results files and run folders of finished cells: tables are written or a file is named."""

import shutil

import pytest
from hypothesis import strategies as st

from novobench import files
from novobench.errors import NovobenchError
from novobench.suite import runner
from novobench.suite.collection import collect
from novobench.suite.experiment import load_experiment
from novobench.suite.forecast import measured_speeds
from novobench.suite.plan import planned_rows
from novobench.suite.results import Results, locked
from novobench.suite.search import untraced
from novobench.suite.table_rows import table_rows
from novobench.suite.tables import write_table
from tests.fuzz.judge import extents, judge, judge_command
from tests.fuzz.odd import damaged, edited
from tests.suite.finished import collected, finished

RESULTS = ["records.csv", "curves.csv", "examples.json", "cells.json", "search.csv"]
RUN = [
    "config.yaml", "environment.json", "metrics.jsonl", "record.json", "predictions-test.jsonl.gz", "heartbeat.json",
    "failure.json",
]  # fmt: skip
TOP1 = {"test": {"top1": 50.0, "loss": 1.25}, "search": {"loss": 1.5}}


class Finished:
    """Two trained and collected cells of the small experiment. Each input starts from the same files."""

    def __init__(self, root):
        self.root = root
        (root / "configs" / "image" / "tuned-laptop.yaml").write_text("novograd-b32: {optimizer.lr: 0.02}\n")
        self.experiment = load_experiment("small")
        self.planned = planned_rows(self.experiment, "laptop")
        self.folders = [finished("small", row, TOP1) for row in ("sgd", "novograd")]
        for folder in self.folders:
            (folder.path / "heartbeat.json").write_text('{"pid": 1, "host": "a", "update": 8, "total": 8, "time": 0.5}')
            folder.failure.write_text('{"error": "of an earlier try", "time": 0.5}')
        collected(*self.folders)
        cell = self.folders[1].path.name
        (root / "results" / "laptop" / "search.csv").write_text(
            "schema,key,experiment,row,optimizer,study,round,trial,rates,seed,cell,split,metric,value,chosen\n"
            f"1,novograd-b32,small,novograd,novograd,0,0,0,optimizer.lr=0.02,0,{cell},search,loss,1.5,1\n"
        )
        shutil.copytree(root / "results", root / "kept" / "results")
        shutil.copytree(root / "runs", root / "kept" / "runs")
        self.files = {path.name: path for path in (root / "results" / "laptop").iterdir() if path.name in RESULTS}
        self.files |= {path.name: path for path in self.folders[0].path.iterdir() if path.name in RUN}
        self.contents = {name: path.read_bytes() for name, path in self.files.items()}

    def reset(self):
        for name in ("results", "runs"):
            shutil.rmtree(self.root / name)
            shutil.copytree(self.root / "kept" / name, self.root / name)

    def damages(self, names):
        """A file and its damaged content."""

        def of(name):
            content = self.contents[name]
            contents = st.just(b"") | damaged(content)
            if not name.endswith(".gz"):
                contents |= edited(content.decode()) | edited(content.decode(), most=1)
            return st.tuples(st.just(name), contents)

        return st.sampled_from(names).flatmap(of)


@pytest.fixture
def done(workspace, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", lambda _: None)  # saves time; nothing here need survive a power cut
    return Finished(workspace)


def everything(done):
    """Collect, read and write everything that `run` and `plan` do. Raises the first problem of the collection."""
    with locked("laptop"):
        problems = collect(done.folders, Results.load("laptop"))
    results = Results.load("laptop")
    measured_speeds(results)
    write_table(done.experiment, "laptop", table_rows(done.experiment, results, done.planned))
    untraced("image", "laptop")
    for folder in done.folders:
        folder.read_heartbeat()
        folder.failure_reason()
    if problems:
        raise NovobenchError(problems[0])


@extents(20, 1000)
def test_results_files(inputs, done, fuzz):
    def attempt(damage):
        done.reset()
        name, content = damage
        done.files[name].write_bytes(content)
        return judge(lambda: everything(done), name, "results/laptop")

    fuzz(inputs, attempt, damage=done.damages(RESULTS))


@extents(20, 1000)
def test_files_of_a_finished_run(inputs, done, fuzz):
    """They are collected for the first time or again."""

    def attempt(damage, first_time):
        done.reset()
        name, content = damage
        done.files[name].write_bytes(content)
        if first_time:
            shutil.rmtree(done.root / "results")
        return judge(lambda: everything(done), name, done.folders[0].path.name)

    fuzz(inputs, attempt, damage=done.damages(RUN), first_time=st.booleans())


@extents(4, 150)
def test_commands_over_damaged_results(inputs, done, fuzz, monkeypatch):
    def trains(*_):
        raise AssertionError("a finished cell is trained again")

    monkeypatch.setattr(runner, "run_local", trains)

    def attempt(damage, verb):
        done.reset()
        name, content = damage
        done.files[name].write_bytes(content)
        return judge_command([verb, "small"], name, done.folders[0].path.name, "results/laptop")

    fuzz(inputs, attempt, damage=done.damages([*RESULTS, *RUN]), verb=st.sampled_from(["run", "plan"]))
