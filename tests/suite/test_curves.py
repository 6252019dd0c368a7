"""Values at equal levels of a series."""

import math

import pytest

from novobench.suite.curves import Point, value_at_equal_level


def curve(*values):
    return [Point(update, update / 10, None, value) for update, value in enumerate(values, 1)]


def test_validation_is_read_where_the_training_loss_was_equal():
    cells = {
        "far": {"t/loss": curve(5, 3, 1), "v/loss": curve(5.5, 4.5, 4.0)},
        "near": {"t/loss": curve(5, 4, 2.5), "v/loss": curve(5.5, 4.4, 3.0)},
    }
    # The level is 2.5; `far` passed it a quarter of the way from 3 to 1.
    assert value_at_equal_level(cells, "t/loss", "v/loss") == pytest.approx({"far": 4.375, "near": 3.0})


def test_a_cell_that_began_below_the_level_is_left_out():
    cells = {
        "fast": {"t/loss": curve(2, 1), "v/loss": curve(3, 2)},
        "slow": {"t/loss": curve(5, 4), "v/loss": curve(6, 5)},
    }
    assert value_at_equal_level(cells, "t/loss", "v/loss") == {"slow": 5}
    assert value_at_equal_level({"other": {"v/loss": curve(1)}}, "t/loss", "v/loss") == {}


def test_points_without_a_partner_are_skipped():
    cells = {"one": {"t/loss": curve(5, 3, 1), "v/loss": curve(5.5, 4.5, 4.0)[::2]}}
    assert value_at_equal_level(cells, "t/loss", "v/loss") == {"one": 4.0}


def test_a_cell_that_diverged_has_no_part_in_the_level():
    """The level is 3.0, the worse of 3.0 and 2.0; the third cell passes it halfway from 4 to 2."""
    cells = {
        "diverged": {"t/loss": curve(9, math.nan), "v/loss": curve(9, math.nan)},
        "one": {"t/loss": curve(9, 5, 3), "v/loss": curve(9, 6, 5)},
        "two": {"t/loss": curve(8, 4, 2), "v/loss": curve(8, 5, 4)},
    }
    for order in (list(cells), list(cells)[::-1]):
        values = value_at_equal_level({cell: cells[cell] for cell in order}, "t/loss", "v/loss")
        assert math.isnan(values.pop("diverged"))
        assert values == pytest.approx({"one": 5.0, "two": 4.5})


def test_a_nan_on_the_way_is_skipped():
    cells = {
        "one": {"t/loss": curve(5, math.nan, 1), "v/loss": curve(6, math.nan, 4)},
        "two": {"t/loss": curve(8, 3), "v/loss": curve(8, 5)},
    }
    assert value_at_equal_level(cells, "t/loss", "v/loss") == {"one": 5.0, "two": 5.0}  # 3 lies halfway from 5 to 1


def test_no_cell_reached_a_level():
    values = value_at_equal_level({"one": {"t/l": curve(5, math.nan), "v/l": curve(5, 4)}}, "t/l", "v/l")
    assert list(map(str, values.values())) == ["nan"]
