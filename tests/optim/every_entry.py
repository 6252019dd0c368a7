"""Every registered optimizer, with a rate at which it learns what the net of `conformance` is trained on."""

import pytest

from novobench.optim import registry
from novobench.training.conformance.subject import Subject

ENTRIES = {entry.name: entry for entry in registry.entries()}
every_entry = pytest.mark.parametrize("name", ENTRIES)
RATES = {"adafactor": 0.1, "lars": 0.1, "lion": 0.01, "normalized_sgd": 0.2, "novograd_rms": 0.005, "prodigy": 1.0}
"""Rates at which these optimizers learn; 0.03 for all others."""
OPTIONS = {"lars": {"trust": 0.1}}  # the default needs rates at which vectors diverge


def subject(name: str, **options: object) -> Subject:
    return Subject(name, RATES.get(name, 0.03), {**OPTIONS.get(name, {}), **options}, learned=0.1)
