"""A workspace of its own for tests that run commands: experiments, configs, runs and results in a temporary folder."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from novobench import places
from novobench.places import ROOT
from tests.fuzz.summary import pytest_terminal_summary  # noqa: F401

# Before Triton is imported: `NovoGrad(fused=True)` then runs its kernels on the CPU. On a GPU they shall be compiled:
# `make test-gpu` sets 0.
os.environ.setdefault("TRITON_INTERPRET", "1")

SMALL_EXPERIMENT = Path(__file__).parent / "suite" / "small.yaml"


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """Derived data of the tests, in a folder of their own."""
    os.environ["NOVOBENCH_CACHE"] = str(tmp_path_factory.getbasetemp().parent / "cache")


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A checkout in miniature: the real configs, `experiments/small.yaml`, nothing run yet."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "experiments").mkdir()
    shutil.copy(SMALL_EXPERIMENT, tmp_path / "experiments" / "small.yaml")
    monkeypatch.setattr(places, "workspace", lambda: places.Workspace(tmp_path, shipped=tmp_path))
    return tmp_path


@pytest.fixture
def heard_signals():
    """Signals as programs of a terminal have them; tests in the background, or under nohup, ignore some."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def novobench(capsys):
    """Run a command in this process: `novobench("plan", "small")` -> (exit code, standard output, standard error)."""
    from novobench.cli import main

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run
