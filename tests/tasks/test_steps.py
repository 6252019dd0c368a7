"""Third-party optimizers take Lightning's closure in different ways, or not at all."""

import pytest
import torch

from novobench.tasks.base import _with_closure_called_first


class Plain(torch.optim.SGD):
    def step(self):
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p -= group["lr"] * p.grad


class Ignores(Plain):
    def step(self, closure=None):
        super().step()


class AnyWords(Plain):
    def step(self, *args, **kwargs):
        super().step()


class Calls(Plain):
    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        super().step()
        return loss


@pytest.mark.parametrize("kind", [Plain, Ignores, AnyWords, Calls, torch.optim.SGD])
def test_the_closure_runs_once_before_the_step(kind):
    w = torch.tensor([3.0], requires_grad=True)
    optimizer = _with_closure_called_first(kind([w], lr=0.1))
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        calls.append(loss.item())
        return loss

    assert optimizer.step(closure=closure).item() == 9.0
    assert w.item() == pytest.approx(3.0 - 0.1 * 6.0)  # by hand: w - lr · 2w
    optimizer.step(closure)
    assert calls == pytest.approx([9.0, 2.4**2])
    optimizer.step()
    assert len(calls) == 2


def test_an_optimizer_that_needs_its_closure_keeps_it():
    w = torch.tensor([3.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=5)
    assert _with_closure_called_first(optimizer) is optimizer
    assert "step" not in vars(optimizer)
