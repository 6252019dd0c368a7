"""Fixtures of all tests: workspaces in a temporary folder, and commands run in this process."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from novobench import places
from novobench.places import ROOT
from tests.fuzz.summary import pytest_terminal_summary  # noqa: F401

# Set before Triton is imported, so that `NovoGrad(fused=True)` runs its kernels on the CPU. `make test-gpu` sets 0 to
# compile them.
os.environ.setdefault("TRITON_INTERPRET", "1")

SMALL_EXPERIMENT = Path(__file__).parent / "suite" / "small.yaml"


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """Derived data goes to a temporary folder that all processes of a test run share."""
    os.environ["NOVOBENCH_CACHE"] = str(tmp_path_factory.getbasetemp().parent / "cache")


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A small checkout as the workspace: the real configs and `experiments/small.yaml`, without runs or results."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "configs" / "claims.yaml").write_text("{}\n")  # the paper's are about other experiments
    (tmp_path / "experiments").mkdir()
    shutil.copy(SMALL_EXPERIMENT, tmp_path / "experiments" / "small.yaml")
    monkeypatch.setattr(places, "workspace", lambda: places.Workspace(tmp_path, shipped=tmp_path))
    return tmp_path


@pytest.fixture
def empty_workspace(tmp_path, monkeypatch) -> Path:
    """An empty folder as the workspace."""
    monkeypatch.setattr(places, "workspace", lambda: places.Workspace(tmp_path))
    return tmp_path


@pytest.fixture
def heard_signals():
    """Handle signals as in a terminal; in the background or under nohup, Python ignores some of them."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def novobench(capsys):
    """Runs a command in this process: `novobench("plan", "small")` returns exit code, standard output and error."""
    from novobench.cli import main

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run
