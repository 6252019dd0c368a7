"""`torch.compile(optimizer.step)` makes one graph of the step, and the graph takes the same steps."""

import copy

import pytest
import torch

from novobench.optim import NovoGrad

BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"foreach": True},
        {"max_grad_norm": 0.5, "amsgrad": True, "grad_averaging": True},
        {"fused": True},
        {"fused": True, "amsgrad": True, "max_grad_norm": 0.5},
        {"fused": True, "skip_nonfinite": "step", "decoupled_weight_decay": True},
    ],
    ids=str,
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
        torch.testing.assert_close(compiled.state[one], eager.state[two], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_fused_step_is_one_operator():
    """The operator is the whole graph's work, so a step takes as few launches as an eager one."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    parameters = [torch.ones(3).requires_grad_(), torch.ones(4, 2).requires_grad_()]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = NovoGrad(parameters, torch.tensor(0.1), fused=True)
    optimizer.step()
    torch.compile(optimizer.step, backend=backend, fullgraph=True)()
    [graph] = graphs
    called = [node.target for node in graph.graph.nodes if node.op.startswith("call")]
    assert [target for target in called if target is not torch._C._set_grad_enabled] == [
        torch.ops.novobench.novograd_update.default
    ]


def test_an_inf_gradient_in_a_compiled_fused_step():
    torch._dynamo.reset()
    parameters = [torch.ones(3).requires_grad_(), torch.ones(4).requires_grad_()]
    optimizer = NovoGrad(parameters, torch.tensor(0.1), fused=True)
    step = torch.compile(optimizer.step, backend="eager", fullgraph=True)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    step()
    before = parameters[0].detach().clone()
    parameters[0].grad[1] = float("inf")
    step()
    assert torch.equal(parameters[0], before)
    assert not torch.equal(parameters[1], torch.full((4,), before[0].item()))
