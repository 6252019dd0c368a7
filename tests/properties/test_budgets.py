"""Budgets: every number with a unit is read, and becomes the same number of updates on any number of devices."""

import dataclasses
import math

from hypothesis import given
from hypothesis import strategies as st

from novobench.budget import parse_budget
from tests.cells import small_config
from tests.properties import bounded

IMAGE = small_config(batch={"size": 64, "micro": 16})
LANGUAGE = small_config("language")


@bounded
@given(st.integers(0, 10**15), st.sampled_from(["ep", "steps", "tokens"]))
def test_whole_numbers(amount, unit):
    assert parse_budget(f"{amount}{unit}") == (amount, unit)


@bounded
@given(st.integers(0, 10**6), st.integers(0, 999), st.integers(0, 12))
def test_fractions_and_powers_of_ten(whole, thousandths, exponent):
    amount, unit = parse_budget(f"{whole}.{thousandths:03}e{exponent}tokens")
    assert math.isclose(amount, (whole + thousandths / 1000) * 10**exponent)
    assert unit == "tokens"


@bounded
@given(st.integers(1, 10**6), st.sampled_from([1, 2, 4]))
def test_steps_are_updates_on_any_number_of_devices(steps, devices):
    runtime = dataclasses.replace(IMAGE.runtime, devices=devices)
    config = dataclasses.replace(IMAGE, budget=f"{steps}steps", runtime=runtime)
    assert config.total_updates == steps
    assert config.epochs * config.epoch_updates == steps or math.isclose(config.epochs * config.epoch_updates, steps)


@bounded
@given(st.integers(1, 1000), st.sampled_from(["drop", "wrap"]))
def test_an_epoch_is_whole_optimizer_batches(epochs, tail):
    data = dataclasses.replace(IMAGE.data, tail=tail)
    config = dataclasses.replace(IMAGE, budget=f"{epochs}ep", data=data)
    per_epoch = (math.floor if tail == "drop" else math.ceil)(data.train_size / 64)
    assert config.total_updates == epochs * per_epoch
    assert config.epochs == epochs


@bounded
@given(st.integers(1, 10**12))
def test_a_budget_of_tokens_is_reached_by_the_last_update(tokens):
    config = dataclasses.replace(LANGUAGE, budget=f"{tokens}tokens")
    per_update = config.batch.size * config.data.segment_length
    assert (config.total_updates - 1) * per_update < tokens <= config.total_updates * per_update
