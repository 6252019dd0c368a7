"""`torch.compile(optimizer.step)` makes one graph of the step, and the graph takes the same steps."""

import copy

import pytest
import torch

from novobench.optim import NovoGrad

BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options", [{}, {"foreach": True}, {"max_grad_norm": 0.5, "amsgrad": True, "grad_averaging": True}], ids=str
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_step_is_one_graph_and_the_same_step(backend, options):
    torch._dynamo.reset()
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    other = copy.deepcopy(net)
    lr = torch.tensor(0.1)
    compiled = NovoGrad(net.parameters(), lr, weight_decay=0.1, **options)
    eager = NovoGrad(other.parameters(), lr, weight_decay=0.1, **options)
    step = torch.compile(compiled.step, backend=backend, fullgraph=True)
    for _ in range(4):
        x = torch.randn(7, 5)
        for one in (net, other):
            one.zero_grad()
            one(x).square().mean().backward()
        step()
        eager.step()
        lr.mul_(0.9)
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
