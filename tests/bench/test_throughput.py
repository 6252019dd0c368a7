"""Throughput is measured on the right model and adds up; no test asserts a time."""

import pytest

from novobench.bench import throughput
from novobench.errors import ConfigError
from novobench.files import read_csv


def test_one_row_adds_up(tmp_path, novobench):
    output = tmp_path / "throughput.csv"
    code, out, _ = novobench(
        "bench", "throughput", "image", "--scale", "laptop", "--updates", "3", "--set", "optimizer.name=sgd",
        "--output", str(output),
    )  # fmt: skip
    assert code == 0
    assert "126,458" in out
    [row] = read_csv(output)
    assert row["optimizer"] == "sgd"
    assert int(row["parameters"]) == 126_458
    expected = 32 / (float(row["milliseconds"]) / 1e3)
    assert float(row["per_second"]) == pytest.approx(expected, rel=1e-6)
    assert float(row["milliseconds_low"]) <= float(row["milliseconds"]) <= float(row["milliseconds_high"])


def test_the_paper_scale_cell_is_the_papers_model_with_one_micro_batch():
    config = throughput.cell_of("image", "paper", [])
    assert (config.batch.size, config.batch.micro, config.optimizer.name) == (128, 128, "novograd")
    assert config.model.widths == [64, 128, 256, 512]


def test_a_misspelt_task_or_key_is_named():
    with pytest.raises(ConfigError, match="no task 'imag'.*Known: image"):
        throughput.cell_of("imag", "paper", [])
    with pytest.raises(ConfigError, match=r"no key 'runtime.precison'. Did you mean 'precision'"):
        throughput.cell_of("image", "paper", ["runtime.precison=32-true"])
