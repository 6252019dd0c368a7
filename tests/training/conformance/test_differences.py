"""Where two states differ."""

import math

import numpy as np
import pytest
import torch

from novobench.training.conformance.differences import first_difference

STATE = {"a": [torch.tensor([1.0, math.nan]), {"n": 1}], "b": (True, None), "c": torch.tensor(2, dtype=torch.int64)}


def test_equal_states_do_not_differ():
    assert first_difference(STATE, STATE) == ""
    assert first_difference({**STATE, "further": 1}, {**STATE, "a": [STATE["a"][0].clone(), {"n": 1}]}) == ""


@pytest.mark.parametrize(
    ("actual", "place"),
    [
        ({**STATE, "a": [torch.tensor([1.0, 2.0]), {"n": 1}]}, "a[0]"),
        ({**STATE, "a": [STATE["a"][0], {"n": 2}]}, "a[1].n"),
        ({**STATE, "a": [STATE["a"][0], {}]}, "a[1].n"),
        ({**STATE, "a": STATE["a"][:1]}, "the length of a"),
        ({**STATE, "b": (False, None)}, "b[0]"),
        ({**STATE, "c": torch.tensor(2.0)}, "c"),
        ({**STATE, "c": 2}, "c"),
        ({"a": STATE["a"]}, "b"),
    ],
)
def test_the_place_is_named(actual, place):
    assert first_difference(actual, STATE) == place


def test_numpy_arrays_are_compared_whole():
    assert first_difference({"n": np.ones(2)}, {"n": np.ones(2)}) == ""
    assert first_difference({"n": np.array([1, 2])}, {"n": np.ones(2)}) == "n"


def test_bits_count():
    assert first_difference(torch.tensor(-0.0), torch.tensor(0.0)) == "it"
    assert first_difference([1], [1, 2]) == "the length of the list"
