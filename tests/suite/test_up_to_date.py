"""A command reads each results file once, and a collection reads only what is new or has changed."""

import io
from collections import Counter
from pathlib import Path

import pytest

from novobench.suite import collection, up_to_date
from novobench.suite.results import Results
from tests.suite.finished import FILES, TOP1, collected, content, finished


@pytest.fixture
def opened(monkeypatch):
    """How often each file was opened for reading since the test last cleared it, by name."""
    counts = Counter()
    io_open = io.open

    def counting(file, mode="r", *args, **kwargs):
        if isinstance(file, str | Path) and not set(mode) & set("wax+"):
            counts[Path(file).name] += 1
        return io_open(file, mode, *args, **kwargs)

    monkeypatch.setattr(io, "open", counting)  # `Path.open`, `read_bytes` and `read_text` call it
    return counts


@pytest.fixture
def collected_cells(monkeypatch):
    """The cells whose run folders were read."""
    cells = []
    read_run = collection.read_run
    monkeypatch.setattr(collection, "read_run", lambda folder: cells.append(folder.path.name) or read_run(folder))
    return cells


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled as soon as they are written, so that tests need not wait."""
    monkeypatch.setattr(up_to_date, "_SETTLED_SECONDS", -3600.0)


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_command_reads_records_once(results, novobench, opened, verb):
    collected(*(finished("small", row, TOP1) for row in ("sgd", "novograd")))
    for note in ("kept", "removed"):
        if note == "removed":  # then nothing says that the files are whole
            for path in results.parents[1].glob("runs/laptop/collected.json"):
                path.unlink()
        opened.clear()
        code, _, err = novobench(verb, "small")
        assert (code, err) == (0, "")
        assert {name: opened[name] for name in FILES} == dict.fromkeys(FILES, 1)


def test_a_command_that_collects_reads_records_once(results, novobench, opened):
    collected(finished("small", "sgd", TOP1))
    finished("small", "novograd", TOP1)
    opened.clear()
    code, _, err = novobench("run", "small")
    assert (code, err) == (0, "")
    assert {name: opened[name] for name in FILES} == dict.fromkeys(FILES, 1)
    assert len(Results.load("laptop").cells) == 2


def test_results_that_another_command_wrote_meanwhile_are_read_again(results):
    collected(finished("small", "sgd", TOP1))
    before = Results.load("laptop")
    assert before.reloaded() is before
    collected(finished("small", "novograd", TOP1))
    assert len(before.reloaded().cells) == 2


def test_nothing_is_read_twice(results, settled, opened, collected_cells):
    """Work grows with what is new: a collection without news reads no run folder and no curve."""
    folders = [finished("small", row, TOP1, seed=seed) for row in ("sgd", "novograd") for seed in range(5)]
    collected(*folders)
    assert len(collected_cells) == 10
    before = {path.name: path.stat().st_mtime_ns for path in results.iterdir()}
    collected_cells.clear()
    opened.clear()
    assert collected(*folders) == []
    assert collected_cells == []
    assert opened["metrics.jsonl"] == opened["record.json"] == 0
    assert {path.name: path.stat().st_mtime_ns for path in results.iterdir()} == before
    more = finished("small", "sgd", TOP1, seed=5)
    assert collected(*folders, more) == []
    assert collected_cells == [more.path.name]
    assert set(Results.load("laptop").cells) == {folder.path.name for folder in (*folders, more)}


@pytest.mark.parametrize("name", ["record.json", "config.yaml", "environment.json", "metrics.jsonl", "predictions"])
def test_a_run_folder_that_changed_is_read_again(results, settled, collected_cells, name):
    folder = finished("small", "sgd", TOP1)
    collected(folder)
    path = next(folder.path.glob(f"{name}*"))
    path.write_bytes(path.read_bytes())  # only its time changes
    collected(folder)
    assert len(collected_cells) == 2


def test_a_run_folder_written_a_moment_ago_is_read_again(results, collected_cells, monkeypatch):
    """Its files could change within one tick of the clock."""
    monkeypatch.setattr(up_to_date, "_SETTLED_SECONDS", 3600.0)
    folder = finished("small", "sgd", TOP1)
    collected(folder)
    collected(folder)
    assert len(collected_cells) == 2


@pytest.mark.parametrize("name", FILES)
def test_other_results_than_the_last_collection_left_are_replaced(results, settled, name):
    """They are whole but of an older training, as a checkout of an older commit leaves them: the run folder wins."""
    folder, other = finished("small", "sgd", TOP1), finished("small", "novograd", TOP1)
    collected(folder, other)
    old = content(results)
    finished("small", "sgd", {"test": {"top1": 70.0, "loss": 0.5}}, curves={"train/loss": [3.0, 0.5]})
    assert collected(folder, other) == []
    new = content(results)
    (results / name).write_bytes(old[name])  # only this file
    assert collected(folder, other) == []
    assert content(results) == new
    for path in results.iterdir():
        path.write_bytes(old[path.name])
    assert collected(folder, other) == []
    assert content(results) == new


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"code": 1}', '{"files": [], "folders": {}}', None])
def test_a_damaged_note_only_costs_time(results, workspace, settled, collected_cells, damage):
    folder = finished("small", "sgd", TOP1)
    collected(folder)
    whole = content(results)
    note = workspace / "runs" / "laptop" / "collected.json"
    if damage is None:
        note.unlink()
    else:
        note.write_text(damage)
    assert collected(folder) == []
    assert len(collected_cells) == 2
    assert content(results) == whole


def test_curves_are_read_only_when_needed(results, settled, opened):
    folder = finished("small", "sgd", TOP1)
    collected(folder)
    opened.clear()
    reread = Results.load("laptop")
    assert reread.value(folder.path.name, "test", "top1") == 50.0
    assert [point.value for point in reread.curves(folder.path.name)["train/loss"]] == [4.0, 2.0, 1.0]
