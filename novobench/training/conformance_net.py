"""A net with parameters of zero to four dimensions and every role, and its training by an optimizer that novobench
builds from a config: roles, groups, rates, guard and step as in `loop`, without Lightning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from novobench import schema
from novobench.config import BatchConfig, CellConfig, OptimizerConfig
from novobench.errors import ConfigError
from novobench.optim import registry
from novobench.optim.composite import switchable
from novobench.optim.schedules import ScheduleSpec
from novobench.tasks.base import TaskModule
from novobench.training.guard import GradScaler, Guard
from novobench.training.random_numbers import seed_micro_batch
from novobench.training.rates import optimizer_parts, set_rates

TOTAL = 12
"""Updates of a training, unless a check needs more."""
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


@dataclass(frozen=True)
class Subject:
    """An optimizer to check."""

    name: str
    """A name in the registry, or a path."""
    lr: float | None = None
    """Its learning rate. None: the middle of its search range, which for a path is the constructor's default, or 0.01
    without one."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Its own options."""
    learned: float = 0.9
    """It has learned if its loss ends below this share of the first one."""

    @property
    def entry(self) -> registry.OptimizerEntry:
        return registry.get(self.name)

    @property
    def rate(self) -> float:
        if self.lr is not None:
            return self.lr
        bounds = self.entry.tunable.get("lr")
        return float(f"{(bounds.low * bounds.high) ** 0.5:.2g}") if bounds else 0.01

    @cached_property
    def takes_groups(self) -> bool:
        """Whether it takes more than one parameter group. Those that do not, such as L-BFGS, train with one."""
        try:
            Training(self.config(grouped=True))
        except Exception:
            return False
        return True

    def config(
        self,
        lr: float | None = None,
        weight_decay: float = 0.1,
        updates: int = TOTAL,
        schedule: str = "cosine",
        grouped: bool = False,
    ) -> CellConfig:
        """A cell with this optimizer. grouped: with a group for the parameters that do not decay. Raises ConfigError
        for options that it does not have."""
        others = registry.get("adamw")
        takes_decay = "weight_decay" in self.entry.takes
        content = {
            "name": self.name,
            "lr": self.rate if lr is None else lr,
            "weight_decay": weight_decay if takes_decay else 0.0,
            "options": dict(self.options),
            "decay_factors": {"@norm": 0.0, "@bias": 0.0} if grouped else {},
        }
        nodes = {"options": self.entry.options, "others.options": others.options}
        optimizer: OptimizerConfig = schema.typed(OmegaConf.create(content), OptimizerConfig, nodes, "--options")
        try:
            registry.validate(self.entry, optimizer.options, optimizer.weight_decay)
        except ValueError as error:
            raise ConfigError(f"--options: {error}") from None
        return CellConfig(
            task="none",
            seed=0,
            budget=f"{updates}steps",
            batch=BatchConfig(size=16, micro=16),
            optimizer=optimizer,
            schedule=ScheduleSpec(name=schedule),  # type: ignore[arg-type]
        )

    def training(
        self,
        *,
        seed: int = 0,
        half: bool = False,
        dtype: torch.dtype = torch.float32,
        strided: bool = False,
        **changes: Any,
    ) -> Training:
        """A training by this optimizer. changes: arguments of `config`; the others are those of `Training`."""
        return Training(
            self.config(**{"grouped": self.takes_groups, **changes}), seed=seed, half=half, dtype=dtype, strided=strided
        )


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


def random_gradients(seed: int) -> dict[str, Tensor]:
    """Gradients of `Net` of usual size."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: parameter.shape for name, parameter in Net(Subject("sgd").config()).named_parameters()}
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """The names of tensors that differ in any bit."""
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def nonfinite(weights: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in weights.items() if not tensor.isfinite().all()]


def first_difference(actual: Any, expected: Any, where: str = "") -> str:
    """The place of the first difference in any bit; empty if there is none. Dicts of `actual` may have further keys:
    torch's optimizers add some as they load a state."""
    if isinstance(expected, Mapping):
        missing = [key for key in expected if key not in actual]
        if missing:
            return f"{where}.{missing[0]}".lstrip(".")
        pairs = [(actual[key], value, f"{where}.{key}".lstrip(".")) for key, value in expected.items()]
    elif isinstance(expected, list | tuple):
        if len(actual) != len(expected):
            return where
        pairs = [(one, other, f"{where}[{i}]") for i, (one, other) in enumerate(zip(actual, expected, strict=True))]
    elif torch.is_tensor(expected):
        same = torch.is_tensor(actual) and actual.dtype == expected.dtype and actual.shape == expected.shape
        return "" if same and torch.equal(_bits(actual), _bits(expected)) else where
    else:
        return "" if actual is expected or actual == expected else where
    return next(filter(None, (first_difference(*pair) for pair in pairs)), "")


def _bits(tensor: Tensor) -> Tensor:
    """The same bits are equal, also those of NaN."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def _with_rate(config: CellConfig, lr: float) -> CellConfig:
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, lr=lr))


def _as_strided(tensor: Tensor) -> Tensor:
    if tensor.ndim == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.t().contiguous().t() if tensor.ndim == 2 else tensor
