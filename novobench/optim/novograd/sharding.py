"""Norms of tensors that lie in shards on several processes (DTensor: FSDP2, HSDP, tensor parallelism).

‖g‖² adds up over shards, so each process sums the squares of its own shard, empty ones included, and one collective
a mesh dimension adds them up for all tensors at once. Along a dimension where a tensor is replicated nothing is added.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_sharded(x: Tensor) -> bool:
    """Whether x is a DTensor, without importing torch.distributed for those who do not use it."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def are_flattened(parameters: Sequence[Tensor]) -> bool:
    """Whether the first FSDP, FullyShardedDataParallel, has put several into one FlatParameter, or with
    `use_orig_params` cut them into flat pieces, which it leaves undone where nothing is sharded."""
    marked = [x for x in parameters if getattr(x, "_fsdp_flattened", False)]
    return any(getattr(x, "_is_flat_param", False) for x in marked) or (
        bool(marked) and all(x.dim() <= 1 for x in marked)
    )


def local(x: Tensor) -> Tensor:
    """This process's part of x; x itself if it is a plain tensor."""
    return _waited(x.to_local()) if is_sharded(x) else x  # type: ignore[attr-defined]


def like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a gradient, laid out over the mesh as its parameter is."""
    if not is_sharded(parameter):
        return local(gradient)
    if not is_sharded(gradient):
        raise RuntimeError("NovoGrad: a plain gradient for a DTensor parameter; expected a DTensor")
    if tuple(gradient.placements) != tuple(parameter.placements):  # type: ignore[attr-defined]
        gradient = gradient.redistribute(placements=parameter.placements)  # type: ignore[attr-defined]
    return local(gradient)


def sum_over_shards(squares: Tensor, parameters: Sequence[Tensor]) -> None:
    """Add up, in place, each parameter's entry over the processes that hold shards of it."""
    shared: dict[tuple[Any, int], list[int]] = {}
    for i, parameter in enumerate(parameters):
        if is_sharded(parameter):
            for dim, placement in enumerate(parameter.placements):  # type: ignore[attr-defined]
                if not placement.is_replicate():
                    shared.setdefault((parameter.device_mesh, dim), []).append(i)  # type: ignore[attr-defined]
    for (mesh, dim), entries in shared.items():
        group = mesh.get_group(dim)
        if len(entries) == len(squares):
            torch.distributed.all_reduce(squares, group=group)
        else:
            places = torch.tensor(entries, device=squares.device)
            part = squares[places]
            torch.distributed.all_reduce(part, group=group)
            squares[places] = part


def _waited(x: Tensor) -> Tensor:
    """A result that a collective may still be writing, once it is there."""
    return x.wait() if hasattr(x, "wait") and type(x) is not Tensor else x
