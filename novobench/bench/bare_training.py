"""A training without a loop around it: a task's module and optimizer on one device, for `throughput` and `resume`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from pytorch_lightning.utilities import move_data_to_device
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from novobench.config import CellConfig
from novobench.tasks import base

_LOSS_SCALE = 2.0**10
"""Scale of fp16 losses: so low that no update is skipped, which would be timed as a fast one."""
_ATTENTION = {
    "fused": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "math": [SDPBackend.MATH],
}
"""Without cuDNN's kernels, as in a training: cuDNN builds a graph for each of its many shapes."""


class Training:
    """A task's module with its optimizer on one device."""

    def __init__(self, config: CellConfig, attention: str = "fused") -> None:
        """`attention="math"` takes PyTorch's plain kernels instead of the fused ones, to see what those are worth."""
        cuda = config.runtime.accelerator != "cpu" and torch.cuda.is_available()
        self.config, self.attention = config, attention
        self.device = torch.device("cuda" if cuda else "cpu")
        self.precision = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(config.runtime.precision)
        torch.set_num_threads(config.runtime.threads)
        self.module, _ = base.build(config)
        self.module.to(self.device)
        self.optimizer = self.module.configure_optimizers()
        self.scaler = torch.amp.GradScaler(
            self.device.type, init_scale=_LOSS_SCALE, enabled=config.runtime.precision == "16-mixed"
        )

    def random_batch(self) -> Any:
        """One micro-batch, on the device."""
        torch.manual_seed(self.config.seed)
        return move_data_to_device(self.module.random_batch(self.config.batch.micro), self.device)

    def backward(self, batch: Any, passes: int = 1, attention: str = "") -> None:
        """Forward and backward of one of `passes` micro-batches per update."""
        with sdpa_kernel(_ATTENTION[attention or self.attention]):
            with torch.autocast(self.device.type, self.precision) if self.precision else nullcontext():
                loss = self.module.training_step(batch, 0)
            assert isinstance(loss, torch.Tensor)
            self.scaler.scale(loss / passes).backward()

    def step(self) -> None:
        """Clip gradients if the config says so, take the optimizer's step and reset the gradients."""
        if self.config.optimizer.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.config.optimizer.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def update(self, batch: Any, passes: int = 1) -> None:
        """One update from `passes` micro-batches."""
        for _ in range(passes):
            self.backward(batch, passes)
        self.step()

    def flop(self, batch: Any) -> int:
        """Floating-point operations of the matrix products and convolutions of an update with one micro-batch."""
        countable = "math" if self.device.type == "cpu" else ""  # the counter lacks the fused attention of CPUs
        with FlopCounterMode(display=False) as counter:
            self.backward(batch, attention=countable)
        self.step()
        return counter.get_total_flops()

    def arithmetic(self) -> str:
        """The arithmetic of matrix products, as `peak` names it; empty for what `peak` does not list."""
        if self.precision is not None:
            return "16-bit"
        convolves = any(isinstance(module, _ConvNd) for module in self.module.modules())
        full_width = torch.get_float32_matmul_precision() == "highest" and not convolves  # cuDNN takes TF32 by default
        return {"32-true": "fp32" if full_width else "tf32"}.get(self.config.runtime.precision, "")

    def state_dict(self) -> dict[str, Any]:
        """The weights and the optimizer's state, as a training's checkpoint holds them."""
        return {
            "model": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.scaler.state_dict(),
            "streams": {k: stream.cpu() for k, stream in self.module.streams.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["precision"])
        self.module.streams = {k: stream.to(self.device) for k, stream in state["streams"].items()}

    def drop(self) -> None:
        """Free the memory of model and optimizer; nothing else can be called afterwards."""
        del self.module, self.optimizer
