"""Which cells run at the same time, on which GPUs, and how their processes start. Needs no GPU."""

import builtins
import dataclasses
import multiprocessing
import os
import socket
import tempfile
from multiprocessing import connection  # noqa: F401 - as multiprocessing.connection
from types import SimpleNamespace

import pytest

from novobench import hardware
from novobench.errors import ConfigError, TrainingError
from novobench.suite import executors, forkserver
from novobench.suite.forecast import forecast, measured_speeds
from novobench.suite.plan import PlannedCell
from novobench.suite.results import Results
from novobench.suite.stored_cell import RecordLine, StoredCell
from novobench.tasks import base
from novobench.training import worker
from tests.cells import small_config


def cells(count=8, **runtime):
    changes = {f"runtime__{key}": value for key, value in {"accelerator": "auto", **runtime}.items()}
    return [PlannedCell(small_config(seed=seed, batch={"size": 32, "micro": 8}, **changes)) for seed in range(count)]


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine with these GPUs and cores, and without an MPS daemon."""

    def pretend(gpus, cores=16):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/nowhere")
        monkeypatch.setattr(hardware, "cores", lambda: cores)
        monkeypatch.setattr(hardware, "_count_gpu_devices", lambda: 0)  # unknown, so any number may be a GPU

    return pretend


@pytest.mark.parametrize(
    ("gpus", "devices", "jobs", "expected"),
    [
        ("0", 1, 3, ["0", "0", "0"]),
        ("2,5", 1, 4, ["2", "5", "2", "5"]),
        ("0,1,2,3", 2, 3, ["0,1", "2,3", "0,1"]),
        ("0,1,2", 2, 2, ["0,1", "0,1"]),
        ("", 1, 2, [None, None]),
        ("-1", 1, 2, [None, None]),
    ],
)
def test_more_cells_than_gpus_share_them_evenly(machine, gpus, devices, jobs, expected):
    machine(gpus)
    assert executors._device_slots(cells(devices=devices), jobs) == expected


def test_too_few_gpus_for_one_cell_are_an_error(machine):
    machine("0,1")
    with pytest.raises(ConfigError, match=r"runtime.devices is 4, but this machine has 2 GPU\(s\)"):
        executors._device_slots(cells(devices=4), 1)


@pytest.mark.parametrize(
    ("gpus", "cores", "runtime", "expected"),
    [
        ("0", 16, {}, 1),
        ("0", 16, {"cells_per_gpu": 8}, 8),
        ("0", 6, {"cells_per_gpu": 8}, 3),
        ("0", 1, {"cells_per_gpu": 8}, 1),
        ("0,1,2,3", 64, {"cells_per_gpu": 8}, 32),
        ("0,1,2,3", 64, {"devices": 4, "cells_per_gpu": 8}, 8),
        ("0,1,2,3", 2, {}, 4),
        ("", 16, {"cells_per_gpu": 8}, 16),
        ("", 16, {"threads": 4}, 4),
        ("0", 16, {"accelerator": "cpu", "cells_per_gpu": 8}, 16),
    ],
)
def test_cells_at_a_time(machine, gpus, cores, runtime, expected):
    machine(gpus, cores)
    assert executors.default_jobs(cells(**runtime)) == expected


def test_a_notice_says_how_cells_share_a_gpu(machine, monkeypatch, tmp_path):
    machine("0")
    assert executors.sharing(cells(8), 1) == ""
    assert executors.sharing(cells(1), 8) == ""
    assert executors.sharing(cells(8), 5).startswith("Up to 5 cells share a GPU and take turns")
    (tmp_path / "control").touch()
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert executors.sharing(cells(8), 8) == f"Up to 8 cells share a GPU at once, through the MPS daemon at {tmp_path}."
    machine("0,1")
    assert executors.sharing(cells(8), 3).startswith("Up to 2 cells share a GPU")
    machine("")
    assert executors.sharing(cells(8), 8) == ""


def test_a_forecast_counts_with_the_cells_that_share_a_gpu(workspace):
    """1,000 updates of 32 in 100 s, four at a time: the GPU did 1,280 samples a second, 160 for each of eight."""
    runtime = {"devices": 1, "cells_per_gpu": 4}
    (cell,) = cells(1, cells_per_gpu=8)
    parts = {part: dataclasses.asdict(getattr(cell.config, part)) for part in ("model", "data")}
    config = {"task": "image", "batch": {"size": 32}, "runtime": runtime, **parts}
    shared = dict.fromkeys(RecordLine._fields, "1") | {"cell": "a", "split": "train"}
    lines = [RecordLine(**shared | {"metric": "train_seconds", "value": "100.0"})]
    results = Results.load("gpu")
    entry = {"config": config, "environment": {}, "fingerprint": "x", "updates": 1000}
    results.put("a", StoredCell(lines, [], {"schema": 1}, entry))
    results.write()
    speeds = measured_speeds(Results.load("gpu"))
    assert list(speeds.values()) == [(1000 * 32, 100.0 / 4)]
    assert forecast(cell, speeds).seconds == 8 * 32 / 160  # eight updates of 32


def test_a_process_that_cannot_be_started_is_a_failed_cell(monkeypatch, empty_workspace):
    """The forkserver may be dead, or the system allows no more processes. The other cells are still tried."""

    def start(process):
        raise TrainingError("no process")

    events = []
    monkeypatch.setattr(executors, "start", start)
    some = cells(3, accelerator="cpu")
    assert executors.run_local(some, 2, events.append) == {cell.id: "no process" for cell in some}
    assert [event.kind for event in events] == ["started", "failed"] * 3


def test_a_package_that_cannot_be_loaded_fails_the_cell(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    messages = []

    def broken(name, *rest):
        if name == "novobench.training" and "cell" in rest[2]:
            raise OSError("sndfile library not found")
        return original(name, *rest)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(SystemExit) as ended:
        worker.train({}, "folder", None, 1, SimpleNamespace(send=messages.append))
    assert ended.value.code == 1
    assert messages == ["a package cannot be loaded: OSError: sndfile library not found. Run: make setup"]


@pytest.mark.parametrize(
    "error", [EOFError("unexpected EOF"), ConnectionResetError(104, "reset"), OSError(24, "files")]
)
def test_a_dead_forkserver_is_an_error_of_one_line(error):
    def start():
        raise error

    with pytest.raises(TrainingError, match=f"could not be started.*{type(error).__name__}.*run the same command"):
        forkserver.start(SimpleNamespace(start=start))


@pytest.mark.parametrize("folder", ["x" * 120, "missing", "file"])
def test_sockets_are_in_a_folder_with_a_short_path(monkeypatch, tmp_path, folder):
    """TMPDIR may be long, missing, or a file."""
    (tmp_path / ("x" * 120)).mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    config = dict(multiprocessing.current_process()._config, tempdir=None)
    monkeypatch.setattr(multiprocessing.current_process(), "_config", config)
    forkserver._choose_temporary_folder()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(multiprocessing.connection.arbitrary_address("AF_UNIX"))
    usual = tempfile.gettempdir()
    assert usual == str(tmp_path / folder) if folder == "x" * 120 else usual != str(tmp_path / folder)


def test_a_process_has_the_environment_of_who_asks(monkeypatch):
    """Its forkserver may have been started in another one, by an earlier command of the same Python process."""
    environments = []
    monkeypatch.setattr(os, "environ", {"NOVOBENCH_DATA": "another"})
    monkeypatch.setattr(base, "build", lambda config: environments.append(dict(os.environ)))
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(worker, "end_with_parent", lambda: None)
    worker.measure_fingerprint({"NOVOBENCH_CACHE": "mine"}, None, SimpleNamespace(send=lambda _: None))
    assert environments == [{"NOVOBENCH_CACHE": "mine"}]
