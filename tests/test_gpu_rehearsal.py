"""The script for a GPU from end to end, on a CPU: three calls on three fresh machines, each with the last one's tar."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from novobench.files import read_csv
from novobench.places import ROOT

pytestmark = pytest.mark.long

SANITIZER = """#!/bin/sh
while [ "$1" != "$PYTHON" ]; do shift; done
exec "$@"
"""
"""Stands in for compute-sanitizer: runs the command after its own options."""


@pytest.fixture
def machine(tmp_path):
    """A function that makes a bare copy of the tree: no .git, nothing run, no results."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "compute-sanitizer").write_text(SANITIZER)
    (tmp_path / "bin" / "compute-sanitizer").chmod(0o755)

    def make(name):
        tree = tmp_path / name
        tree.mkdir()
        for folder in ("novobench", "configs", "experiments", "scripts", "tests"):
            shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / file, tree)
        return tree

    return make


def prove(tree, minutes, *words):
    """One call; returns its exit code, its output, its state and its tar."""
    out = tree.with_name(f"{tree.name}-out")
    variables = {
        "PYTHON": sys.executable,
        "NOVOBENCH_CODE": "0123456789ab",
        "PATH": f"{tree.parent}/bin:{os.environ['PATH']}",
    }
    words = [tree / "scripts" / "gpu_proof.sh", "--rehearse", "--minutes", str(minutes), *words, out]
    started = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **variables}, cwd="/")
    assert time.monotonic() - started < 60 * minutes
    state = json.loads((tree / "results" / "laptop" / "gpu_proof.json").read_text())
    tar = out / "gpu_proof.tar"
    assert tar.stat().st_size < 16 * 2**20
    return done.returncode, done.stdout, state["steps"], tar


def records(tree):
    return {path.parent.name: path.read_bytes() for path in (tree / "runs" / "laptop").glob("*/record.json")}


def test_three_calls_on_three_machines(machine):
    first, second, third = machine("first"), machine("second"), machine("third")
    code, out, steps, tar = prove(first, 3)
    assert steps["tests_novograd"]["state"] == "done", out
    assert "skipped, needs" in out
    assert code == 0, out

    code, out, again, tar_of_second = prove(second, 6, "--resume", tar)
    for name, found in steps.items():
        if found["state"] == "done":
            assert again[name] == found
            assert f"{name}: started" not in out
    assert sum(found["state"] == "done" for found in again.values()) > sum(f["state"] == "done" for f in steps.values())
    assert records(first).items() <= records(second).items()

    code, out, last, _ = prove(third, 30, "--resume", tar_of_second)
    assert code == 0, out
    assert {name for name, found in last.items() if found["state"] != "done"} <= {"bench_sweep"}  # too slow on a CPU
    assert len({found["machine"] for found in last.values()}) > 1
    assert records(second).items() <= records(third).items()  # no finished cell was trained again
    collected = read_csv(third / "results" / "laptop" / "records.csv")
    assert {line["cell"] for line in collected} == set(records(third))
    assert {line["code"] for line in collected} == {"0123456789ab"}
    for name in [*(f"table{number}" for number in range(1, 8)), "figure1", "figure2"]:
        assert (third / "results" / "laptop" / f"{name}.csv").exists()
    assert "# GPU results" in out
