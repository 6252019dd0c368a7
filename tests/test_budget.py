"""Lengths of trainings and warm-ups as configs write them, against the arithmetic of the paper."""

import pytest

from novobench.budget import parse_budget, parse_warmup
from novobench.errors import ConfigError
from novobench.optim.schedules import learning_rate
from tests.cells import small_config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100ep", (100.0, "ep")),
        ("1.15ep", (1.15, "ep")),
        ("4000steps", (4000.0, "steps")),
        ("12e9tokens", (12e9, "tokens")),
    ],
)
def test_budgets(text, expected):
    assert parse_budget(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5ep", (5.0, "ep")),
        ("500steps", (500.0, "steps")),
        ("0.05", (0.05, "share")),
        ("0", (0.0, "share")),
        ("5/90", (0.0555555556, "share")),  # ten decimals
        ("1/4", (0.25, "share")),
    ],
)
def test_warmups(text, expected):
    assert parse_warmup(text) == expected


@pytest.mark.parametrize(
    "text", ["", "5", "5 epochs", "500step", "12e9tokens", "1e400ep", "5/0", "nan", "-0.1", "1", "1.5steps", "4ep"]
)
def test_warmups_that_are_refused(text):
    """The budget is 4 epochs."""
    with pytest.raises(ConfigError, match=r"schedule\.warmup"):
        small_config(schedule__warmup=text, budget="4ep")


@pytest.mark.parametrize(
    ("text", "updates"), [("1ep", 32), ("1/4", 32), ("0.25", 32), ("3steps", 3), ("1.5ep", 48), ("0", 0)]
)
def test_a_warmup_ends_where_it_says(text, updates):
    config = small_config(schedule__warmup=text, schedule__name="constant", budget="4ep")
    assert (config.epoch_updates, config.total_updates) == (32, 128)
    rates = [learning_rate(update, config.total_updates, 1.0, config.schedule) for update in range(128)]
    assert sum(rate < 1.0 for rate in rates) == updates


@pytest.mark.parametrize("key", ["warmup_updates", "warmup_fraction"])
def test_two_spellings_of_a_warmup_at_once(key):
    with pytest.raises(ConfigError, match=rf"'schedule\.warmup' 1ep and 'schedule\.{key}' 0 are both set"):
        small_config(**{"schedule__warmup": "1ep", f"schedule__{key}": 0})
