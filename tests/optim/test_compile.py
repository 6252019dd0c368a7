"""Properties of `torch.compile(optimizer.step)`; `test_matrix` compares the numbers of its steps."""

import pytest
import torch

from novobench.optim import NovoGrad
from tests.optim.reference import PaperNovoGrad


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


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_step_updates_0d_fp64_tensors():
    """AOTAutograd loses what is copied into 0-d fp64 tensors on a CPU (torch 2.11), such as v of fp64 parameters."""
    torch._dynamo.reset()
    parameter = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    paper = PaperNovoGrad(parameter, 0.5, (0.9, 0.25))
    optimizer = NovoGrad([parameter], torch.tensor(0.5), (0.9, 0.25))
    step = torch.compile(optimizer.step, backend="aot_eager", fullgraph=True)
    for gradient in (1.0, 3.0):
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        step()
        paper.step(parameter.grad)
    state = optimizer.state[parameter]
    assert parameter.item() == pytest.approx(float(paper.w), rel=1e-12)
    assert state["exp_avg"].item() == pytest.approx(float(paper.m), rel=1e-12)
    assert state["exp_avg_sq"].item() == pytest.approx(paper.v, rel=1e-12)
