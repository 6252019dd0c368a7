"""A net with parameters of zero to four dimensions and every role, and its training by an optimizer that novobench
builds from a config: roles, groups, rates, guard and step as in `novobench.training.loop`, without Lightning."""

import dataclasses
import io
from collections.abc import Iterable
from functools import cache

import pytest
import torch
from torch import nn

from novobench.config import CellConfig
from novobench.optim import registry
from novobench.optim.composite import switchable
from novobench.tasks.base import TaskModule
from novobench.training.guard import GradScaler, Guard
from novobench.training.rates import optimizer_parts, set_rates
from tests.cells import small_config

ENTRIES = {entry.name: entry for entry in registry.entries()}
every_entry = pytest.mark.parametrize("name", ENTRIES)
RATES = {"adafactor": 0.1, "lars": 0.1, "lion": 0.01, "normalized_sgd": 0.2, "novograd_rms": 0.005, "prodigy": 1.0}
"""Rates at which these optimizers learn what `Net` is trained on; 0.03 for all others."""
CHANGES = {"lars": {"optimizer__options__trust": 0.1}}  # the default needs rates at which vectors diverge
TOTAL = 12


def rate(name: str) -> float:
    return RATES.get(name, 0.03)


@cache
def config(name: str, **changes: object) -> CellConfig:
    """A config with this optimizer. `changes` are dotted keys with `__` for the dot."""
    defaults = {
        "optimizer__lr": rate(name),
        "optimizer__weight_decay": 0.1,
        "optimizer__decay_factors": {"@norm": 0.0, "@bias": 0.0},
        "budget": f"{TOTAL}steps",
    }
    return small_config(optimizer__name=name, **{**defaults, **CHANGES.get(name, {}), **changes})


class Net(TaskModule):
    """Tokens (n, 6) to 3 numbers, by way of an image (n, 2, 4, 3)."""

    role_patterns = {r"^head\.weight": "head"}  # noqa: RUF012

    def __init__(self, cell: CellConfig, seed: int = 0) -> None:
        super().__init__(cell)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(10, 4)
            self.hidden = nn.Linear(4, 4, bias=False)
            self.sequence = nn.Conv1d(6, 6, 3, padding=1)
            self.image = nn.Conv2d(2, 5, (3, 2))
            self.norm = nn.BatchNorm2d(5)
            self.gain = nn.Parameter(torch.tensor(0.5))
            self.head = nn.Linear(20, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        features = self.sequence(torch.tanh(self.hidden(self.embedding(tokens))))
        image = torch.relu(self.norm(self.image(features.view(len(tokens), 2, 3, 4).transpose(2, 3))))
        return self.head(self.gain * image.flatten(1))

    def loss(self, update: int) -> torch.Tensor:
        """Mean squared error on a batch that depends on `update` alone, to targets that the tokens decide."""
        generator = torch.Generator().manual_seed(update)
        tokens = torch.randint(10, (16, 6), generator=generator)
        targets = torch.stack([(tokens[:, i] - tokens[:, i + 3]).float() / 3 for i in range(3)], 1)
        return (self(tokens) - targets.to(self.gain.dtype)).square().mean()

    training_step = evaluation_start = evaluation_step = evaluation_end = random_batch = counted = None


Net.__abstractmethods__ = frozenset()


class Training:
    """`Net` and its optimizer, as a training of a cell drives them."""

    def __init__(self, name: str, *, seed: int = 0, half: bool = False, **changes: object) -> None:
        """seed: of the net's first weights. half: in fp16 with a scaled loss. changes: of the config."""
        self.config = config(name, **changes)
        self.net = Net(self.config, seed)
        self.optimizer = self.net.configure_optimizers()
        self.guard = Guard(self.config, self.config.total_updates)
        self.guard.start(self.net, self.optimizer)
        self.scaler = GradScaler("cpu", init_scale=2.0**13, growth_interval=100, enabled=half)
        self.half = half
        self.switch("train")

    def switch(self, mode: str) -> None:
        for optimizer in switchable(self.optimizer):
            getattr(optimizer, mode)()

    def update(
        self,
        number: int,
        *,
        lr: float | None = None,
        factor: float = 1.0,
        without: Iterable[str] = (),
        silent: Iterable[str] = (),
    ) -> float:
        """One update; returns its loss. lr: instead of the config's. factor: multiplies the loss. without, silent:
        parameters whose gradient is None, or zero."""
        base = self.config.optimizer if lr is None else dataclasses.replace(self.config.optimizer, lr=lr)
        parts = optimizer_parts(self.optimizer, self.config.optimizer)
        set_rates(parts, number, self.config.total_updates, dataclasses.replace(self.config, optimizer=base))
        self.optimizer.zero_grad()
        self.guard.begin_update()
        with torch.autocast("cpu", torch.float16, enabled=self.half):
            loss = self.net.loss(number)
        self.scaler.scale(loss.float() * factor).backward()
        for name in without:
            self.net.get_parameter(name).grad = None
        for name in silent:
            self.net.get_parameter(name).grad.zero_()
        self.scaler.unscale_(self.optimizer)
        self.guard.before_step(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.net.named_parameters()}

    def saved(self) -> bytes:
        """What a checkpoint holds of it."""
        buffer = io.BytesIO()
        torch.save({"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}, buffer)
        return buffer.getvalue()

    def load(self, saved: bytes) -> None:
        """Read as checkpoints are: plain data alone, so that no code is run."""
        state = torch.load(io.BytesIO(saved), weights_only=True)
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
