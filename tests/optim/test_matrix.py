"""Each NovoGrad backend on each problem with each option, against the float64 loop: the table of `problems`."""

import itertools

import pytest

from novobench.optim import NovoGrad
from tests.optim.problems import (
    BETAS,
    COMPILED_PATHS,
    EAGER_PATHS,
    INDUCTOR_PATHS,
    OPTIONS,
    PROBLEMS,
    Options,
    check,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:overflow encountered:RuntimeWarning",  # NumPy's, in Triton's interpreter
    "ignore:invalid value encountered:RuntimeWarning",
)
compiling = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

DEFAULT_BETAS = BETAS[0]
INTERPRETED = ("cuda", "cuda single launch")
"""Triton's interpreter is slow: the other cells of these paths are left to `test_everything`."""
BRIEF = (*INTERPRETED, "capturable")  # the last has the reference's backend
eager = pytest.mark.parametrize("path", EAGER_PATHS)


def name_of(value):
    return "betas {} {}".format(*value) if isinstance(value, tuple) else value


def is_distinct(path, options):
    """Whether a cell takes its path: a step that needs the global norm takes two launches on both CUDA paths."""
    return path != "cuda single launch" or not OPTIONS[options].needs_global_norm


@pytest.mark.parametrize(
    ("path", "options", "betas"),
    [
        (path, options, betas)
        for path, options, betas in itertools.product(EAGER_PATHS, OPTIONS, BETAS)
        if path not in BRIEF
        or (betas == DEFAULT_BETAS and is_distinct(path, options))
        or options == ("all" if path == "cuda" else "decay")
    ],
    ids=name_of,
)
def test_options(path, options, betas):
    check(PROBLEMS["usual"], OPTIONS[options], betas, EAGER_PATHS[path])


@pytest.mark.parametrize(
    ("path", "problem", "options"),
    [
        (path, problem, options)
        for path, problem, options in itertools.product(EAGER_PATHS, PROBLEMS, ("decay", "all"))
        if problem != "usual" and (path not in BRIEF or options == "decay")
    ],
    ids=name_of,
)
def test_problems(path, problem, options):
    check(PROBLEMS[problem], OPTIONS[options], DEFAULT_BETAS, EAGER_PATHS[path])


@pytest.mark.parametrize(
    ("path", "problem", "options"),
    [
        (path, problem, options)
        for path, (problem, options) in itertools.product(
            EAGER_PATHS,
            [
                ("zero gradients", "eps 0"),
                ("zero gradients", "averaging, eps 0"),
                ("nonfinite gradients", "skip step"),
                ("nonfinite gradients", "gradient clip"),
                ("nonfinite gradients", "torch's scaler"),
                ("nonfinite gradients", "our scaler"),
                ("missing gradients", "amsgrad"),
                ("strided", "gradient clip"),
            ],
        )
        if is_distinct(path, options)
    ],
    ids=name_of,
)
def test_options_that_a_problem_makes_difficult(path, problem, options):
    check(PROBLEMS[problem], OPTIONS[options], DEFAULT_BETAS, EAGER_PATHS[path])


@pytest.mark.slow
@eager
@pytest.mark.parametrize("problem", PROBLEMS)
def test_everything(path, problem):
    """All options and betas on one problem; a failure names the first cell that is wrong."""
    for options, betas in itertools.product(OPTIONS, BETAS):
        if not is_distinct(path, options) or (path in INTERPRETED and betas not in (BETAS[0], BETAS[-1])):
            continue
        try:
            check(PROBLEMS[problem], OPTIONS[options], betas, EAGER_PATHS[path])
        except AssertionError as error:
            raise AssertionError(f"{path}, {problem}, {options}, betas {betas}: {error}") from error


@compiling
@pytest.mark.parametrize("path", COMPILED_PATHS)
@pytest.mark.parametrize(("problem", "options"), [("groups", "default"), ("nonfinite gradients", "all")], ids=name_of)
def test_compiled(path, problem, options):
    """Few cells, because tracing is slow: "groups" has most options in one graph."""
    check(PROBLEMS[problem], OPTIONS[options], DEFAULT_BETAS, COMPILED_PATHS[path])


@pytest.mark.slow
@compiling
@pytest.mark.parametrize("path", COMPILED_PATHS)
@pytest.mark.parametrize("options", [name for name, options in OPTIONS.items() if options.scaler != "ours"])
def test_compiled_options(path, options):
    for betas in (BETAS[0], BETAS[-1]):
        check(PROBLEMS["usual"], OPTIONS[options], betas, COMPILED_PATHS[path])


@pytest.mark.slow
@compiling
@pytest.mark.parametrize("path", COMPILED_PATHS)
@pytest.mark.parametrize("problem", [name for name in PROBLEMS if name != "usual"])
def test_compiled_problems(path, problem):
    check(PROBLEMS[problem], OPTIONS["decay"], DEFAULT_BETAS, COMPILED_PATHS[path])


@pytest.mark.slow
@compiling
@pytest.mark.parametrize("path", INDUCTOR_PATHS)
@pytest.mark.parametrize(
    ("problem", "options"), [("usual", "default"), ("usual", "all"), ("groups", "default")], ids=name_of
)
def test_inductor(path, problem, options):
    check(PROBLEMS[problem], OPTIONS[options], DEFAULT_BETAS, INDUCTOR_PATHS[path])


@eager
def test_a_path_selects_its_backend(path):
    parameters = [weight.requires_grad_() for weight in PROBLEMS["usual"].weights()]
    [backend] = NovoGrad(parameters, 0.1, **EAGER_PATHS[path].options)._assign_backends()
    assert type(backend) is EAGER_PATHS[path].backend


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"weight_decay": 0.1}, {"weight_decay": 0.1001}),
        ({"eps": 0.1}, {"eps": 0.1, "eps_inside_sqrt": True}),
        ({"max_grad_norm": 1.5}, {"max_grad_norm": 1.501}),
        ({}, {"update_clip": 0.01}),
        ({}, {"layer_scale": "rms"}),
    ],
    ids=str,
)
def test_the_check_detects_another_option(options, wrong, monkeypatch):
    original = NovoGrad.__init__

    def construct(self, *arguments, **settings):
        original(self, *arguments, **{**settings, **wrong})

    monkeypatch.setattr(NovoGrad, "__init__", construct)
    with pytest.raises(AssertionError, match="of tensor"):
        check(PROBLEMS["usual"], Options(options), DEFAULT_BETAS, EAGER_PATHS["reference"])
