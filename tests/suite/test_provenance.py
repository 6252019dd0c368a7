"""`novobench config`: the YAML loads to what is trained, and each comment names the layer that set the value."""

import dataclasses

import pytest
import yaml

from novobench.config import RuntimeConfig
from novobench.suite.experiment import load_experiment
from novobench.suite.provenance import annotated_yaml
from novobench.suite.row_configs import row_config
from novobench.tasks.catalog import task_config

TUNED = """
novograd-b32: {optimizer.lr: 0.02, optimizer.weight_decay: 0.001}
"""
EXPERIMENT = """
title: Layers
where: nowhere
task: image
columns: [{key: top1, split: test, metric: top1, label: top-1}]
set: {schedule.name: cosine, schedule.warmup: 2/8, model.widths: [4, 8, 16], optimizer.decay_factors: {"@norm": 0.0}}
laptop: {budget: 8ep, batch: {micro: 16}}
rows:
  - {id: quoted, label: Quoted, quoted: Somebody (2000)}
  - id: novograd
    label: NovoGrad
    set: {optimizer.name: novograd, optimizer.lr: 0.5, optimizer.preset: os2s, model.init_scale: 2.0}
    laptop: {tuned: novograd-b32, optimizer.options.eps: 1.0e-6, schedule.warmup: 3steps}
  - {id: sgd, label: SGD, gpu: {optimizer.name: sgd, optimizer.lr: 0.5}}
"""


@pytest.fixture
def experiment(workspace):
    (workspace / "experiments" / "layers.yaml").write_text(EXPERIMENT)
    (workspace / "configs" / "image" / "tuned-laptop.yaml").write_text(TUNED)
    return load_experiment("layers")


def origins(document):
    """Dotted key -> comment of a document whose mappings are indented by two."""
    comments, keys = {}, []
    for line in document.splitlines()[2:]:
        text, _, comment = line.partition("  # ")
        if text.lstrip().startswith("- "):
            continue
        depth = (len(text) - len(text.lstrip())) // 2
        keys = [*keys[:depth], text.split(":")[0].strip().strip("'")]
        if comment:
            comments[".".join(keys)] = comment
    return comments


def test_each_value_has_the_layer_that_set_it(experiment):
    extra = {"model.widths[2]": 12, "runtime.workers": 1, "optimizer.decay_factors": {}}
    comments = origins(annotated_yaml(experiment, experiment.row("novograd"), "laptop", extra))
    expected = {
        "task": "experiment task",
        "budget": "experiment laptop",
        "batch.size": "configs/image/laptop.yaml",
        "batch.micro": "experiment laptop",
        "optimizer.name": "row set",
        "optimizer.lr": "configs/image/tuned-laptop.yaml, novograd-b32",
        "optimizer.weight_decay": "configs/image/tuned-laptop.yaml, novograd-b32",
        "optimizer.options.betas": "preset os2s of novograd",
        "optimizer.options.eps": "row laptop",
        "optimizer.options.amsgrad": "default",
        "optimizer.decay_factors": "--set",
        "schedule.name": "experiment set",
        "schedule.warmup_updates": "row laptop, warmup 3steps",
        "schedule.warmup_fraction": "default",
        "model.widths": "--set",
        "model.init_scale": "row set",
        "data.name": "configs/image/laptop.yaml",
        "runtime.workers": "--set",
        "recipe_version": "code of the task image",
    }
    assert {key: comments[key] for key in expected} == expected


LOADED = [("table1", "gpu"), ("table2", "full"), ("table5", "laptop"), ("table6", "gpu"), ("table7", "full")]


@pytest.mark.parametrize(("name", "scale"), LOADED)
def test_it_loads_to_the_config_that_is_trained(name, scale):
    experiment = load_experiment(name)
    row = [row for row in experiment.rows if row.at(scale) is not None][-2]
    assert yaml.safe_load(annotated_yaml(experiment, row, scale, {})) == dataclasses.asdict(
        row_config(experiment, row, scale, 0)
    )


@pytest.mark.parametrize("name", ["table1", "table4", "table6", "table7"])
def test_what_is_called_a_default_is_the_default(name):
    """A value that some layer changes cannot be missed: it would differ from the dataclass's own."""
    experiment = load_experiment(name)
    task = task_config(experiment.task)
    row = experiment.rows[0]
    document = annotated_yaml(experiment, row, "laptop", {})
    config, comments = yaml.safe_load(document), origins(document)
    for part, schema in (("model", task.MODEL), ("data", task.DATA), ("runtime", RuntimeConfig)):
        defaults = dataclasses.asdict(schema())
        for key, value in config[part].items():
            if comments.get(f"{part}.{key}") == "default":
                assert value == defaults[key], key


def test_the_command_prints_one_document_per_row(experiment, novobench):
    code, out, err = novobench("config", "layers", "small", "--set", "optimizer.lr=0.3")
    assert (code, err) == (0, "")
    documents = list(yaml.safe_load_all(out))
    assert [document["optimizer"]["name"] for document in documents] == ["novograd", "sgd", "novograd", "sgd"]
    assert {document["optimizer"]["lr"] for document in documents} == {0.3}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--rows", "quoted"], "layers row 'quoted' has no cell at laptop scale: it quotes the result of Somebody"),
        (["--rows", "sgd"], "layers row 'sgd' has no cell at laptop scale: it has no `laptop:`."),
        (["--rows", "novogard"], "layers has no row 'novogard'. Did you mean 'novograd'?"),
        (["--scale", "full"], "layers: no row has a cell at full scale."),
        (["--set", "seed=1"], "--set cannot set 'seed'"),
        (["--set", "schedule.warmup=9ep"], "'schedule.warmup' is '9ep' and must be 0 or more and less than the budget"),
    ],
)
def test_rows_that_have_no_config(experiment, novobench, arguments, expected):
    code, out, err = novobench("config", "layers", *arguments)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1
