"""A collection reads what is new, and what has changed; no more than that."""

from collections import Counter

import pytest

from novobench.suite import checked_files, collection, records, up_to_date
from tests.suite.finished import FILES, TOP1, collected, content, finished


@pytest.fixture
def reads(monkeypatch):
    """How often run folders and results files were read."""
    counts = Counter()

    def counting(module, name, key):
        original = getattr(module, name)

        def call(*words, **more):
            counts[key(*words)] += 1
            return original(*words, **more)

        monkeypatch.setattr(module, name, call)

    counting(collection, "read_run", lambda folder: "run folder")
    counting(records, "_by_cell", lambda path, *_: path.name)
    counting(records.StoredCell, "digests", lambda *_: "digests")
    counting(checked_files, "check_line", lambda *_: "line")
    counting(up_to_date, "write_json", lambda path, *_: path.name)
    monkeypatch.setattr(up_to_date, "_SETTLED_SECONDS", -3600.0)
    return counts


def test_nothing_is_read_twice(results, reads):
    """Work grows with what is new: a collection of what is there reads no run folder, no curve and no digest."""
    folders = [finished("small", row, TOP1, seed=seed) for row in ("sgd", "novograd") for seed in range(5)]
    collected(*folders)
    assert reads["run folder"] == 10
    before = {path.name: path.stat().st_mtime_ns for path in results.iterdir()}
    reads.clear()
    assert collected(*folders) == []
    assert reads == {"records.csv": 1}
    assert {path.name: path.stat().st_mtime_ns for path in results.iterdir()} == before
    reads.clear()
    more = finished("small", "sgd", TOP1, seed=5)
    assert collected(*folders, more) == []
    assert reads["run folder"] == 1
    assert set(records.Results("laptop").whole) == {folder.path.name for folder in (*folders, more)}


@pytest.mark.parametrize("name", ["record.json", "config.yaml", "environment.json", "metrics.jsonl", "predictions"])
def test_a_run_folder_that_changed_is_read_again(results, reads, name):
    folder = finished("small", "sgd", TOP1)
    collected(folder)
    path = next(folder.path.glob(f"{name}*"))
    path.write_bytes(path.read_bytes())  # the same: its time alone is another
    reads.clear()
    collected(folder)
    assert reads["run folder"] == 1


def test_a_run_folder_written_a_moment_ago_is_read_again(results, reads, monkeypatch):
    """Its files could change within one tick of the clock."""
    monkeypatch.setattr(up_to_date, "_SETTLED_SECONDS", 3600.0)
    folder = finished("small", "sgd", TOP1)
    collected(folder)
    collected(folder)
    assert reads["run folder"] == 2


@pytest.mark.parametrize("name", FILES)
def test_other_results_than_the_last_collection_left_are_made_anew(results, reads, name):
    """Whole, but of an older training, as a checkout of an older commit leaves them: the run folder wins."""
    folder, other = finished("small", "sgd", TOP1), finished("small", "novograd", TOP1)
    collected(folder, other)
    old = content(results)
    finished("small", "sgd", {"test": {"top1": 70.0, "loss": 0.5}}, curves={"train/loss": [3.0, 0.5]})
    assert collected(folder, other) == []
    new = content(results)
    (results / name).write_bytes(old[name])  # one file alone
    assert collected(folder, other) == []
    assert content(results) == new
    for path in results.iterdir():
        path.write_bytes(old[path.name])
    assert collected(folder, other) == []
    assert content(results) == new


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"code": 1}', '{"files": [], "folders": {}}', None])
def test_a_damaged_note_costs_time_alone(results, workspace, reads, damage):
    folder = finished("small", "sgd", TOP1)
    collected(folder)
    whole = content(results)
    note = workspace / "runs" / "laptop" / "collected.json"
    if damage is None:
        note.unlink()
    else:
        note.write_text(damage)
    reads.clear()
    assert collected(folder) == []
    assert reads["run folder"] == 1
    assert content(results) == whole


def test_curves_and_examples_of_results_known_to_be_whole(results, reads):
    folder = finished("small", "sgd", TOP1)
    collected(folder)
    found = records.Results("laptop")
    assert not reads["curves.csv"] > 1
    (stored,) = found.whole.values()
    assert [line.value for line in stored.curves] == ["4.0", "2.0", "1.0"]
    assert stored.examples["test"] == [{"index": 0, "reference": 1, "output": 1}]
    assert stored.whole
