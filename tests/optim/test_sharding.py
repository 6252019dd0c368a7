"""Sharded training on several processes equals one process, on every path; see `sharded.py` for the cases."""

import json
import os
import subprocess
import sys

import pytest

from novobench.places import ROOT


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_sharded_trainings_equal_one_process(processes, tmp_path):
    """FSDP2, HSDP (4 processes), tensor parallelism, DTensors by hand, DDP, ZeRO, checkpoints across layouts, and
    rounded moments."""
    words = ["--standalone", f"--nproc-per-node={processes}", "-m", "tests.optim.sharded", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 60 + 4 * (processes == 4)
    wrong = {case: value for case, value in found.items() if not value < 1e-5}
    assert not wrong
