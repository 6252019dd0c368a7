"""Which backend takes which parameter: worked out when something changes, and remembered between steps."""

from __future__ import annotations

import itertools
import operator
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from novobench.optim.novograd import cpu, sharding
from novobench.optim.novograd.backend import Backend, Group, State
from novobench.optim.novograd.cpu import CpuBackend
from novobench.optim.novograd.foreach import ForeachBackend
from novobench.optim.novograd.reference import ReferenceBackend
from novobench.optim.novograd.tuning import LaunchSettings

_OPTIONS = ("foreach", "fused", "update_clip", "amsgrad", "capturable")
"""Those of a group's options that decide about its backends."""


class Dispatcher:
    """The backends of an optimizer."""

    def __init__(self) -> None:
        self._signature: list[Any] = []
        self._parameters: list[Tensor] = []
        self._backends: list[Backend] = []

    def backends(
        self, groups: list[Group], state: State, *, single_launch: bool, settings: LaunchSettings
    ) -> list[Backend]:
        """The backends that together take all parameters of `groups`.

        The same ones as at the last call unless a group, its parameters, an option that decides about backends, or the
        state as a whole has changed.
        """
        if torch.compiler.is_compiling():
            return [_backend_to_compile(groups, state)]
        signature: list[Any] = [id(state), id(groups), single_launch, settings]
        for group in groups:
            signature += [id(group), len(group["params"]), group.get("layer_scale")]
            signature += [group[name] for name in _OPTIONS]
        parameters = list(itertools.chain.from_iterable(group["params"] for group in groups))
        unchanged = signature == self._signature and all(map(operator.is_, parameters, self._parameters))
        if not unchanged or not all(backend.is_current() for backend in self._backends):
            self._backends = _assign(groups, state, single_launch, settings)
            self._signature, self._parameters = signature, parameters
        return self._backends


def _assign(groups: list[Group], state: State, single_launch: bool, settings: LaunchSettings) -> list[Backend]:
    by_device: dict[torch.device, list[tuple[int, Tensor]]] = {}
    by_group: dict[tuple[int, torch.dtype], list[Tensor]] = {}
    foreach: list[tuple[Group, Tensor]] = []
    reference: list[tuple[Group, Tensor]] = []
    for index, group in enumerate(groups):
        for parameter in group["params"]:
            if _takes_kernels(group, parameter, settings.device_type):
                by_device.setdefault(parameter.device, []).append((index, parameter))
            elif _takes_cpu_kernel(group, parameter):
                by_group.setdefault((index, parameter.dtype), []).append(parameter)
            elif _takes_foreach(group, parameter):
                foreach.append((group, parameter))
            else:
                reference.append((group, parameter))
    backends: list[Backend] = [CpuBackend(groups[index], members, state) for (index, _), members in by_group.items()]
    if by_device:
        from novobench.optim.novograd.cuda import CudaBackend

        backends += [
            CudaBackend(members, groups, state, settings, single_launch=single_launch) for members in by_device.values()
        ]
    if foreach:
        backends.append(ForeachBackend(foreach, state))
    if reference:
        backends.append(ReferenceBackend(reference, state))
    return backends


def _backend_to_compile(groups: Sequence[Group], state: State) -> Backend:
    """For a graph: the kernels if they take everything on one device, else the reference, which Inductor fuses."""
    members = [(group, parameter) for group in groups for parameter in group["params"]]
    one_device = len({(parameter.device, group["amsgrad"]) for group, parameter in members}) == 1
    if (
        one_device
        and all(_takes_kernels(group, parameter) for group, parameter in members)
        and not any(sharding.is_sharded(parameter) for _, parameter in members)
    ):
        from novobench.optim.novograd.compiled import CompiledBackend

        return CompiledBackend(groups, state)
    return ReferenceBackend(members, state)


def _takes_kernels(group: Group, parameter: Tensor, device_type: str | None = None) -> bool:
    """Whether the Triton kernels take a parameter: the default on CUDA. `device_type` is that of `LaunchSettings`."""
    device, fused = parameter.device.type, group["fused"]
    interpreted = fused and os.environ.get("TRITON_INTERPRET") == "1"
    if group["foreach"] or fused is False or group["update_clip"] is not None:
        return False
    if not (device in ("cuda", device_type) or interpreted):
        return False
    try:
        from novobench.optim.novograd import cuda
    except ImportError:
        if fused:
            raise RuntimeError(
                "`fused=True` needs Triton on CUDA: pip install triton, or leave `fused` unset."
            ) from None
        return False
    return device == (device_type or cuda.device_type()) and cuda.supports(parameter)


def _takes_cpu_kernel(group: Group, parameter: Tensor) -> bool:
    """Whether torch's fused kernel takes a parameter: the default on a CPU."""
    if group["fused"] is False or group["foreach"] or group["capturable"] or group["update_clip"] is not None:
        return False
    return cpu.supports(parameter)


def _takes_foreach(group: Group, parameter: Tensor) -> bool:
    """Of what no kernel takes: if asked for, and by default on CUDA."""
    foreach, fused, device = group["foreach"], group["fused"], parameter.device.type
    if group["capturable"]:
        return False
    if fused and device not in ("cpu", "cuda"):
        raise RuntimeError(f"`fused=True` runs on CPU and CUDA, not on {device}. Leave `fused` unset.")
    return foreach or (foreach is None and device == "cuda")
