"""Launch settings of NovoGrad's CUDA kernels, timed one by one to find those that suit a card."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from novobench.bench.contenders import Contender, novograd
from novobench.bench.results import Report
from novobench.errors import ConfigError
from novobench.optim.novograd import LaunchSettings

_TILES = ((1024, 4), (2048, 4), (2048, 8), (4096, 8), (4096, 16))
"""Elements of a tile, and the warps that share it."""
_CHUNKS = (8192, 16384, 32768)
"""Elements of one program's share."""
_SMALL_TILES = ((2048, 8), (4096, 16))
_SMALL_CHUNKS = (4096, 8192)
"""The same for a single launch, whose norms and updates alternate."""
_AHEAD_MIB = (4, 8, 12)
"""MiB of gradients that a single launch reads before it updates their weights; a cache of 50 MB must hold them."""


def check(device: str, only: Sequence[str]) -> None:
    """Raise ConfigError where a sweep makes no sense."""
    if only:
        raise ConfigError("--sweep times NovoGrad's launch settings alone: leave --only out.")
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError(
            "--sweep needs --device cuda; to rehearse it on a CPU, where it is slow and means nothing, set "
            "TRITON_INTERPRET=1."
        )


def settings(device: torch.device) -> Iterator[tuple[str, Contender]]:
    """Name and contender for each setting of both implementations, its default first."""
    fused = {"fused": True} if device.type == "cpu" else {}
    alone = {"single_launch": True}
    default = LaunchSettings()
    two, single = default.two_launches, default.single_launch
    shares = [{"block": b, "warps": w, "chunk": c} for b, w in _TILES for c in _CHUNKS if c % b == 0]
    small = [
        {"block": b, "warps": w, "chunk": c, "ahead": a << 20}
        for b, w in _SMALL_TILES
        for c in _SMALL_CHUNKS
        for a in _AHEAD_MIB
        if c % b == 0
    ]
    implementations: list[tuple[str, str, Any, list[dict[str, Any]], dict[str, bool], int]] = [
        ("NovoGrad", "two_launches", two, [*shares, *_opposites(two, "reverse", "evict", "overlap")], {}, 24),
        ("NovoGrad(single launch)", "single_launch", single, [*small, *_opposites(single, "evict")], alone, 20),
    ]
    for name, settings_field, first, changes, options, traffic in implementations:
        for tuning in dict.fromkeys([first, *(replace(first, **change) for change in changes)]):
            launches = replace(default, **{settings_field: tuning})
            yield name, Contender(novograd(launches, **fused, **options), traffic, _in_words(tuning))


def _opposites(tuning: Any, *names: str) -> list[dict[str, bool]]:
    """Changes that turn each of these switches to its other value."""
    return [{name: not getattr(tuning, name)} for name in names]


def _in_words(tuning: Any) -> str:
    """`block=2048 warps=8 …`; `ahead`, which only a single launch has, in MiB."""
    values = {field.name: int(getattr(tuning, field.name)) for field in fields(tuning)}
    ahead = values.pop("ahead")
    return " ".join(
        [*(f"{name}={value}" for name, value in values.items()), *([f"ahead={ahead >> 20}MiB"] * (ahead > 0))]
    )


def say_best(report: Report) -> None:
    """Name the fastest setting of each implementation on each model."""
    best: dict[tuple[str, str], Any] = {}
    for row in report.rows:
        key = row.model, row.optimizer
        if row.settings and row.ratio is not None and (key not in best or row.ratio < best[key].ratio):
            best[key] = row
    for (model, optimizer), row in best.items():
        report.say(f"Best on {model}: {optimizer} {row.settings}, {row.ratio:.3f} of the baseline.")
