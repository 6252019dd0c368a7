"""A net with parameters of zero to four dimensions and every role, and its training by an optimizer that novobench
builds from a config: roles, groups, rates, guard and step as in `training.loop`, without Lightning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from novobench.config import CellConfig
from novobench.optim.composite import switchable
from novobench.tasks.base import TaskModule
from novobench.training.guard import GradScaler, Guard
from novobench.training.random_numbers import seed_micro_batch
from novobench.training.rates import optimizer_parts, set_rates

DECAYED = frozenset({"embedding.weight", "hidden.weight", "sequence.weight", "image.weight", "gain", "head.weight"})
"""Parameters of `Net` that decay. The others, biases and normalization, are in groups without decay."""
DEAD = frozenset({"image.bias"})
"""Parameters of `Net` whose gradients are rounding errors, as normalization follows."""
_CPU = torch.device("cpu")


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

    def forward(self, tokens: Tensor) -> Tensor:
        features = self.sequence(torch.tanh(self.hidden(self.embedding(tokens))))
        image = torch.relu(self.norm(self.image(features.view(len(tokens), 2, 3, 4).transpose(2, 3))))
        return self.head(self.gain * image.flatten(1))

    def loss(self, update: int) -> Tensor:
        """Mean squared error on a batch that depends on `update` alone, to targets that the tokens decide."""
        generator = torch.Generator().manual_seed(update)
        tokens = torch.randint(10, (16, 6), generator=generator)
        targets = torch.stack([(tokens[:, i] - tokens[:, i + 3]).float() / 3 for i in range(3)], 1)
        return (self(tokens) - targets.to(self.gain.dtype)).square().mean()

    def _unused(self, *_: Any) -> Any:
        raise NotImplementedError

    evaluation_start = evaluation_end = _unused
    evaluation_step = random_batch = counted = _unused  # type: ignore[assignment]


class Training:
    """`Net` and its optimizer, as a training of a cell drives them."""

    def __init__(
        self,
        config: CellConfig,
        *,
        seed: int = 0,
        half: bool = False,
        dtype: torch.dtype = torch.float32,
        strided: bool = False,
    ) -> None:
        """seed: of the net's first weights. half: in fp16 with a scaled loss. strided: matrices are stored transposed,
        images channels last."""
        self.config = config
        self.net = Net(config, seed).to(dtype)
        if strided:
            for parameter in self.net.parameters():
                parameter.data = _as_strided(parameter.data)
        self.optimizer: Optimizer = self.net.configure_optimizers()
        self.guard = Guard(config, config.total_updates)
        self.guard.start(self.net, self.optimizer)
        self.scaler = GradScaler("cpu", init_scale=2.0**13, growth_interval=100, enabled=half)
        self.half = half
        self.switch("train")

    def switch(self, mode: Literal["train", "eval"]) -> None:
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
        losses: list[Tensor] = []

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=self.half):
                loss = self.net.loss(number)
            self.scaler.scale((loss.float() if self.half else loss) * factor).backward()
            for name in without:
                self.net.get_parameter(name).grad = None
            for name in silent:
                self.net.get_parameter(name).grad.zero_()  # type: ignore[union-attr]
            self.scaler.unscale_(self.optimizer)
            self.guard.before_step(self.optimizer)
            losses.append(loss.detach())
            return loss

        self._step(number, closure, lr)
        return float(losses[0])

    def update_with(self, number: int, gradients: Mapping[str, Tensor], step: Callable[..., Any] | None = None) -> None:
        """One update with these gradients. step: instead of the optimizer's."""

        def closure() -> Tensor:
            for name, parameter in self.net.named_parameters():
                parameter.grad = torch.empty_like(parameter).copy_(gradients[name])
            return torch.zeros(())

        self._step(number, closure, None, step)

    def _step(
        self,
        number: int,
        closure: Callable[[], Tensor],
        lr: float | None,
        step: Callable[..., Any] | None = None,
    ) -> None:
        config = self.config if lr is None else _with_rate(self.config, lr)
        set_rates(optimizer_parts(self.optimizer, self.config.optimizer), number, self.config.total_updates, config)
        seed_micro_batch(0, number, 0, _CPU)
        self.guard.begin_update()
        if self.half or step is not None:
            closure()
            self.scaler.step(self.optimizer) if step is None else step()
        else:
            self.optimizer.step(closure)  # type: ignore[arg-type]
        self.scaler.update()

    def weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.net.named_parameters()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])


def random_gradients(net: Net, seed: int) -> dict[str, Tensor]:
    """Gradients of usual size, by the names of the parameters."""
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(p.shape, generator=generator) for name, p in net.named_parameters()}


def _with_rate(config: CellConfig, lr: float) -> CellConfig:
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, lr=lr))


def _as_strided(tensor: Tensor) -> Tensor:
    if tensor.ndim == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.t().contiguous().t() if tensor.ndim == 2 else tensor
