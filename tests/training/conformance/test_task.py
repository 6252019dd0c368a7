"""Each check of a task fails for a task with exactly its fault, and passes for a good one."""

import re
import sys
from pathlib import Path

import pytest

import novobench.tasks
from novobench import places
from novobench.places import Workspace
from novobench.tasks.catalog import task_names
from novobench.training.conformance.checks import verdict_of, verdicts
from novobench.training.conformance.task import TASK_CHECKS
from novobench.training.conformance.task_subject import TaskSubject

BY_NAME = {check.name: check for check in TASK_CHECKS}

CONFIG = '''
from dataclasses import dataclass

from novobench.tasks.base_config import SampledDataConfig
from novobench.tasks.sampling import updates_per_epoch

RECIPE_VERSION = 1


@dataclass(frozen=True)
class Model:
    width: int = 4
    """Inputs."""


@dataclass(frozen=True)
class Data(SampledDataConfig):
    source: str = "noise"
    """`noise`, which needs no files."""
    name: str = "noise"
    """Identity."""
    path: str = ""
    """None."""
    train_size: int = 64
    """Samples."""
    limit: int | None = None
    """Samples to use; None: all."""
    tail: str = "drop"
    """Rest of an epoch."""
    evaluation_batch: int = 16
    """Samples per batch of an evaluation."""

    def updates_per_epoch(self, batch: int) -> int:
        return updates_per_epoch(self.train_size, batch, self.tail)


MODEL, DATA, BUILT_IN = Model, Data, "noise"
SHIPPED = {"noise": ()}


def validate(config):
    pass
'''
TASK = """
import time
import torch
from torch import nn
from torch.utils.data import Dataset

from novobench.tasks.base import EvaluationSet, TaskData, TaskModule
from novobench.tasks.metric import Metric
from novobench.tasks.sampling import SampleKey


class Items(Dataset):
    def __init__(self, size, offset):
        self.size, self.offset = size, offset

    def __len__(self):
        return self.size

    def __getitem__(self, key):
        index = key.sample if isinstance(key, SampleKey) else key
        inputs = torch.randn(4, generator=torch.Generator().manual_seed(self.offset + index))
        return inputs, inputs.sum(), index


class Module(TaskModule):
    role_patterns = {"^head.weight$": "head"}

    def __init__(self, config):
        super().__init__(config)
        self.hidden = nn.Linear(4, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, inputs):
        return self.head(torch.tanh(self.hidden(inputs)))[:, 0]

    def training_step(self, batch, batch_idx):
        return (self(batch[0]) - batch[1]).square().mean()

    def evaluation_start(self):
        self.counts = torch.zeros(2, dtype=torch.float64)

    def evaluation_step(self, batch):
        errors = (self(batch[0]) - batch[1]).square()
        self.counts += torch.tensor([errors.sum(), len(errors)])
        return [{"index": int(index)} for index in batch[2]]

    def evaluation_end(self):
        total, n = self.sum_over_processes(self.counts).tolist()
        return {"loss": Metric(total / n, round(n), "1")}

    def random_batch(self, size):
        return torch.randn(size, 4), torch.randn(size), torch.arange(size)

    def counted(self, batch):
        return len(batch[0]), "samples"


class Data(TaskData):
    def setup(self, stage):
        self.train = Items(64, 0)
        self.evaluation_sets = [EvaluationSet("search", "search", Items(32, 1000))]
        self.fingerprint = "noise"
        self.counts = {"train": 64, "search": 32}


def build(config):
    return Module(config), Data(config)
"""
LAPTOP = "batch: {size: 8, micro: 8}\n"
RECIPE = "  columns: [{key: loss, split: search, metric: loss, label: loss}]\n"
MEASURE = "def measure(draft): pass\n"


@pytest.fixture
def make_task(tmp_path, monkeypatch):
    """Write a task in a folder of its own; returns the subject."""
    monkeypatch.setattr(novobench.tasks, "__path__", [*novobench.tasks.__path__, str(tmp_path / "tasks")])
    monkeypatch.setattr(places, "workspace", lambda: Workspace(tmp_path))

    def make(
        config: str = CONFIG, task: str = TASK, laptop: str = LAPTOP, recipe: str = RECIPE, measure: str = ""
    ) -> TaskSubject:
        name = f"toy_{tmp_path.name}"
        folder, configs = tmp_path / "tasks" / name, tmp_path / "configs" / name
        for path in (folder, configs, tmp_path / "run"):
            path.mkdir(parents=True)
        for file, content in (("config", config), ("task", task), ("model", ""), ("__init__", "")):
            (folder / f"{file}.py").write_text(content)
        if measure:
            (folder / "measure.py").write_text(measure)
        (configs / "laptop.yaml").write_text(laptop)
        (configs.parent / "compare.yaml").write_text(f"{name}:\n{recipe}")
        assert name in task_names()
        return TaskSubject(name, tmp_path / "run")

    yield make
    for module in [module for module in sys.modules if module.startswith("novobench.tasks.toy_")]:
        del sys.modules[module]


def test_a_good_task_passes(make_task):
    found = {verdict.check.name: (verdict.kind, verdict.text) for verdict in verdicts(TASK_CHECKS, make_task())}
    assert found == {
        **dict.fromkeys(BY_NAME, ("ok", "")),
        "has_files": ("ok", "but none for gpu and full"),
        "measures_data": ("not applicable", "it has no measure.py, so --data is refused"),
    }


FAULTS = [
    # check, file, text in it, replacement, what the verdict says
    ("declares", "config", "RECIPE_VERSION = 1", "", "it does not declare RECIPE_VERSION"),
    ("declares", "config", "RECIPE_VERSION = 1", "RECIPE_VERSION = '1'", "RECIPE_VERSION is '1', not a whole number"),
    ("declares", "config", "width: int = 4", "width: int", "MODEL.. raises TypeError: .*'width'"),
    ("declares", "config", "(frozen=True)\nclass Model", "\nclass Model", "MODEL is not a frozen dataclass"),
    ("declares", "config", "class Data(SampledDataConfig)", "class Data", "DATA is no subclass of DataConfig"),
    ("declares", "config", "evaluation_batch:", "evaluated_batch:", "DATA has no field evaluation_batch"),
    ("declares", "config", '{"noise": ()}', '{"noise": ("a",)}', "SHIPPED has no data set without paths"),
    ("declares", "config", '{"noise": ()}', '{"noise": "a"}', "SHIPPED is {'noise': 'a'}, not a mapping"),
    ("documents_fields", "config", '    """Inputs."""\n', "", "Model.width has none"),
    ("needs_no_torch", "config", "RECIPE", "import torch\nRECIPE", "torch is imported with it"),
    ("resolves", "laptop", "size: 8", "sise: 8", "there is no key 'batch.sise'. Did you mean 'size'"),
    ("resolves", "laptop", "batch", "data: {source: files, name: mine}\nbatch", "has the source 'files', not 'noise'"),
    ("can_be_compared", "recipe", "columns:", "rows:", "its section has no columns"),
    ("can_be_compared", "recipe", "metric: loss,", "", "its section has no columns with key, label, metric, split"),
    ("measures_data", "measure", "(draft)", "(draft, more)", r"measure.py has no function measure\(draft\)"),
    ("builds", "task", "def evaluation_end", "def evaluation_over", "Module does not implement evaluation_end"),
    ("builds", "task", "def training_step", "def train_step", "Module does not implement training_step"),
    ("builds", "task", "Module(config), Data(config)", "Data(config), Data(config)", "returns a Data, not"),
    ("seeds_weights", "task", "self.head = nn", "torch.seed(); self.head = nn", "built twice with seed 0, head.weight"),
    ("seeds_weights", "task", "self.hidden =", "torch.manual_seed(1); self.hidden =", "seeds 0 and 1 give the same"),
    ("opens_data", "task", 'self.fingerprint = "noise"', "pass", "setup does not set fingerprint"),
    ("opens_data", "task", '"noise"', "str(time.time())", "identify.. is .*, but the fingerprint is"),
    ("opens_data", "task", '"search", "search"', '"search", "dev"', "not exactly one evaluation set has the role"),
    ("opens_data", "task", '"search", "search"', '"search", "seach"', "there is no role 'seach'"),
    ("opens_data", "task", '"train": 64', '"train": 64.0', "counts.'train'. is 64.0, not a whole number"),
    ("orders_batches", "task", "return inputs,", "return torch.rand(4),", "asked twice for the same two updates"),
    (
        "orders_batches", "task", "def build", "    def train_batches(self, start, *rest):\n"
        "        return super().train_batches(0, *rest)\n\n\ndef build", "from update 1 on, the batches are others",
    ),
    (
        "shares_batches", "task", "def build", "    def train_batches(self, start, stop, rank, world):\n"
        "        return super().train_batches(start, stop, 0, world)\n\n\ndef build", "of two processes, number 1",
    ),
    ("trains", "task", "square().mean()", "square().mean().detach()", "does not require grad"),
    ("trains", "task", "square().mean()", "square()", "training_step returns tensor.*, not a finite 0-d tensor"),
    ("evaluates", "task", '"loss": Metric', '"error": Metric', "the metrics of search are error, without loss"),
    ("evaluates", "task", "total / n,", "float('nan'),", "loss of search is nan"),
    ("evaluates", "task", '{"index": int(index)}', '{"number": int(index)}', "a prediction has no whole number"),
    ("evaluates", "task", "int(index)}", "int(index), 'x': index}", "predictions cannot be written as JSON"),
    (
        "resumes", "task", "return (self(batch[0])", "self.n = getattr(self, 'n', 0) + 1\n"
        "        return self.n * (self(batch[0])",
        r"4 updates and 2 \+ 2 updates give different weights",
    ),
    ("makes_random_batches", "task", "torch.randn(size, 4)", "torch.randn(size, 3)", "shapes cannot be multiplied"),
    ("makes_random_batches", "task", ', "samples"', "", "counted returns 8, not a number above 0 and a unit"),
    ("names_its_head", "task", '"^head.weight$"', '"^output.weight$"', "no pattern of role_patterns matches"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "text", "replacement", "says"), FAULTS, ids=[each[-1] for each in FAULTS])
def test_a_fault_is_seen(make_task, name, file, text, replacement, says):
    content = {"config": CONFIG, "task": TASK, "laptop": LAPTOP, "recipe": RECIPE, "measure": MEASURE}
    assert text in content[file]
    subject = make_task(**{**content, file: content[file].replace(text, replacement)})
    verdict = verdict_of(BY_NAME[name], subject)
    assert verdict.kind == "failed", verdict.text
    assert re.search(says, verdict.text), verdict.text


@pytest.mark.parametrize("file", ["model.py", "task.py"])
def test_a_missing_file_is_seen(make_task, file):
    subject = make_task()
    (Path(novobench.tasks.__path__[-1]) / subject.name / file).unlink()
    assert verdict_of(BY_NAME["has_files"], subject).text == f"it lacks {file}"


def test_every_check_has_a_task_that_fails_it():
    assert {name for name, *_ in FAULTS} | {"has_files"} == BY_NAME.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["image", "language", "speech", "translation"])
def test_the_tasks_pass(name, tmp_path):
    found = list(verdicts(TASK_CHECKS, TaskSubject(name, tmp_path)))
    assert {verdict.kind for verdict in found} == {"ok"}
    assert len(found) == len(TASK_CHECKS)
