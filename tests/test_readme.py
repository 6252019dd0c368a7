"""README and CONTRIBUTING: their numbers are those of the results, their commands work, and their paths exist."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from novobench.places import ROOT

MODELS = ("ResNet-50v2", "Jasper DR 10x5", "Transformer-big", "Transformer-XL")
TASKS = ("image", "speech", "translation", "language")
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def section(title):
    """The text under a heading of README."""
    return README.partition(f"## {title}\n")[2].partition("\n## ")[0]


def rows(name):
    with (ROOT / "results" / "gpu" / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cells(label):
    """The numbers in the README table row with this label."""
    [line] = [line for line in README.splitlines() if line.startswith(f"| {label}")]
    return [re.sub(r"[ ,%]", "", cell) for cell in line.strip("|").split("|")[1:]]


@pytest.mark.parametrize(
    ("label", "file", "optimizer", "column", "written"),
    [
        ("NovoGrad |", "bench_optimizer.csv", "NovoGrad", "ratio", "{:.2f}"),
        ("NovoGrad with m in bf16", "bench_optimizer.csv", "NovoGrad(bf16 moment)", "ratio", "{:.2f}"),
        ("NovoGrad, share of copy bandwidth", "bench_optimizer.csv", "NovoGrad", "of_copy_bandwidth", "{:.0%}"),
        ("apex FusedNovoGrad", "bench_optimizer.csv", "apex FusedNovoGrad (paper mode)", "ratio", "{:.2f}"),
        ("NovoGrad with unscaling", "bench_clipped.csv", "NovoGrad", "ratio", "{:.2f}"),
    ],
)
def test_step_times(label, file, optimizer, column, written):
    values = {row["model"]: row[column] for row in rows(file) if row["optimizer"] == optimizer}
    assert cells(label) == [written.format(float(values[model])).rstrip("%") for model in MODELS]


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


def test_linked_files_exist():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) > 10
    for link in links:
        file, _, anchor = link.partition("#")
        path = ROOT / (file or "README.md")
        assert path.exists(), link
        if anchor:
            headings = re.findall(r"^## (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
            assert anchor in anchors, link


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md"])
def test_named_files_exist(file):
    """Paths of the repository in the text, such as `scripts/gpu_proof.sh`."""
    text = (ROOT / file).read_text(encoding="utf-8")
    names = re.findall(r"(?<![\w/])(?:configs|experiments|novobench|results|scripts|tests)/[\w./-]*\w(?![\w<{-])", text)
    generated = {"results/gpu/gpu_proof.tar"}
    assert len(names) > 10
    assert [name for name in names if not (ROOT / name).exists() and name not in generated] == []


def test_the_house_is_as_contributing_says():
    """The tree of folders and files, where `<task>/` stands for the folder of every task."""
    tree = CONTRIBUTING.partition("## The house\n")[2].partition("\n## ")[0]
    folders, files = [], []
    for line in re.findall(r"^    .*$", tree, re.MULTILINE):
        left, right = line[:28].rstrip(), line[28:]
        if name := left.strip():
            folders[(len(left) - len(name) - 4) // 2 :] = [name]
        folder = "".join(folders)
        names = re.findall(r"(?<![^\s(])[\w-]+(?:\.py|\.sh|\.yaml)(?![^\s;,)])", right)
        files += [place + name for name in names for place in (folder.replace("<task>", task) for task in TASKS)]
    assert len(set(files)) > 100
    assert [file for file in files if not (ROOT / file).exists()] == []


# ------------------------------------------------------------------------------------ your optimizer

SIGNS = """
import torch

class MyOptimizer(torch.optim.Optimizer):
    def __init__(self, params, lr, scale=1.0):
        super().__init__(params, {"lr": lr, "scale": scale})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad.sign(), alpha=group["lr"] * group["scale"])
"""
"""An unusual optimizer: it has no betas, no weight decay and no default rate."""


@pytest.fixture
def your_optimizer(tmp_path):
    """A function that runs a command with README's class `./mine.py:MyOptimizer` in the folder of `mine.py`."""
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    for name in ("novobench", "configs", "experiments"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", checkout)
    elsewhere.mkdir()
    (elsewhere / "mine.py").write_text(SIGNS)
    script = tmp_path / "bin" / "novobench"  # its folder is on Python's path, the current one is not
    script.parent.mkdir()
    script.write_text("from novobench.cli import main\n\nif __name__ == '__main__':\n    main()\n")

    def run(*words):
        environment = {**os.environ, "PYTHONPATH": str(checkout), "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, script, *words]
        return subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True), checkout

    return run


def commands_of_your_optimizer():
    """The commands of README's section, without their comments."""
    found = re.findall(r"^    novobench (.*)$", section("Does your optimizer beat AdamW?"), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


def test_your_optimizer_can_be_planned(your_optimizer):
    [command] = [words for words in commands_of_your_optimizer() if "--dry-run" in words]
    done, checkout = your_optimizer(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert "language: 16 trials per round (0 of 16 cells finished)" in done.stdout
    assert not (checkout / "runs").exists()


@pytest.mark.slow
def test_your_optimizer_is_compared(your_optimizer):
    """README's command on a smaller task."""
    command = next(
        words for words in commands_of_your_optimizer() if words[0] == "compare" and "--dry-run" not in words
    )
    assert command == ["compare", "./mine.py:MyOptimizer", "adamw", "--task", "language"]
    small = ("--task", "image", "--trials", "2", "--seeds", "2", "--set", "budget=40steps", "model.widths=[8, 8, 8]")
    done, checkout = your_optimizer(*command, *small)
    assert (done.returncode, done.stderr) == (0, "")
    folder = checkout / "results" / "laptop" / "compare" / "image-MyOptimizer-adamw"
    with (folder / "optimizers.csv").open(newline="") as file:
        ours, _ = csv.DictReader(file)
    assert ours["optimizer"] == "./mine.py:MyOptimizer"
    assert float(ours["test_top1"]) > 20  # of ten classes
    assert int(ours["state_bytes"]) == 0
    assert "the optimizers differ in the number of ranges" in (folder / "compare.md").read_text()
