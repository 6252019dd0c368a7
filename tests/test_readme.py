"""The figures in README are those of the results that it names."""

import csv
import re

import pytest

from novobench.config import ROOT

MODELS = ("ResNet-50v2", "Jasper DR 10x5", "Transformer-big", "Transformer-XL")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(name):
    with (ROOT / "results" / "gpu" / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cells(label):
    """The numbers of README's table row that begins so."""
    [line] = [line for line in README.splitlines() if line.startswith(f"| {label}")]
    return [re.sub(r"[ ,%]", "", cell) for cell in line.strip("|").split("|")[1:]]


@pytest.mark.parametrize(
    ("label", "file", "optimizer", "column", "written"),
    [
        ("NovoGrad |", "bench_optimizer.csv", "NovoGrad", "ratio", "{:.2f}"),
        ("NovoGrad, of the bandwidth", "bench_optimizer.csv", "NovoGrad", "of_copy_bandwidth", "{:.0%}"),
        ("apex FusedNovoGrad", "bench_optimizer.csv", "apex FusedNovoGrad (paper mode)", "ratio", "{:.2f}"),
        ("NovoGrad with unscaling", "bench_clipped.csv", "NovoGrad", "ratio", "{:.2f}"),
    ],
)
def test_step_times(label, file, optimizer, column, written):
    found = {row["model"]: row[column] for row in rows(file) if row["optimizer"] == optimizer}
    assert cells(label) == [written.format(float(found[model])).rstrip("%") for model in MODELS]


@pytest.mark.parametrize(
    ("label", "task"),
    [
        ("ResNet-50v2, images/s", "image"),
        ("Jasper DR 10x5, utterances/s", "speech"),
        ("Transformer-big, target tokens/s", "translation"),
        ("Transformer-XL, tokens/s", "language"),
    ],
)
def test_training_speeds(label, task):
    [row] = rows(f"throughput_{task}.csv")
    speed, published, ratio = map(float, cells(label))
    assert speed == round(float(row["per_second"]))
    assert published == float(row["published_per_second"])
    assert ratio == round(float(row["of_published"]), 2)
