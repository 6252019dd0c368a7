"""Experiments, configs and tuned rates as YAML files: typing errors, and YAML that means something else."""

import yaml
from hypothesis import strategies as st

from novobench.config import cell_id
from novobench.suite.experiment import load_experiment
from novobench.suite.plan import plan
from novobench.suite.trials import check_ranges, rows_to_search, trials
from tests.fuzz.judge import extents, judge, judge_command
from tests.fuzz.odd import damaged, data, edited, replaced

FILES = ["experiments/small.yaml", "configs/image/laptop.yaml", "configs/image/tuned-laptop.yaml"]
TUNED = "novograd-b32: {optimizer.lr: 0.02, optimizer.weight_decay: 0.001}\n"
SCALES = ["laptop", "laptop", "laptop", "full", "gpu"]


class Checkout:
    """The workspace's files, one of them changed at a time."""

    def __init__(self, root):
        self.root = root
        (root / FILES[2]).write_text(TUNED)
        self.texts = {name: (root / name).read_text() for name in FILES}

    def attempt(self, name, content, call):
        """`call` while a file holds something else; an error must name the file, or the experiment's row."""
        path = self.root / name
        path.write_bytes(content)
        try:
            return judge(call, path.name, "small")
        finally:
            path.write_text(self.texts[name])


def planned(scale):
    experiment = load_experiment("small")
    for cell in plan([experiment], scale, [0]).cells:
        assert cell_id(cell.config)
    if scale == "laptop":
        rows = rows_to_search(experiment, scale)
        check_ranges(experiment, rows, scale)
        trials(experiment, rows, scale, number=1, seeds=1, round=2)


@extents(16, 1200)
def test_yaml_after_typing_errors(inputs, workspace, fuzz):
    checkout = Checkout(workspace)
    changes = st.sampled_from(FILES).flatmap(
        lambda name: st.tuples(st.just(name), edited(checkout.texts[name]) | damaged(checkout.texts[name].encode()))
    )
    fuzz(
        inputs,
        lambda change, scale: checkout.attempt(*change, lambda: planned(scale)),
        change=changes,
        scale=st.sampled_from(SCALES),
    )


def dumped(tree):
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")


@extents(16, 1200)
def test_yaml_with_other_content(inputs, workspace, fuzz):
    """A value, key or entry of the tree is changed, removed or added; or everything is replaced."""
    checkout = Checkout(workspace)
    trees = {name: yaml.safe_load(text) for name, text in checkout.texts.items()}
    changes = st.sampled_from([*FILES, FILES[0]]).flatmap(
        lambda name: st.tuples(st.just(name), (replaced(trees[name]) | replaced(trees[name]) | data()).map(dumped))
    )
    fuzz(
        inputs,
        lambda change, scale: checkout.attempt(*change, lambda: planned(scale)),
        change=changes,
        scale=st.sampled_from(SCALES),
    )


@extents(4, 200)
def test_commands_over_damaged_yaml(inputs, workspace, fuzz):
    """`plan` prints what it read; `list` reads every experiment."""
    checkout = Checkout(workspace)
    changes = st.sampled_from(FILES).flatmap(
        lambda name: st.tuples(st.just(name), edited(checkout.texts[name], most=1))
    )

    def attempt(change, arguments):
        path = workspace / change[0]
        path.write_bytes(change[1])
        try:
            return judge_command(arguments, path.name, "small")
        finally:
            path.write_text(checkout.texts[change[0]])

    fuzz(inputs, attempt, change=changes, arguments=st.sampled_from([["plan", "small"], ["list"]]))
