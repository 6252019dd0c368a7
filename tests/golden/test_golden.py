"""The first updates of each task and optimizer have the losses that are kept in this folder."""

import pytest

from tests.golden import curves

ADVICE = "If the change is meant, run `python -m tests.golden` and say in the commit why the losses change."


@pytest.mark.parametrize(("task", "optimizer"), curves.CURVES)
def test_the_losses_are_the_golden_ones(task, optimizer, tmp_path):
    losses = curves.train(task, optimizer, tmp_path / "cell")
    difference = curves.first_difference(losses, curves.read(task, optimizer))
    assert not difference, f"{task} {optimizer}, {difference}. {ADVICE}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer__options__betas", [0.95, 0.3]),
        ("optimizer__options__grad_averaging", True),
        ("optimizer__lr", 0.0202),
        ("optimizer__weight_decay", 0.01),
        ("optimizer__clip_norm", 0.5),
        ("schedule__warmup", "3steps"),
        ("schedule__name", "polynomial"),
        ("model__init_scale", 2.0),
        ("seed", 1),
    ],
)
def test_a_changed_recipe_is_noticed(key, value, tmp_path):
    """The tolerance is tight enough: each of these changes moves the losses of NovoGrad on images by more."""
    losses = curves.train("image", "novograd", tmp_path / "cell", **{key: value})
    assert curves.first_difference(losses, curves.read("image", "novograd"))
