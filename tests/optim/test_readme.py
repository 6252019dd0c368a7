"""The README of `novobench.optim`: examples run, numbers match `results/`, and the tables name their sources."""

import ast
import csv
import inspect
import re

import pytest
import torch
from pytorch_optimizer import NovoGrad as KozistrNovoGrad
from timm.optim.nvnovograd import NvNovoGrad
from torch import nn

from novobench.optim import NovoGrad
from novobench.places import ROOT

FOLDER = ROOT / "novobench" / "optim"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
BEYOND = (FOLDER / "BEYOND_THE_PAPER.md").read_text(encoding="utf-8")
PEERS = [
    "apex FusedNovoGrad",
    "NVIDIA NeMo",
    "MONAI",
    "timm NvNovoGrad",
    "optax",
    "pytorch_optimizer",
    "OpenSeq2Seq",
    "TensorFlow Addons",
    "**ours**",
]
INSTALLED = {"timm NvNovoGrad": NvNovoGrad, "pytorch_optimizer": KozistrNovoGrad, "**ours**": NovoGrad}


class Model(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 4), nn.LayerNorm(4))
        self.head = nn.Linear(4, 1)


def comparisons():
    """The two tables of peers as peer -> column -> cell, without the footnotes of the peers' names."""
    section = README.partition("## Which NovoGrad is this?")[2].partition("\n## ")[0]
    tables = []
    for block in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        tables.append({re.sub(r"\[\^.*", "", cells[0]): dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]})
    return tables


ALGORITHM, BEHAVIOR = comparisons()


def test_the_examples_run():
    names = {"model": Model()}
    for parameter in names["model"].parameters():
        parameter.grad = torch.ones_like(parameter)
    names["their_optimizer"] = NvNovoGrad(names["model"].parameters(), lr=0.01)
    names["their_optimizer"].step()
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        exec(example, names)
        before = names["model"].head.weight.detach().clone()
        names["optimizer"].step()
        assert not torch.equal(names["model"].head.weight, before)
    assert [(g["param_names"], g["weight_decay"]) for g in names["groups"]] == [
        (["1.weight", "1.bias"], 0.0),
        (["0.bias", "head.bias"], 0.0),
        (["head.weight"], pytest.approx(1e-4)),
        (["0.weight"], 0.001),
    ]


def test_the_example_beyond_the_paper_runs():
    names = {"model": Model()}
    [example] = re.findall(r"```python\n(.*?)```", BEYOND, re.DOTALL)
    exec(example, names)
    assert [group["layer_scale"] for group in names["optimizer"].param_groups] == ["rms"]


@pytest.mark.parametrize("page", [README, BEYOND], ids=["README", "BEYOND_THE_PAPER"])
def test_linked_files_exist(page):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page) if not link.startswith("http")]
    assert links
    for link in links:
        assert (FOLDER / link).exists(), link


def test_the_options_are_those_of_the_constructor():
    section = README.partition("## Options")[2].partition("\n## ")[0]
    cells = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    stated = {name: default.strip() for names, default in cells for name in re.findall(r"`(\w+)`", names)}
    defaults = {name: parameter.default for name, parameter in inspect.signature(NovoGrad).parameters.items()}
    del defaults["params"]
    assert stated.keys() == defaults.keys()
    for name, default in defaults.items():
        if stated[name] == "off":
            assert default in (False, None), name
        elif default not in (None, False, inspect.Parameter.empty):
            assert ast.literal_eval(stated[name].strip("`")) == default, name


def bench(path):
    with (ROOT / "results" / path).open(newline="", encoding="utf-8") as file:
        return {(row["model"], row["optimizer"]): row for row in csv.DictReader(file)}


def test_numbers_are_those_of_the_results():
    gpu, host = bench("gpu/bench_optimizer.csv"), bench("laptop/bench_host.csv")
    words = " ".join(README.split())
    models = [model for model, optimizer in gpu if optimizer == "NovoGrad"]
    ratios = [float(gpu[model, "NovoGrad"]["ratio"]) for model in models]
    bandwidths = [float(gpu[model, "NovoGrad"]["of_copy_bandwidth"]) for model in models]
    assert f"takes {min(ratios):.2f} to {max(ratios):.2f} of the device time of AdamW(fused)" in words
    assert f"at {100 * min(bandwidths):.0f} to {100 * max(bandwidths):.0f} % of the bandwidth of a copy" in words
    assert {row["device"] for row in gpu.values()} == {"NVIDIA H200"}
    host_ratio = float(host["600 tensors (host)", "NovoGrad"]["ratio"])
    assert f"For 600 small tensors this takes {host_ratio:.2f} of the time of a step of AdamW(fused)" in words
    single = {
        model: float(gpu[model, "NovoGrad(single launch)"]["milliseconds"])
        / float(gpu[model, "NovoGrad"]["milliseconds"])
        for model in models
    }
    faster = 100 * (1 - single.pop("ResNet-50v2"))
    slower = [100 * (ratio - 1) for ratio in single.values()]
    assert f"this is {faster:.0f} % faster for ResNet-50v2 and {min(slower):.0f} to {max(slower):.0f} % slower" in words
    rounded = [
        float(gpu[model, "NovoGrad(bf16 moment)"]["milliseconds"]) / float(gpu[model, "NovoGrad"]["milliseconds"])
        for model in models
    ]
    assert f"On an H200 the step takes {min(rounded):.2f} to {max(rounded):.2f} of the time" in words


# ------------------------------------------------------------------------------------ which NovoGrad is this?


def test_the_tables_have_every_peer_and_each_row_has_its_source():
    for table in (ALGORITHM, BEHAVIOR):
        assert list(table) == PEERS
        assert all(re.search(r"\[\^\w+\]$", cells[""]) for cells in table.values())
    used = set(re.findall(r"\[\^(\w+)\](?!:)", README))
    notes = dict(re.findall(r"^\[\^(\w+)\]: (.*(?:\n    .*)*)", README, re.MULTILINE))
    assert used == notes.keys()
    for name, note in notes.items():
        at_a_commit = re.findall(r"https://github\.com/[\w.-]+/[\w.-]+/blob/[0-9a-f]{40}/[^\s)]+", note)
        assert at_a_commit or "`test_" in note, name
        assert note.count("github.com/") == len(at_a_commit), f"{name}: a branch moves on"


def test_every_named_test_exists():
    code = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "optim").glob("test_*.py")}
    named = re.findall(r"`(test_\w+)(\.py)?`", README)
    assert len(named) > 20
    for name, is_file in named:
        assert name in code if is_file else any(f"def {name}(" in text for text in code.values()), name


@pytest.mark.parametrize(("peer", "optimizer"), INSTALLED.items(), ids=INSTALLED)
def test_defaults_are_those_of_the_signatures(peer, optimizer):
    defaults = {name: parameter.default for name, parameter in inspect.signature(optimizer).parameters.items()}
    cells = ALGORITHM[peer]
    assert cells["ε"].startswith(f"{defaults['eps']:g}".replace("e-0", "e-") + ", outside")
    assert cells["averaging"].startswith("on" if defaults["grad_averaging"] else "off")
    assert cells["β₁, β₂"] == f"{defaults['betas'][0]:g}, {defaults['betas'][1]:g}"


@pytest.mark.parametrize("name", ["timm", "pytorch_optimizer"])
def test_the_named_versions_are_the_tested_ones(name):
    [version] = re.findall(rf"^{name}==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert f": {name} {version}, " in README
