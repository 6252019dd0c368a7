"""`record.json`: what is written is read back, and a damaged file is refused with the reason."""

import dataclasses
import json
import math

import pytest

from novobench.tasks.metric import Metric
from novobench.training.record import Record

RECORD = Record(
    cell="image-sgd-s0-0123456789", task="image", optimizer="sgd", seed=0, scale="laptop", purpose="table", updates=8,
    epochs=0.25, metrics={"test": {"top1": Metric(50.5, 597, "%"), "skipped": Metric(3, 597, "images")}},
    baselines={"test": {"majority": Metric(10.0, 597, "%")}}, scoring={"top1": "argmax"}, search_split="search",
    skipped_updates=1, skipped_samples=2, train_seconds=1.5, determinism="strict", parameters=100,
    weights_sha256="0" * 64, fingerprint="digits:0123", counts={"train": 1040}, files={"metrics.jsonl": "1" * 64},
    code="0123456789ab", dirty=False, hardware="a machine, 2 cores", finished="2020-01-01T00:00:00Z",
)  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"selected_update": 4}, {"search_split": None}])
def test_a_record_is_read_as_it_was_written(changes, tmp_path):
    record = dataclasses.replace(RECORD, **changes)
    record.write(tmp_path / "record.json")
    assert Record.read(tmp_path / "record.json") == record


def test_the_file_has_these_keys_in_this_order(tmp_path):
    """Other programs and finished runs depend on them."""
    RECORD.write(tmp_path / "record.json")
    content = json.loads((tmp_path / "record.json").read_text())
    assert list(content) == [
        "schema", "cell", "task", "optimizer", "seed", "scale", "purpose", "updates", "epochs", "metrics", "baselines",
        "scoring", "search_split", "skipped_updates", "skipped_samples", "train_seconds", "determinism", "parameters",
        "weights_sha256", "fingerprint", "counts", "files", "claims", "code", "dirty", "hardware", "finished",
    ]  # fmt: skip
    assert content["metrics"]["test"]["top1"] == {"value": 50.5, "n": 597, "unit": "%"}


def test_a_number_that_is_not_finite_is_null_in_the_file_and_nan_when_read(tmp_path):
    path = tmp_path / "record.json"
    dataclasses.replace(RECORD, train_seconds=math.inf).write(path)
    assert json.loads(path.read_text())["train_seconds"] is None
    assert math.isnan(Record.read(path).train_seconds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "its schema is 2; this version reads 1"),
        ({"updates": None}, "its updates is None, not int"),
        ({"updates": True}, "its updates is True, not int"),
        ({"updates": 8.0}, "its updates is 8.0, not int"),
        ({"epochs": "0.25"}, "its epochs is '0.25', not float"),
        ({"hardware": [2]}, r"its hardware is \[2\], not str"),
        ({"dirty": 0}, "its dirty is 0, not bool"),
        ({"counts": {"train": "many"}}, "its counts.train is 'many', not int"),
        ({"scoring": []}, r"its scoring is \[\], not dict"),
        ({"metrics": {"test": {"top1": 50.5}}}, "its metrics.test.top1 is 50.5, not Metric"),
        ({"metrics": {"test": {"top1": {"value": 50.5, "n": 597}}}}, "its metrics.test.top1 is .*, not Metric"),
        ({"metrics": {"test": {"top1": {"value": True, "n": 1, "unit": "%"}}}}, "top1.value is True, not float"),
        ({"train_seconds": 10**400}, "a number in it is too large"),
        ({"selected_updates": 4}, "unknown key 'selected_updates'"),
    ],
)
def test_a_damaged_record_is_refused(changes, message, tmp_path):
    path = tmp_path / "record.json"
    RECORD.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        Record.read(path)


OPTIONAL = ("selected_update", "files", "claims")


def test_a_record_from_before_digests_is_read(tmp_path):
    path = tmp_path / "record.json"
    RECORD.write(path)
    content = json.loads(path.read_text())
    del content["files"]
    path.write_text(json.dumps(content))
    assert Record.read(path) == dataclasses.replace(RECORD, files={})


@pytest.mark.parametrize("key", [f.name for f in dataclasses.fields(Record) if f.name not in ("schema", *OPTIONAL)])
def test_a_key_that_is_missing_is_named(key, tmp_path):
    path = tmp_path / "record.json"
    RECORD.write(path)
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"it lacks {key}"):
        Record.read(path)


@pytest.mark.parametrize("content", ["", "{", "null", "[]", "[" * 100_000, '{"schema": NaN}'])
def test_a_file_that_holds_no_record_is_refused(content, tmp_path):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="Expecting|an object|nested|schema"):
        Record.read(path)
