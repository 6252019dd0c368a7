"""Schedules of the learning rate: bounds, a rising warm-up, a continuous decay, and the value at the end."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novobench.optim.schedules import ScheduleSpec, learning_rate, validate, weight_decay
from tests.properties import bounded

TOTALS = st.integers(1, 300)
RATES = st.floats(1e-4, 10.0)


@st.composite
def specs(draw, names=("constant", "polynomial", "cosine", "multistep"), spans=("rest", "whole")):
    """A valid schedule; `min_lr` is at most 1e-4, the lowest of `RATES`."""
    spec = ScheduleSpec(
        name=draw(st.sampled_from(names)),
        power=draw(st.floats(1.0, 4.0)),
        min_lr=draw(st.sampled_from([0.0, 1e-6, 1e-4])),
        floor=draw(st.sampled_from(["shift", "max"])),
        warmup_start_factor=draw(st.floats(0.0, 1.0)),
        warmup_counts_from=draw(st.sampled_from([0, 1])),
        decay_spans=draw(st.sampled_from(spans)),
        milestones=sorted(draw(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=3))),
        factor=draw(st.floats(0.0, 1.0)),
        **draw(
            st.one_of(
                st.just({}),
                st.fixed_dictionaries({"warmup_updates": st.integers(0, 300)}),
                st.fixed_dictionaries({"warmup_fraction": st.floats(0.0, 0.99)}),
            )
        ),
    )
    validate(spec)
    return spec


def warmup_updates(spec: ScheduleSpec, total: int) -> int:
    return min(total, spec.warmup_updates or round(spec.warmup_fraction * total))


def rates(spec: ScheduleSpec, total: int, base: float) -> list[float]:
    return [learning_rate(update, total, base, spec) for update in range(total)]


@bounded
@given(specs(), TOTALS, RATES)
def test_the_rate_stays_between_its_floor_and_the_base_rate(spec, total, base):
    warmup = warmup_updates(spec, total)
    floor = spec.min_lr if spec.name in ("polynomial", "cosine") else 0.0
    for update, rate in enumerate(rates(spec, total, base)):
        lowest = base * spec.warmup_start_factor if update < warmup else floor
        assert lowest * (1 - 1e-9) <= rate <= base * (1 + 1e-9)


@bounded
@given(specs(), TOTALS, RATES)
def test_the_rate_rises_in_the_warm_up_and_never_after_it(spec, total, base):
    warmup = warmup_updates(spec, total)
    values = rates(spec, total, base)
    climb, decay = values[:warmup], values[warmup:]
    assert climb == sorted(climb)
    assert decay == sorted(decay, reverse=True)
    if climb and spec.warmup_counts_from == 0:
        assert climb[0] == pytest.approx(base * spec.warmup_start_factor)
    if decay and spec.decay_spans == "rest" and spec.name != "multistep":
        assert decay[0] == pytest.approx(base)


@bounded
@given(specs(names=("polynomial", "cosine", "constant"), spans=("rest",)), TOTALS, RATES)
def test_there_are_no_jumps(spec, total, base):
    """The warm-up climbs in equal steps that end at the base rate; a decay is no steeper than its curve allows."""
    warmup = warmup_updates(spec, total)
    values = rates(spec, total, base)
    slope = {"constant": 0.0, "cosine": math.pi / 2, "polynomial": spec.power}[spec.name]
    for update, (rate, following) in enumerate(itertools.pairwise(values)):
        change = abs(following - rate)
        if update < warmup:
            length = spec.warmup_updates or round(spec.warmup_fraction * total)
            assert change == pytest.approx(
                base * (1 - spec.warmup_start_factor) / (length + spec.warmup_counts_from), rel=1e-6, abs=1e-12
            )
        else:
            assert change <= base * slope / (total - warmup) + 1e-12


@bounded
@given(specs(names=("polynomial", "cosine")), TOTALS, RATES)
def test_a_decay_ends_at_min_lr(spec, total, base):
    if warmup_updates(spec, total) < total:
        assert learning_rate(total, total, base, spec) == pytest.approx(spec.min_lr, abs=1e-12 * base)


@bounded
@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 4.0)), max_size=3),
    TOTALS,
    st.floats(0.0, 1.0),
)
def test_weight_decay_changes_only_at_its_milestones(steps, total, base):
    steps = sorted(steps, key=lambda step: step[0])
    milestones, factors = [share for share, _ in steps], [factor for _, factor in steps]
    spec = ScheduleSpec(weight_decay_milestones=milestones, weight_decay_factors=factors)
    validate(spec)
    for update in range(total):
        passed = sum(update >= share * total for share in milestones)
        assert weight_decay(update, total, base, spec) == base * ([1.0, *factors][passed])
