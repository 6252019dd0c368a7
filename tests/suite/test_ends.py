"""How a training can fail: the error is one line that says what ended it and what to do."""

import time

import pytest

from novobench.errors import MAX_LENGTH
from novobench.suite import executors
from novobench.suite.plan import PlannedCell
from tests.cells import small_config

RESUME = "Run the same command again to resume from its checkpoint"
ENDS = {
    "SIGTERM": f"its process was ended by signal 15 (SIGTERM). {RESUME}",
    "SIGHUP": f"its process was ended by signal 1 (SIGHUP). {RESUME}",
    "SIGINT": None,  # a terminal sends it to all processes; only the command acts on it
    "SIGUSR1": f"its process was ended by signal 10 (SIGUSR1). {RESUME}",
    "SIGKILL": "its process was killed by signal 9 (SIGKILL), as the system does when memory runs out. Run the same",
    "SIGBUS": f"its process crashed in compiled code, with signal 7 (SIGBUS). {RESUME}",
    "SIGSTOP": "no progress for 0.05 minutes (runtime.stall_minutes) (its process was stopped by a signal, as Ctrl-Z",
    "crash": f"its process crashed in compiled code, with signal 11 (SIGSEGV). {RESUME}",
    "leave": "sys.exit(0) was called (in leave, faulty.py line ",
    "leave_at_once": "its process ended with exit code 0 without a record. Code that it loaded, such as",
    "bad_data": "data.path: picture 7 is no picture.",
    "odd_text": r"ValueError: first line second \x1b[31mred\udcff long long",
    "deep": "RecursionError: maximum recursion depth exceeded",
    "too_large": "Out of memory: RuntimeError: ",
    "hang": "no progress for 0.05 minutes (runtime.stall_minutes); stopped. See ",
    "hang_computing": "no progress for 0.05 minutes (runtime.stall_minutes); stopped. See ",
    "linger": None,
    "cleanup_that_fails": None,
}


def cell(fault, rank="", **runtime):
    options = {"fault": fault, "rank": rank}
    changes = {f"runtime__{key}": value for key, value in runtime.items()}
    return PlannedCell(
        small_config(optimizer__name="tests.training.faulty:Faulty", optimizer__options=options, **changes)
    )


@pytest.mark.slow
def test_the_error_says_in_one_line_what_ended_a_training(empty_workspace, monkeypatch, heard_signals):
    monkeypatch.setattr(executors, "_LINGER_SECONDS", 3.0)
    hangs = {"SIGSTOP", "hang", "hang_computing"}
    cells = {fault: cell(fault, stall_minutes=0.05 if fault in hangs else 30.0) for fault in ENDS}
    failed = executors.run_local(list(cells.values()), 2, lambda event: None)
    for fault, message in ENDS.items():
        reason, folder = failed.get(cells[fault].id), cells[fault].folder
        log = folder.log.read_text(encoding="utf-8")
        if message is None:
            assert reason is None, fault
            assert folder.finished
            continue
        assert reason is not None, fault
        assert message in reason, (fault, reason)
        assert reason.isprintable()
        assert len(reason) <= MAX_LENGTH + 200
        assert not folder.finished
        assert [path.name for path in folder.path.rglob(".*")] == [], fault
        if fault in ("crash", "SIGBUS", "odd_text", "deep", "leave"):  # the log has the traceback
            assert "faulty.py" in log, fault
    assert "printed \\udcff" in cells["odd_text"].folder.log.read_text(encoding="utf-8")


RANKS = {
    "SIGTERM": f"one of its 2 processes was ended by signal 15 (SIGTERM), so the others were stopped. {RESUME}",
    "SIGKILL": "process 1 of its 2 processes was killed by signal 9 (SIGKILL), as the system does",
    "leave_at_once": "Another process of the training has ended before this one (RuntimeError: ",
    "bad_data": "data.path: picture 7 is no picture.",
    "hang": "no progress for 0.2 minutes (runtime.stall_minutes); stopped. See ",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", RANKS)
def test_if_one_of_two_processes_ends_the_other_ends_too(fault, empty_workspace):
    planned = cell(fault, "1", devices=2, stall_minutes=0.2 if fault == "hang" else 30.0)
    begun = time.monotonic()
    failed = executors.run_local([planned], 1, lambda event: None)
    assert RANKS[fault] in failed[planned.id]
    assert failed[planned.id].isprintable()
    assert time.monotonic() - begun < 300  # takes seconds on an idle machine
