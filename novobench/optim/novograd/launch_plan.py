"""The fused NovoGrad step on one CUDA device: tables of addresses and layouts, and two launches over all tensors.

What may change from step to step is compared with what the device holds, and sent only if it differs: addresses of
gradients (60 kB for a thousand tensors), rates. Chunks and layouts are sent when shapes, strides or the set of
gradients change. Nothing is ever read from the device.

In a CUDA graph being captured all tables are private to that capture, so that later steps cannot change what a
replay reads. Rates that are to change between replays are tensors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from novobench.optim.novograd import kernels
from novobench.optim.novograd.kernel_tables import NUMBERS, group_numbers, layout_columns
from novobench.optim.novograd.tuning import LaunchSettings, Tuning

DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
"""Weights, gradients and moments may have any of these; arithmetic is fp32."""


class Member(NamedTuple):
    """A parameter that takes part, as its local tensors."""

    group: int
    weight: Tensor
    grad: Tensor
    exp_avg: Tensor
    rate_scale_squared: int = 1
    """See `backend.rate_scale_squared`."""


def current_device(device: torch.device) -> AbstractContextManager[Any]:
    """Makes `device` the current one, which is where Triton launches; may be entered again and again, not nested."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class LaunchPlan:
    """One set of tensors with gradients, on one device, sorted into dtype triples. Immutable but for addresses.

    It keeps no gradient alive: setting them to None frees their memory.
    """

    def __init__(
        self,
        members: Sequence[Member],
        slots: Sequence[int],
        settings: LaunchSettings,
        staging: Staging | None = None,
        *,
        single_launch: bool = False,
        sharded: bool = False,
    ) -> None:
        """`single_launch` prepares `norms_and_update` too; `sharded`: processes talk between norms and update."""
        device = members[0].weight.device
        self.slots, self._current_device = slots, current_device(device)
        self._launch = settings.launch
        self.tuning = settings.single_launch if single_launch else settings.two_launches
        if sharded or not _may_overlap(device):
            self.tuning = replace(self.tuning, overlap=False)
        by_dtypes: dict[tuple[torch.dtype, ...], list[int]] = {}
        for i, member in enumerate(members):
            key = (member.weight.dtype, member.grad.dtype, member.exp_avg.dtype)
            by_dtypes.setdefault(key, []).append(i)
        self.squares = torch.zeros(len(members), dtype=torch.float32, device=device)
        """‖g‖² of each member, in the order of `order_of_squares`."""
        counts = [len(picked) for picked in by_dtypes.values()]
        self.buckets = [
            _Bucket(dtypes, picked, members, slots, squares, staging, self.tuning)
            for (dtypes, picked), squares in zip(by_dtypes.items(), self.squares.split(counts), strict=True)
        ]
        self.table_bytes = sum(bucket.table_bytes for bucket in self.buckets)
        self.decision = torch.zeros(3, dtype=torch.float32, device=device)
        """The result of the kernel `decide`."""
        self.limit = torch.zeros((), dtype=torch.float32, device=device)
        self.limit_value = 0.0

    def order_of_squares(self) -> list[int]:
        """The member that each of `squares` belongs to."""
        return [i for bucket in self.buckets for i in bucket.picked]

    def norms(self, vectors: StateVectors) -> None:
        """First launch: ‖g‖² of each member, and copies of v and of the counters."""
        tuning = self.tuning
        with self._current_device:
            for bucket in self.buckets:
                self._launch(
                    kernels.norms,
                    bucket.chunk_count,
                    bucket.g_address,
                    bucket.layout,
                    bucket.chunks,
                    bucket.partials,
                    bucket.finished,
                    bucket.squares,
                    *vectors.arguments(bucket.rounds),
                    G=DTYPES[bucket.dtypes[1]],
                    AMSGRAD=vectors.amsgrad,
                    ROUND=bucket.rounds,
                    BLOCK=tuning.block,
                    OVERLAP=tuning.overlap,
                    num_warps=tuning.warps,
                    enable_fp_fusion=False,
                )

    def decide(self, limit: float | None, grad_scale: Tensor | None, found_inf: Tensor | None) -> Tensor:
        """Launch for the whole step: s, 1 to take it or 0, and the opposite; without asking the device."""
        if limit is not None and limit != self.limit_value:
            self.limit.fill_(limit)
            self.limit_value = limit
        with self._current_device:
            self._launch(
                kernels.decide,
                1,
                self.squares,
                self.squares.numel(),
                *self._read_by_kernels(grad_scale, found_inf),
                self.limit,
                self.decision,
                SCALED=grad_scale is not None,
                FOUND=found_inf is not None,
                CLIP=limit is not None,
                BLOCK=1024,
                num_warps=4,
                enable_fp_fusion=False,
            )
        return self.decision

    def update(
        self,
        vectors: StateVectors,
        numbers: GroupNumbers,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        decision: Tensor | None,
    ) -> None:
        """Last launch: v, m and the weights."""
        tuning = self.tuning
        overlap = {"launch_pdl": True} if tuning.overlap else {}
        with self._current_device:
            for bucket in self.buckets:
                self._launch(
                    kernels.update,
                    bucket.chunk_count,
                    *bucket.tables,
                    numbers.lr_address,
                    numbers.numbers,
                    bucket.squares,
                    *vectors.arguments(bucket.rounds),
                    *self._read_by_kernels(grad_scale, found_inf),
                    *self._read_by_kernels(decision),
                    DECIDED=decision is not None,
                    REVERSE=tuning.reverse,
                    OVERLAP=tuning.overlap,
                    **self._constants(bucket, vectors, grad_scale, found_inf),
                    **overlap,
                )

    def norms_and_update(
        self, vectors: StateVectors, numbers: GroupNumbers, grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> None:
        """The only launch, where nothing concerns the whole step."""
        with self._current_device:
            for bucket in self.buckets:
                self._launch(
                    kernels.norms_and_update,
                    2 * bucket.chunk_count,
                    bucket.tasks,
                    bucket.taken,
                    bucket.summed,
                    *bucket.tables,
                    numbers.lr_address,
                    numbers.numbers,
                    bucket.partials,
                    bucket.finished,
                    bucket.squares,
                    *vectors.arguments(bucket.rounds),
                    *self._read_by_kernels(grad_scale, found_inf),
                    **self._constants(bucket, vectors, grad_scale, found_inf),
                )

    def _read_by_kernels(self, *scalars: Tensor | None) -> list[Tensor]:
        """The same scalars; a kernel that does not read one gets some tensor in its place."""
        return [self.decision if scalar is None else scalar for scalar in scalars]

    def _constants(
        self, bucket: _Bucket, vectors: StateVectors, grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> dict[str, Any]:
        """What both kernels that update are compiled for."""
        return {
            **{name: DTYPES[dtype] for name, dtype in zip("WGM", bucket.dtypes, strict=True)},
            "SCALED": grad_scale is not None,
            "FOUND": found_inf is not None,
            "AMSGRAD": vectors.amsgrad,
            "ROUND": bucket.rounds,
            "BLOCK": self.tuning.update_block(bucket.rounds),
            "EVICT": self.tuning.evict,
            "num_warps": self.tuning.warps,
            "enable_fp_fusion": False,
        }

    def set_grads(self, addresses: list[int]) -> None:
        """Send new addresses of gradients, in the members' order; everything else about them is as it was."""
        for bucket in self.buckets:
            send([addresses[i] for i in bucket.picked], bucket.g_address)


@lru_cache
def _may_overlap(device: torch.device) -> bool:
    """Whether the GPU has programmatic dependent launch: Hopper and newer."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


class _Bucket:
    """The tables of one dtype triple, with what its kernels keep between launches; see `kernels`."""

    def __init__(
        self,
        dtypes: tuple[torch.dtype, ...],
        picked: list[int],
        members: Sequence[Member],
        slots: Sequence[int],
        squares: Tensor,
        staging: Staging | None,
        tuning: Tuning,
    ) -> None:
        self.dtypes, self.picked, self.squares = dtypes, picked, squares
        self.rounds = (dtypes[0], dtypes[2]) == (torch.float32, torch.bfloat16)
        """Whether m is rounded stochastically."""
        rows: list[int] = []
        chunks: list[int] = []
        for t, i in enumerate(picked):
            member = members[i]
            numel = member.weight.numel()
            starts = range(0, max(numel, 1), tuning.chunk)  # an empty tensor has one chunk too: its v must move on
            rows += [
                numel,
                tuning.chunk,
                len(chunks) // 2,
                len(starts),
                member.group,
                slots[i],
                *layout_columns(*member[1:]),
            ]
            for start in starts:
                chunks += [t, start]
        self.chunk_count = len(chunks) // 2
        tasks = _tasks(chunks[::2], tuning.ahead // (tuning.chunk * dtypes[1].itemsize)) if tuning.ahead else []
        device = squares.device
        mine = [members[i] for i in picked]
        addresses = [[x.data_ptr() for x in part] for part in zip(*(m[1:4] for m in mine), strict=True)]
        self.tasks, self.layout, self.chunks, self.w_address, self.g_address, self.m_address = (
            send(values, torch.empty(len(values), dtype=torch.int64, device=device), staging)
            for values in (tasks, rows, chunks, *addresses)
        )
        self.tables = self.w_address, self.g_address, self.m_address, self.layout, self.chunks
        """What each kernel that updates reads first, in this order."""
        numbers = len(tasks) + len(rows) + len(chunks) + 3 * len(picked)
        self.table_bytes = 8 * numbers + 16 * 6  # each begins at a multiple of 16
        self.partials = torch.zeros(self.chunk_count, dtype=torch.float32, device=device)
        self.taken, self.finished, self.summed = torch.zeros(
            1 + 2 * len(picked), dtype=torch.int64, device=device
        ).split([1, len(picked), len(picked)])


def _tasks(tensor_of: list[int], ahead: int) -> list[int]:
    """The order of work of a single launch: chunk c's norm as c, its update as -1 - c.

    A tensor's chunks are updated last to first, when the norms of `ahead` more chunks have been taken after its own.
    """
    tasks: list[int] = []
    waiting: deque[tuple[int, range]] = deque()  # the chunks to be normed before, and those to be updated
    first = 0
    for chunk, t in enumerate(tensor_of):
        while waiting and chunk >= waiting[0][0]:
            tasks += (-1 - c for c in waiting.popleft()[1])
        tasks.append(chunk)
        if chunk + 1 == len(tensor_of) or tensor_of[chunk + 1] != t:
            waiting.append((chunk + 1 + ahead, range(chunk, first - 1, -1)))
            first = chunk + 1
    for _, updates in waiting:
        tasks += (-1 - c for c in updates)
    return tasks


class StateVectors(NamedTuple):
    """v, with amsgrad the largest v, and with rounded moments their counters, of all parameters of a device, each with
    room for the old values."""

    v: Tensor
    v_old: Tensor
    v_max: Tensor
    v_max_old: Tensor
    counters: Tensor | None
    counters_old: Tensor | None

    @classmethod
    def of(cls, v: Tensor, v_max: Tensor, counters: Tensor | None) -> StateVectors:
        """With `v_max` the same tensor as v: without amsgrad."""
        v_old = torch.empty_like(v)
        counters_old = None if counters is None else torch.empty_like(counters)
        return cls(v, v_old, v_max, v_old if v_max is v else torch.empty_like(v), counters, counters_old)

    @property
    def amsgrad(self) -> bool:
        return self.v_max is not self.v

    def arguments(self, rounds: bool) -> tuple[Tensor | None, ...]:
        """Those of a kernel for moments that are rounded, or for others."""
        return self if rounds else (*self[:4], None, None)


class GroupNumbers:
    """The groups' numbers on the device: sent again only when one changes."""

    def __init__(self, groups: int, device: torch.device, staging: Staging | None = None) -> None:
        self.staging = staging
        self.numbers = torch.zeros(groups * NUMBERS.value, dtype=torch.float32, device=device)
        self.lr = torch.zeros(groups, dtype=torch.float32, device=device)
        self.lr_address = torch.zeros(groups, dtype=torch.int64, device=device)
        self.table_bytes = 4 * self.numbers.numel() + 12 * groups + 16 * 3
        self._sent: dict[str, list[Any]] = {}

    def refresh(self, groups: Sequence[dict[str, Any]]) -> None:
        """Take over the groups' options."""
        self.set([number for group in groups for number in group_numbers(group)], [group["lr"] for group in groups])

    def set(self, numbers: list[float], rates: list[float | Tensor]) -> None:
        """Send what changed. A tensor rate in fp32 on this device is read where it lies."""
        floats, addresses = [], []
        for i, lr in enumerate(rates):
            here = isinstance(lr, Tensor) and lr.dtype == torch.float32 and lr.device == self.lr.device
            floats.append(0.0 if isinstance(lr, Tensor) else lr)
            addresses.append(lr.data_ptr() if here else self.lr.data_ptr() + 4 * i)  # type: ignore[union-attr]
        for name, values in (("numbers", numbers), ("lr", floats), ("lr_address", addresses)):
            if self._sent.get(name) != values:
                send(values, getattr(self, name), self.staging)
                self._sent[name] = values
        for i, lr in enumerate(rates):
            if isinstance(lr, Tensor) and addresses[i] == self.lr.data_ptr() + 4 * i:
                self.lr[i].copy_(lr.reshape(()), non_blocking=True)


class Staging:
    """Pinned memory that is set aside before a CUDA graph is captured and belongs to it from then on.

    A replay copies from it again, and while capturing none may be allocated.
    """

    def __init__(self, size: int) -> None:
        self.memory = torch.empty(size, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        self._used = 0

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """Room for `count` numbers."""
        size = -(-count * dtype.itemsize // 16) * 16
        if self._used + size > len(self.memory):
            raise RuntimeError("NovoGrad: take one step with the same gradients before capturing it in a CUDA graph")
        self._used += size
        return self.memory[self._used - size :][: count * dtype.itemsize].view(dtype)


def send(values: list[Any], to: Tensor, staging: Staging | None = None) -> Tensor:
    """Copy numbers to the device without waiting; torch keeps the pinned memory until the copy is done."""
    host = torch.tensor(values, dtype=to.dtype, pin_memory=to.is_cuda and staging is None)
    if staging is not None:
        host = staging.take(len(values), to.dtype).copy_(host)
    return to.copy_(host, non_blocking=True)
