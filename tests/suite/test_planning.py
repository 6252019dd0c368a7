"""Which experiments and arguments planning rejects, and which cells it makes of the others."""

import pytest
import yaml

from novobench.config import cell_id
from novobench.config_loading import parse_overrides, read_yaml
from novobench.errors import ConfigError
from novobench.suite.experiment import load_experiment
from novobench.suite.plan import plan
from novobench.suite.row_configs import row_config
from novobench.suite.trials import check_ranges, rows_to_search, trials


def only_line(err: str) -> str:
    (line,) = err.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["run", "small", "--seeds", "3", "--set", "seed=5"],
            "--set cannot set 'seed': --seeds chooses the seeds of each row",
        ),
        (["plan", "small", "--set", "seed=five"], "'seed': Value 'five'"),
        (["plan", "small", "--set", "seed=-1"], "'seed' must be 0 or more, not -1."),
        (["plan", "small", "--set", "scale=gpu"], "--set cannot set 'scale': --scale chooses it."),
        (["plan", "small", "--set", "scale=../../up"], "--set cannot set 'scale'"),
        (["plan", "small", "--set", "task=speech"], "--set cannot set 'task'"),
        (["plan", "small", "--set", "purpose=search"], "--set cannot set 'purpose'"),
        (["plan", "small", "--set", "recipe_version=9"], "--set cannot set 'recipe_version'"),
        (["plan", "small", "--set", "[recipe_version]=9"], "--set cannot set '[recipe_version]'"),
        (["search", "small", "--keys", "novograd-b32", "novograd-b23"], "Did you mean 'novograd-b32'? Known: novograd"),
        (["search", "small", "--trials", "0"], "'0' is not a whole number from 1 to 1,000,000"),
        (["search", "small", "--trials", "6"], "--trials must be a power of two, e.g. 4 or 8, not 6."),
        (["search", "small", "--study", "-1"], "'-1' is not a whole number from 0 to 1,000,000"),
        (["bench", "throughput", "image", "imag"], "there is no task 'imag'. Did you mean 'image'?"),
        (["bench", "throughput", "image", "--scale", "ful"], "There is no scale 'ful'. Did you mean 'full'?"),
        (["bench", "throughput", "image", "--set", "seed=1"], "--set cannot set 'seed'"),
        (["bench", "throughput", "image", "--set", "batch.micro=0"], "'batch.micro' must be 1 or more, not 0."),
        (["bench", "throughput", "image", "--set", "batch.size=abc"], "'batch.size': Value 'abc'"),
        (["bench", "throughput", "image", "--set", "batch=5"], "'batch"),
        (["bench", "throughput", "image", "--set", "model.widths[9]=1"], "cannot set 'model.widths[9]'"),
    ],
    ids=lambda arguments: " ".join(arguments[1:]) if isinstance(arguments, list) else "",
)
def test_arguments_that_are_rejected(arguments, expected, workspace, novobench):
    code, _, err = novobench(*arguments)
    assert code == 2
    assert expected in err.splitlines()[-1]
    assert "Traceback" not in err


PANEL = {"x": "epoch", "y": ["test/loss"], "x_label": "epoch", "y_label": "loss"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"search": {"novogard": {"optimizer.lr": [0.1, 1]}}}, "'search.novogard': .* Did you mean 'novograd'"),
        ({"search": {"trails": 3}}, "'search.trails': .* Did you mean 'trials'"),
        ({"search": {"trials": 4}}, "'search.trials' must be 8 to 4096, not 4"),
        ({"search": {"trials": 12}}, "'search.trials' must be a power of two, e.g. 8 or 16, not 12"),
        ({"search": {"seeds": "two"}}, "'search.seeds'"),
        ({"search": {"seeds": 1}}, "'search.seeds' must be 2 to 1000, not 1"),
        ({"search": {"widen": 1}}, "'search.widen' must be above 1 and at most 1000, not 1"),
        ({"search": 5}, "'search' must be a mapping"),
        ({"search": {"novograd": [1, 2]}}, "'search.novograd' must be a mapping of keys"),
        ({"search": {"novograd": {"optimizer.lr": [1, 0.1]}}}, r"'search.novograd.optimizer.lr' must be \[low, high\]"),
        ({"search": {"novograd": {"optimizer.lr": [0, 0.1]}}}, "two increasing numbers above 0"),
        ({"search": {"novograd": {"optimizer.lr": [0.1]}}}, "two increasing numbers above 0"),
        ({"search": {"novograd": {"optimizer.lr": ["a", "b"]}}}, "two increasing numbers above 0"),
        (
            {"rows": [{"id": "a", "label": "A", "special_case_of": "b"}]},
            "row 'a': 'special_case_of' must be the id of another row, not 'b'",
        ),
        (
            {"rows": [{"id": "a", "label": "A", "special_case_of": "a"}]},
            "row 'a': 'special_case_of' must be the id of another row, not 'a'",
        ),
        ({"set": {"seed": 3}}, "'set' cannot set 'seed'"),
        ({"laptop": {"recipe_version": 3}}, "'laptop' cannot set 'recipe_version'"),
        ({"rows": [{"id": "a", "label": "A", "laptop": {"scale": "gpu"}}]}, "row 'a': 'laptop' cannot set 'scale'"),
        ({"rows": [{"id": "a", "label": "A", "laptop": 5}]}, r"'rows\[0\].laptop' must be a mapping, not 5"),
        ({"rows": [{"id": "a", "label": "A", "set": {"tuned": "x"}}]}, "row 'a': 'set' cannot set 'tuned'"),
        ({"laptop": {"tuned": "x"}}, "'laptop' cannot set 'tuned': only a scale of a row can"),
        ({"rows": [{"id": "../a", "label": "A", "laptop": {}}]}, r"'rows\[0\].id' must be usable in a file name"),
        ({"rows": []}, "'rows' must be a collection of at least one entry"),
        ({"figure": [{**PANEL, "x": "hours"}]}, r"'figure\[0\].x' is 'hours' .*, or update, epoch or seconds"),
        ({"group": "rival"}, "'group': Invalid value 'rival', expected one of"),
        ({"group": "claims"}, "row 'elsewhere': 'paper' has values, but the group is 'claims'"),
        ({"figure": [{**PANEL, "y": ["loss"]}]}, r"'figure\[0\].y' is 'loss' and must be a series"),
        ({"columns": []}, "'columns' must be a collection of at least one entry"),
        ({"flags": [{"split": "test", "metric": "top1", "above": "nan", "text": "x"}]}, r"'flags\[0\].above' must be"),
    ],
    ids=lambda change: str(change) if isinstance(change, dict) else "",
)
def test_experiments_that_are_rejected(change, expected, workspace):
    path = workspace / "experiments" / "small.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=expected) as caught:
        load_experiment("small")
    assert "small.yaml" in str(caught.value)


def test_a_tuned_key_is_a_name(workspace):
    path = workspace / "experiments" / "small.yaml"
    path.write_text(path.read_text().replace("novograd-b32", "../up"))
    with pytest.raises(ConfigError, match=r"'rows\[2\].laptop.tuned' must be usable in a file name"):
        load_experiment("small")


@pytest.mark.parametrize(
    ("arguments", "key", "expected"),
    [
        (["model.widths[1]=6"], "model.widths", [4, 6]),
        (["data.mean[0]=1"], "data.mean", [1.0, 116.78, 103.94]),
        (["data.crop_scale[0]=0.5"], "data.crop_scale", [0.5, 1.0]),
        (["optimizer.options.betas[1]=0.5"], "optimizer.options.betas", [0.95, 0.5]),
        (["optimizer.preset=os2s", "optimizer.options.betas[0]=0.9"], "optimizer.options.betas", [0.9, 0.0]),
        (["optimizer.name=adam", "optimizer.options.betas[0]=0.8"], "optimizer.options.betas", [0.8, 0.999]),
        (
            ["optimizer.name=torch.optim:AdamW", "optimizer.options.betas[0]=0.8"],
            "optimizer.options.betas",
            [0.8, 0.999],
        ),
    ],
)
def test_an_entry_of_a_default_list_can_be_set(arguments, key, expected, workspace):
    experiment = load_experiment("small")
    config = row_config(experiment, experiment.row("novograd"), "laptop", 0, parse_overrides(arguments))
    value = config
    for name in key.split("."):
        value = getattr(value, name)
    assert list(value) == expected


def test_cells_differ_in_the_seed_alone(workspace):
    experiment = load_experiment("small")
    cells = plan([experiment], "laptop", range(3)).cells
    assert [(cell.config.seed, cell.requested_by) for cell in cells] == [
        (seed, rows) for seed in range(3) for rows in (["small/sgd", "small/sgd_again"], ["small/novograd"])
    ]
    for cell in cells:
        row = experiment.row(cell.requested_by[0].removeprefix("small/"))
        assert cell.config == row_config(experiment, row, "laptop", cell.config.seed)
        assert cell.id == cell_id(cell.config)


def test_a_row_is_resolved_once_for_all_seeds(workspace, monkeypatch):
    calls = []

    def counted(*arguments, **named):
        calls.append(arguments)
        return row_config(*arguments, **named)

    monkeypatch.setattr("novobench.suite.plan.row_config", counted)
    experiment = load_experiment("small")
    plan([experiment], "laptop", range(200))
    assert len(calls) == len(experiment.rows)


def test_an_optimizer_without_weight_decay_is_searched_by_its_rate(workspace):
    path = workspace / "experiments" / "small.yaml"
    path.write_text(
        path.read_text().replace("optimizer.name: novograd, tuned", "optimizer.name: torch.optim:Rprop, tuned")
    )
    experiment = load_experiment("small")
    rows = rows_to_search(experiment, "laptop")
    check_ranges(experiment, rows, "laptop")
    searched = trials(experiment, rows, "laptop", number=2, seeds=2)
    assert [list(trial.rates) for trial in searched] == [["optimizer.lr"]] * 2
    assert [[cell.config.seed for cell in trial.cells] for trial in searched] == [[0, 1]] * 2


def test_trials_and_seeds_of_a_search_stand_in_the_experiment(workspace):
    assert (load_experiment("small").search.trials, load_experiment("small").search.seeds) == (16, 2)
    path = workspace / "experiments" / "small.yaml"
    path.write_text(path.read_text().replace("search:\n", "search:\n  trials: 8\n  seeds: 3\n  widen: 2\n"))
    search = load_experiment("small").search
    assert (search.trials, search.seeds, search.widen, list(search.ranges)) == (8, 3, 2.0, ["novograd"])


def test_a_seed_of_its_own(workspace):
    experiment = load_experiment("small")
    (cell,) = plan([experiment], "laptop", [0], {"seed": "7"}, ["sgd"]).cells
    (same,) = plan([experiment], "laptop", [7], only=["sgd"]).cells
    assert (cell.id, cell.config) == (same.id, same.config)


def test_a_cell_of_an_overridden_recipe_is_marked(workspace):
    def own_recipes(**extra):
        cells = plan([load_experiment("small")], "laptop", [0], extra, ["sgd"]).cells
        return [cell.own_recipe for cell in cells]

    assert own_recipes() == [True]
    assert own_recipes(**{"runtime.workers": 1}) == [True]  # changes no result
    assert own_recipes(**{"optimizer.lr": 0.05}) == [True]  # the row's own
    assert own_recipes(**{"optimizer.lr": 0.06}) == [False]
    tuned = read_yaml(workspace / "configs" / "image" / "tuned-laptop.yaml")["novograd-b32"]
    novograd = {"optimizer.name": "novograd", **tuned}
    assert own_recipes(**novograd) == [True]  # another row's, with its tuned rates
