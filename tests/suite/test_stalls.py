"""What counts as a stall: silence between batches, and a set-up that does nothing. Slow work never does."""

import os
import platform
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from novobench.processes import activity
from novobench.suite import executors
from novobench.suite.plan import PlannedCell
from novobench.training.run_folder import RunFolder
from tests import slow_cells
from tests.cells import small_config

DOING = {
    "waits in small steps": ("import time\nwhile True: time.sleep(0.02)", True),
    "computes": ("while True: pass", True),
    "reads": ("while True: open('/bin/sh', 'rb').read(); __import__('time').sleep(0.01)", True),
    "waits forever": ("import threading; threading.Event().wait()", False),
    "waits forever beside an idle thread": (
        "import threading, time\n"
        "def look():\n    while True: time.sleep(0.05)\n"
        "threading.Thread(target=look).start(); threading.Event().wait()",
        False,
    ),
}


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="the system has no /proc")
@pytest.mark.parametrize("what", DOING)
def test_activity_of_a_process(what):
    code, moves = DOING[what]
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(1.0)
        before = activity(process.pid)
        assert before
        end = time.monotonic() + (30 if moves else 1.5)
        while activity(process.pid) == before and time.monotonic() < end:
            time.sleep(0.05)
        assert (activity(process.pid) != before) == moves
    finally:
        process.kill()
        process.wait()
    assert activity(process.pid) == activity(process.pid) == ()


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A watched cell with a simulated clock and process. It may be silent for 60 s."""
    now = SimpleNamespace(time=100.0, activity=(0,))
    monkeypatch.setattr(executors.time, "monotonic", lambda: now.time)
    monkeypatch.setattr(executors, "activity", lambda pid: (pid, *now.activity))
    cell = PlannedCell(small_config(runtime__stall_minutes=1.0))
    folder = RunFolder(tmp_path)
    process = SimpleNamespace(pid=-1)
    job = executors._Running(process, cell, folder, 100.0, None, folder.read_heartbeat(), last_change=100.0)

    def later(seconds, *activity):
        now.time += seconds
        now.activity = activity or now.activity
        share = job.progress(now.time)
        return job.stalled(now.time), share

    return SimpleNamespace(folder=folder, later=later, job=job, now=now)


def test_before_and_during_set_up_the_process_is_watched(watched):
    assert watched.later(50, 1) == (False, 0.0)  # no heartbeat yet
    assert watched.later(50, 2) == (False, 0.0)
    watched.folder.write_heartbeat(0, 8, setting_up=True)
    for second in range(10):
        assert watched.later(50, second) == (False, 0.0)
    assert watched.later(61) == (True, 0.0)


def test_time_without_polls_is_not_a_stall(watched, monkeypatch):
    """The command is stopped for 1,000 s, as by Ctrl-Z, while its cell keeps training."""
    process, pauses = watched.job.process, iter([1, 1000, 1])
    process.exitcode = None

    def sleep(_):
        pause = next(pauses, None)
        if pause is None:
            process.exitcode = 0
        else:
            watched.later(pause)

    monkeypatch.setattr(executors.time, "sleep", sleep)
    monkeypatch.setattr(executors, "forkserver", lambda: None)
    monkeypatch.setattr(executors, "_start", lambda *_: watched.job)
    monkeypatch.setattr(executors._Running, "end", lambda job: "stopped" if process.exitcode is None else "")
    assert executors.run_local([watched.job.cell], 1, lambda event: None) == {}


@pytest.mark.parametrize("reading", range(2, 9))
def test_a_command_that_is_stopped_during_a_poll_kills_nothing(reading, watched, monkeypatch):
    """The 1,000 s pass right after one of its readings of the clock."""
    process, readings = watched.job.process, []
    process.exitcode = None

    def clock():
        readings.append(watched.now.time)
        if len(readings) == reading:
            watched.now.time += 1000
        if len(readings) == 12:
            process.exitcode = 0
        return readings[-1]

    monkeypatch.setattr(executors.time, "monotonic", clock)
    monkeypatch.setattr(executors.time, "sleep", lambda _: None)
    monkeypatch.setattr(executors, "forkserver", lambda: None)
    monkeypatch.setattr(executors, "_start", lambda *_: watched.job)
    monkeypatch.setattr(executors._Running, "end", lambda job: "stopped" if process.exitcode is None else "")
    assert executors.run_local([watched.job.cell], 1, lambda event: None) == {}


def test_a_process_with_a_record_is_killed_if_it_lingers(watched):
    watched.folder.write_heartbeat(8, 8)
    watched.later(1)
    watched.later(executors._LINGER_SECONDS - 1)
    watched.folder.record.write_text("{}")
    assert watched.later(0) == (False, 1.0)
    assert watched.later(2) == (True, 1.0)
    ended = []
    watched.job.process.exitcode = None
    watched.job.process.kill, watched.job.process.join = lambda: ended.append("kill"), lambda: ended.append("join")
    assert watched.job.end() == ""
    assert ended == ["kill", "join"]


def test_a_cell_that_cannot_start_stops_no_other(empty_workspace, monkeypatch):
    """A folder is in the place of its config, or of the reason of its last failure."""
    cells = [PlannedCell(small_config(seed=seed)) for seed in range(3)]
    for cell, name in zip(cells, ("config.yaml", "failure.json", ""), strict=True):
        (cell.folder.path / name).mkdir(parents=True)
    process = SimpleNamespace(exitcode=0, join=lambda: None, pid=-1)
    context = SimpleNamespace(
        Pipe=lambda duplex: (SimpleNamespace(poll=lambda: False), SimpleNamespace(close=lambda: None)),
        Process=lambda **_: SimpleNamespace(start=lambda: cells[2].folder.record.write_text("{}"), **vars(process)),
    )
    monkeypatch.setattr(executors, "forkserver", lambda: context)
    events = []
    failed = executors.run_local(cells, 1, lambda event: events.append((event.cell.config.seed, event.kind)))
    assert [kind for seed, kind in events if seed < 2] == ["started", "failed"] * 2
    assert (2, "finished") in events
    assert "config.yaml: " in failed[cells[0].id]
    assert "failure.json: " in failed[cells[1].id]


def test_after_set_up_only_batches_count(watched):
    watched.folder.write_heartbeat(2, 8)
    assert watched.later(50, 1) == (False, 0.25)
    for second in range(10):  # batches of an evaluation: the update stays
        watched.folder.write_heartbeat(2, 8)
        assert watched.later(50, second) == (False, 0.25)
    assert watched.later(50, 98) == (False, 0.25)
    assert watched.later(11, 99) == (True, 0.25)  # busy, but in one batch


def test_a_heartbeat_of_an_earlier_attempt_does_not_count(watched):
    watched.folder.write_heartbeat(7, 8)
    watched.job.old_beat = watched.folder.read_heartbeat()
    assert watched.later(59, 0) == (False, 0.0)
    assert watched.later(61) == (True, 0.0)


def test_during_set_up_the_process_of_the_heartbeat_is_watched(watched, monkeypatch):
    """That is torchrun's first process. If another machine holds the lock, it is our own process, which waits."""
    watched_pids = []
    monkeypatch.setattr(executors, "activity", watched_pids.append)
    watched.folder.write_heartbeat(0, 8, setting_up=True)
    watched.later(1)
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    watched.later(1)
    assert watched_pids == [os.getpid(), -1]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["slow_setup", "slow_evaluation", "hanging_setup", "hanging_batch"])
def test_slow_cells_finish_and_hanging_ones_are_stopped(what, empty_workspace, monkeypatch):
    monkeypatch.setattr("novobench.training.worker.train", getattr(slow_cells, what))
    cell = PlannedCell(small_config(runtime__stall_minutes=0.05))
    failed = executors.run_local([cell], 1, lambda event: None)
    if what.startswith("slow"):
        assert failed == {}
    else:
        assert "no progress for 0.05 minutes" in failed[cell.id]
