"""What is told of a training that failed: one line that can be printed, with kind, place and advice."""

import shutil
import sys

import pytest
import torch

from novobench.errors import MAX_LENGTH, DataError, TrainingError
from novobench.processes import describe_exit, is_stopped
from novobench.tasks.image.task import ImageTask
from novobench.training import cell, failures, torchrun
from novobench.training.loop import UpdateLoop
from novobench.training.run_folder import RunFolder
from tests.cells import small_cell


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError("no words")


def wrapped(message):
    """As torch hands on what a loader's worker raised."""
    return f"Caught it in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n{message}"


OUT_OF_MEMORY = "Lower batch.micro (batch.size stays: more are accumulated), or train fewer cells at a time (--jobs)"
ERRORS = {
    "nothing said": (ValueError(), "ValueError without a message (in "),
    "a missing key": (KeyError("width"), "KeyError: 'width'"),
    "lines and colours": (ValueError("a\n\tb \x1b[31mred\r\udcff"), r"ValueError: a b \x1b[31mred \udcff (in "),
    "a message that fails": (Unspeakable(), "Unspeakable, whose message cannot be read (ValueError) (in "),
    "Python's memory": (
        MemoryError(),
        "Out of memory: MemoryError without a message (in raised, test_failures.py line",
    ),
    "a GPU's memory": (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB."), OUT_OF_MEMORY),
    "a CPU's memory": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), OUT_OF_MEMORY),
    "the system's memory": (OSError(12, "Cannot allocate memory"), OUT_OF_MEMORY),
    "a library's memory": (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), OUT_OF_MEMORY),
    "an exit": (SystemExit(0), "sys.exit(0) was called (in raised, test_failures.py line "),
    "an exit with words": (SystemExit("bye\n"), r"sys.exit('bye\n') was called"),
    "another process": (
        RuntimeError("[pair.cc:1] Connection closed by peer [1.2.3.4]"),
        "Another process of the training",
    ),
    "one of ours": (DataError("data.path: no such folder.\nLook."), "data.path: no such folder. Look."),
    "in a worker": (ValueError(wrapped('  File "w.py", line 1, in f\n    g()\nKeyError: 3')), "ValueError: 3 (in "),
    "in a worker, ours": (DataError(wrapped('  File "w.py", line 1\nX.DataError: it is bad')), "it is bad"),
    "in a worker, no frames": (DataError(wrapped("nothing")), "Caught it in DataLoader worker process 0. Original"),
    "very long": (ValueError("x" * 500_000), "ValueError: xxx"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_any_error_is_one_line(what):
    error, told = ERRORS[what]

    def raised():
        raise error

    with pytest.raises(type(error)) as caught:
        raised()
    reason = failures.reason(caught.value)
    assert told in reason
    assert reason.isprintable()
    assert len(reason) < MAX_LENGTH + 300


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-1, "was ended by signal 1 (SIGHUP)"),
        (-2, "was ended by signal 2 (SIGINT)"),
        (-6, "crashed in compiled code, with signal 6 (SIGABRT)"),
        (-7, "crashed in compiled code, with signal 7 (SIGBUS)"),
        (-9, "was killed by signal 9 (SIGKILL), as the system does when memory runs out"),
        (-11, "crashed in compiled code, with signal 11 (SIGSEGV)"),
        (-15, "was ended by signal 15 (SIGTERM)"),
        (-63, "was ended by signal 63 (unknown)"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="numbers of signals are the system's")
def test_exit_codes_are_told(code, told):
    assert describe_exit(code) == told


def test_a_process_that_is_gone_is_not_stopped():
    assert not is_stopped(-1)
    assert not is_stopped(2**30)


def test_the_first_of_several_processes_to_fail_is_told(tmp_path, monkeypatch):
    """What another one says after a while is what became of it."""
    folder, waited = RunFolder(tmp_path), []
    monkeypatch.setattr(cell.time, "sleep", waited.append)
    cell._write_failure(folder, "the cause", wait=False)
    cell._write_failure(folder, "a consequence", wait=True)
    assert waited == [cell._TORCHRUN_SECONDS]
    assert folder.failure_reason() == "the cause"


class _Failure:
    def __init__(self, exitcode):
        self.exitcode = exitcode


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ({0: -15, 1: -9}, "process 1 of its 2 processes was killed by signal 9"),
        ({0: -6, 1: -11}, "process 1 of its 2 processes crashed in compiled code, with signal 11 (SIGSEGV)"),
        ({0: -6, 1: -15}, "process 0 of its 2 processes crashed in compiled code, with signal 6 (SIGABRT)"),
        ({0: -15, 1: -15}, "one of its 2 processes was ended by signal 15 (SIGTERM)"),
        ({1: 1}, "process 1 of its 2 processes ended with exit code 1"),
    ],
)
def test_of_several_exit_codes_the_cause_is_told(codes, told, tmp_path):
    folder = small_cell(tmp_path, runtime__devices=2)
    config = cell.resolve(cell.load_tree(folder.config), "test")
    reason = torchrun._first_failure({rank: _Failure(code) for rank, code in codes.items()}, config, folder)
    assert reason.startswith(told)


def test_an_exit_within_a_training_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageTask, "training_step", lambda *_: sys.exit(0))
    folder = small_cell(tmp_path)
    with pytest.raises(TrainingError, match=r"sys.exit\(0\) was called \(in <lambda>, test_failures.py line "):
        cell.run(folder.path)
    assert "sys.exit(0)" in folder.failure_reason()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_folder_that_is_removed_ends_its_training_in_one_line(replaced, tmp_path, monkeypatch):
    folder = small_cell(tmp_path / "cell")
    rates = UpdateLoop._set_rates

    def removing(self, optimizer):
        rates(self, optimizer)
        if self.update == 4:
            folder.path.rename(tmp_path / "away")  # its place in the file system is not free for another
            if replaced:
                folder.path.mkdir()

    monkeypatch.setattr(UpdateLoop, "_set_rates", removing)
    monkeypatch.setattr("novobench.training.loop._HEARTBEAT_SECONDS", -1.0)
    with pytest.raises(TrainingError, match=r"was removed or replaced while this cell trained \(update 4 of 8\)"):
        cell.run(folder.path)
    left = sorted(path.name for path in folder.path.iterdir()) if folder.path.exists() else []
    assert left == ["failure.json"] * replaced
    shutil.rmtree(tmp_path / "away")


def test_a_log_that_loses_lines_in_the_training_is_no_result(tmp_path, monkeypatch):
    folder = small_cell(tmp_path)
    finish = UpdateLoop.finish

    def losing(self, *words):
        finish(self, *words)
        folder.metrics.write_bytes(folder.metrics.read_bytes()[:-30])

    with monkeypatch.context() as patch:
        patch.setattr(UpdateLoop, "finish", losing)
        with pytest.raises(
            TrainingError, match="metrics.jsonl has lost lines: .* although only this training writes to it"
        ):
            cell.run(folder.path)
    assert not folder.finished
    cell.run(folder.path)
    assert folder.finished
