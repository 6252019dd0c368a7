"""Norms of tensors that are sharded over several processes (DTensor: FSDP2, HSDP, tensor parallelism).

‖g‖² of a tensor is the sum over its shards. Each process sums the squares of its own shards, which may be empty; one
collective per mesh dimension then adds the sums of all tensors. Dimensions along which a tensor is replicated add
nothing to it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_sharded(x: Tensor) -> bool:
    """Whether x is a DTensor. Does not import torch.distributed: without that import, there is no DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def are_flattened(parameters: Sequence[Tensor]) -> bool:
    """Whether FullyShardedDataParallel (the first FSDP) holds the parameters in a form that hides their layers.

    It joins several into one FlatParameter, or, with `use_orig_params`, cuts them into one-dimensional pieces. Where it
    shards nothing, the second form keeps all shapes.
    """
    managed = [x for x in parameters if getattr(x, "_fsdp_flattened", False)]
    return any(getattr(x, "_is_flat_param", False) for x in managed) or (
        bool(managed) and all(x.dim() <= 1 for x in managed)
    )


def local(x: Tensor) -> Tensor:
    """The shard of x on this process; x itself if it is a plain tensor."""
    return _wait(x.to_local()) if is_sharded(x) else x  # type: ignore[attr-defined]


def like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The shard of a gradient on this process, with the placements of its parameter.

    Raises RuntimeError for a plain gradient of a DTensor.
    """
    if not is_sharded(parameter):
        return local(gradient)
    if not is_sharded(gradient):
        raise RuntimeError("NovoGrad: a plain gradient for a DTensor parameter; expected a DTensor")
    if tuple(gradient.placements) != tuple(parameter.placements):  # type: ignore[attr-defined]
        gradient = gradient.redistribute(placements=parameter.placements)  # type: ignore[attr-defined]
    return local(gradient)


def sum_over_shards(squares: Tensor, parameters: Sequence[Tensor]) -> None:
    """Add up, in place, each parameter's entry of `squares` over the processes that hold its shards.

    `squares` is one-dimensional, an entry per parameter. Collective: all processes of the meshes call it alike.
    """
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
            indices = torch.tensor(entries, device=squares.device)
            selected = squares[indices]
            torch.distributed.all_reduce(selected, group=group)
            squares[indices] = selected


def _wait(x: Tensor) -> Tensor:
    """The finished result of a collective that may still be running."""
    return x.wait() if hasattr(x, "wait") and type(x) is not Tensor else x
