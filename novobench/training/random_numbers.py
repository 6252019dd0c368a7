"""The state of torch's generators in each micro-batch, a function of the config's seed alone."""

from __future__ import annotations

import torch

from novobench.tasks.sampling import derive_seed


def seed_micro_batch(seed: int, update: int, k: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of `device` for micro-batch number `k` of an update."""
    # Only the default generators: torch.manual_seed takes a hundred times as long.
    derived = derive_seed(seed, "model", update, k)
    torch.default_generator.manual_seed(derived)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(derived)
