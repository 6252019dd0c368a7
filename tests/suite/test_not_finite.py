"""Numbers that are NaN or infinite in the files of a run."""

import json
import math

import pytest

from novobench.files import json_text, number, write_json
from novobench.training.metrics_log import MetricsLog
from novobench.training.run_folder import RunFolder
from tests.suite.finished import finished

NAN, INF = math.nan, math.inf


def strict(text):
    """Parse JSON as strictly as readers in other languages, without the NaN and Infinity that Python accepts."""

    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def test_json_has_null_for_numbers_that_are_not_finite(tmp_path):
    content = {"a": [1.5, NAN, {"b": INF}], "c": (-INF, 2), "d": "NaN", "e": None}
    expected = {"a": [1.5, None, {"b": None}], "c": [None, 2], "d": "NaN", "e": None}
    assert strict(json_text(content)) == expected
    write_json(tmp_path / "a.json", content)
    assert strict((tmp_path / "a.json").read_text()) == expected


def test_every_file_of_a_run_is_json(tmp_path):
    folder = RunFolder(tmp_path)
    metrics = MetricsLog(folder.metrics)
    metrics.append(1, "train", {"loss": 2.0, "epoch": 0.5})
    metrics.append(2, "train", {"loss": NAN, "epoch": 1.0})
    metrics.append(3, "train", {"loss": INF})
    assert [strict(line)["loss"] for line in folder.metrics.read_text().splitlines()] == [2.0, None, None]
    folder.write_predictions("test", [{"index": 0, "score": -INF}])
    assert folder.read_predictions("test") == [{"index": 0, "score": None}]


def test_numbers_are_read_back():
    assert [number(x) for x in (1, 2.5, "3", "1e3")] == [1.0, 2.5, 3.0, 1000.0]
    assert all(math.isnan(number(x)) for x in (None, "nan", "inf", "-Infinity", NAN, -INF))
    for wrong in ("", "abc", True, [1], {}):
        with pytest.raises(ValueError, match="not a number|could not convert"):
            number(wrong)


def test_an_overridden_run_prints_that_a_metric_is_not_finite(results, novobench):
    finished("small", "sgd", {"test": {"top1": None}}, overrides={"optimizer.lr": 0.7})
    code, out, err = novobench("run", "small", "--rows", "sgd", "--set", "optimizer.lr=0.7")
    assert (code, err) == (0, "")
    assert "test: top1 not finite" in out
