"""Optimizers named by path, with any constructor, from any place that a user can import from."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from novobench.errors import ConfigError
from novobench.optim import registry, third_party
from novobench.optim.entry import ROLES
from novobench.places import ROOT
from tests.cells import small_config

MINE = """
import torch

class Plain(torch.optim.SGD):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)

class Fixed(torch.optim.SGD):
    def __init__(self, params, lr, **kwargs):
        super().__init__(params, lr, momentum=0.5, **kwargs)

class Own(torch.optim.Optimizer):
    def __init__(self, parameters, *, learning_rate=0.1, betas=(0.9, 0.99, 0.999), report=print, centred=True):
        super().__init__(parameters, {"lr": learning_rate, "betas": betas, "centred": centred})

class Demanding(torch.optim.SGD):
    def __init__(self, params, lr, trust):
        super().__init__(params, lr)

class WithoutRate(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {})

class Strict(torch.optim.SGD):
    def __init__(self, params, lr, level=1):
        if level != 1:
            raise ValueError("level must be 1")
        super().__init__(params, lr)

class Outer:
    Inner = Plain

class Declared(Plain):
    novobench_schedule = "own"
    novobench_roles = ["head", "matrix"]

class OddSchedule(Plain):
    novobench_schedule = "cosine"

class OddRoles(Plain):
    novobench_roles = ("matrix", "bias")

class NoRoles(Plain):
    novobench_roles = ()

class RatesOfItsOwn(WithoutRate):
    novobench_schedule = "own"

class Ranged(Plain):
    novobench_ranges = {"lr": (1e-3, 0.1), "options.momentum": [0.5, 0.99]}

    def __init__(self, params, lr=0.1, momentum=0.9):
        super().__init__(params, lr=lr)

def make(params, lr, weight_decay=0.0, momentum=0.3):
    return torch.optim.SGD(params, lr, momentum, weight_decay=weight_decay)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module in the current folder, which is not on Python's path; its name, new for each test."""
    name = f"mine_{os.path.basename(tmp_path)}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.chdir(tmp_path)
    return name


def build(name, **options):
    return registry.build(name, [nn.Parameter(torch.ones(2))], lr=0.2, weight_decay=0.0, options=options)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("Plain", {}, {"lr": 0.2}),
        ("Outer.Inner", {}, {"lr": 0.2}),
        ("Fixed", {}, {"lr": 0.2, "momentum": 0.5}),
        ("Fixed", {"nesterov": True}, {"momentum": 0.5, "nesterov": True}),
        ("Own", {"learning_rate": 0.3, "centred": False}, {"lr": 0.3, "betas": (0.9, 0.99, 0.999), "centred": False}),
        ("Own", {"betas": [0.5, 0.6, 0.7]}, {"betas": (0.5, 0.6, 0.7)}),
        ("Demanding", {"trust": 0.1}, {"lr": 0.2}),
        ("make", {"momentum": 0.7}, {"lr": 0.2, "momentum": 0.7}),
    ],
)
def test_constructors_of_all_kinds(mine, name, options, expected):
    optimizer = build(f"{mine}:{name}", **options)
    assert {key: optimizer.param_groups[0][key] for key in expected} == expected


@pytest.mark.parametrize("name", ["Rprop", "RMSprop", "NAdam", "LBFGS", "Adagrad", "SGD"])
def test_torchs_classes_by_path(name):
    config = small_config(optimizer__name=f"torch.optim:{name}", optimizer__weight_decay=0.0)
    options = vars(config.optimizer.options)
    assert isinstance(build(f"torch.optim:{name}", **options), getattr(torch.optim, name))
    assert registry.get(f"torch.optim:{name}").decays_gradient == (name == "SGD")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("Plain", {"weight_decay": 0.1}, "'optimizer.weight_decay' is 0.1, but .*:Plain accepts no such argument"),
        ("Plain", {"options": {"momentum": 0.9}}, "there is no key 'optimizer.options.momentum'"),
        ("Own", {"options": {"centred": "maybe"}}, "'optimizer.options.centred': Value 'maybe' is not a valid bool"),
        ("Demanding", {}, "'optimizer.options.trust' is required"),
        ("Missing", {}, "has no attribute 'Missing'"),
        ("torch", {}, "neither a subclass of torch.optim.Optimizer nor a function"),
        ("Outer", {}, "neither a subclass of torch.optim.Optimizer nor a function"),
    ],
)
def test_an_option_that_a_constructor_lacks_is_named_before_training(mine, name, changes, message):
    changes = {f"optimizer__{key}": value for key, value in {"weight_decay": 0.0, **changes}.items()}
    with pytest.raises(ConfigError, match=message):
        small_config(optimizer__name=f"{mine}:{name}", **changes)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Strict", {"level": 2}, "Strict' cannot be built: ValueError: level must be 1"),
        ("WithoutRate", {}, "no parameter groups with an 'lr' for the schedule to set"),
    ],
)
def test_an_optimizer_that_cannot_be_used_says_so(mine, name, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build(f"{mine}:{name}", **options)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def f(:", "SyntaxError"),
        ("undefined_name", "NameError"),
        ("raise RuntimeError('no GPU\\nhere')", "RuntimeError: no GPU here"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("import sys; print('a'); print('b', file=sys.stderr); 1 / 0", "ZeroDivisionError: division by zero"),
        ("import not_installed", "No module named 'not_installed'"),
    ],
)
def test_a_module_that_does_not_load_is_reported_in_one_line(tmp_path, monkeypatch, capsys, code, reason):
    name = f"broken_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(registry.UnknownOptimizerError) as refusal:
        registry.get(f"{name}:X")
    message = str(refusal.value)
    assert reason in message
    assert name in message
    assert "\n" not in message
    assert capsys.readouterr() == ("", "")


def test_the_current_folder_does_not_shadow_libraries(tmp_path, monkeypatch):
    (tmp_path / "timm.py").write_text("raise RuntimeError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    assert third_party.load("timm.optim:Lamb").__name__ == "Lamb"


def test_a_plug_in_that_does_not_load_affects_nothing_else(tmp_path):
    (tmp_path / "broken_plug_in.py").write_text("undefined_name")
    (tmp_path / "broken_plug_in-1.dist-info").mkdir()
    (tmp_path / "broken_plug_in-1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: broken\nVersion: 1\n"
    )
    (tmp_path / "broken_plug_in-1.dist-info" / "entry_points.txt").write_text(
        "[novobench.optimizers]\ntheirs = broken_plug_in:ENTRY\n"
    )
    code = (
        "from novobench.optim import registry\n"
        "assert 'sgd' in [entry.name for entry in registry.entries()]\n"
        "for name in ('sgdd', 'theirs'):\n"
        "    try: registry.get(name)\n"
        "    except LookupError as error: print(error)\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    misspelt, theirs = done.stdout.splitlines()
    assert "Did you mean 'sgd'" in misspelt
    assert "'theirs' cannot be loaded: NameError: name 'undefined_name'" in theirs


@pytest.mark.parametrize("form", ["{}:Plain", "./{}.py:Plain"])
def test_training_processes_find_it_too(mine, tmp_path, form):
    """The `novobench` command starts them without the current folder on Python's path."""
    code = (
        "import multiprocessing, sys\n"
        "from novobench.optim import registry\n"
        "if __name__ == '__main__':\n"
        "    registry.get(sys.argv[1])\n"
        "    context = multiprocessing.get_context('forkserver')\n"
        "    process = context.Process(target=registry.get, args=(sys.argv[1],))\n"
        "    process.start(); process.join(); sys.exit(process.exitcode)\n"
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "command.py").write_text(code)
    words = [sys.executable, str(tmp_path / "elsewhere" / "command.py"), form.format(mine)]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_class_declares_its_schedule_and_roles(mine):
    entry = registry.get(f"{mine}:Declared")
    assert (entry.schedule, entry.roles) == ("own", ("head", "matrix"))
    entry = registry.get(f"{mine}:Plain")
    assert (entry.schedule, entry.roles) == ("task", ROLES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("OddSchedule", "its novobench_schedule is 'cosine', which must be one of task, constant, own"),
        (
            "OddRoles",
            r"its novobench_roles are \('matrix', 'bias'\), which must be a tuple of some of matrix, embedding",
        ),
        ("NoRoles", r"its novobench_roles are \(\), which must be"),
    ],
)
def test_a_declaration_that_means_nothing_is_refused(mine, name, message):
    with pytest.raises(registry.UnknownOptimizerError, match=message):
        registry.get(f"{mine}:{name}")


def test_only_an_optimizer_with_rates_of_its_own_needs_no_lr(mine):
    assert "lr" not in build(f"{mine}:RatesOfItsOwn").param_groups[0]
    with pytest.raises(TypeError, match="no parameter groups with an 'lr'"):
        build(f"{mine}:WithoutRate")


# ------------------------------------------------------------------------------------ search ranges


def ranges(name: str) -> dict[str, tuple[float, float]]:
    return {key: (bounds.low, bounds.high) for key, bounds in registry.get(name).tunable.items()}


@pytest.mark.parametrize(
    ("name", "usual"),
    [
        ("torch.optim:AdamW", {"lr": 1e-3, "weight_decay": 1e-2}),
        ("torch.optim:SGD", {"lr": 1e-3, "weight_decay": 1e-3}),  # its default decay is 0
        ("torch.optim:Rprop", {"lr": 1e-2}),
        ("torch.optim:LBFGS", {"lr": 1.0}),
        ("Plain", {"lr": 0.1}),
        ("Demanding", {"lr": 1e-2}),  # no default
        ("make", {"lr": 1e-2, "weight_decay": 1e-3}),
        ("Own", {"lr": 1e-2}),  # the schedule sets the rate of its groups
        ("RatesOfItsOwn", {}),
    ],
)
def test_ranges_lie_around_the_constructors_defaults(mine, name, usual):
    found = ranges(name if ":" in name else f"{mine}:{name}")
    assert {key: (low * high) ** 0.5 for key, (low, high) in found.items()} == pytest.approx(usual, rel=0.03)
    assert [high / low for low, high in found.values()] == pytest.approx([32] * len(usual))


def test_a_class_declares_its_ranges(mine):
    assert ranges(f"{mine}:Ranged") == {"lr": (1e-3, 0.1), "options.momentum": (0.5, 0.99)}


@pytest.mark.parametrize("declared", [{}, {"lr": 0.1}, {"lr": (0.1, 0.1)}, {"lr": (0, 1)}, {"rate": (1, 2)}, [0.1, 1]])
def test_ranges_that_mean_nothing_are_refused(mine, declared):
    factory = third_party.load(f"{mine}:Ranged")
    factory.novobench_ranges = declared
    with pytest.raises(registry.UnknownOptimizerError, match="its novobench_ranges are .* some of lr, opt"):
        registry.get(f"{mine}:Ranged")


def test_all_default_ranges_are_equally_wide():
    for entry in registry.entries():
        for key, bounds in entry.tunable.items():
            assert bounds.high / bounds.low == pytest.approx(32), f"{entry.name} {key}"


@pytest.mark.parametrize(
    ("path", "schedule", "roles"),
    [
        ("schedulefree:AdamWScheduleFree", "constant", ROLES),
        ("prodigyopt:Prodigy", "task", ROLES),
        ("novobench.optim.muon:Muon", "task", ("matrix",)),
        ("torch.optim:SGD", "task", ROLES),
    ],
)
def test_a_class_of_a_registered_entry_has_its_schedule_and_roles(path, schedule, roles):
    """Otherwise the same class would be trained differently under its path."""
    pytest.importorskip(path.partition(":")[0])
    entry = registry.get(path)
    assert (entry.schedule, entry.roles) == (schedule, roles)
