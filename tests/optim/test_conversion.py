"""States of other NovoGrad implementations continue in this one."""

import pytest
import torch
from timm.optim.nvnovograd import NvNovoGrad

from novobench.optim import NovoGrad, convert_state_dict
from tests.optim.reference import PaperNovoGrad


def give(parameters, step):
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def weights(*dtypes):
    torch.manual_seed(0)
    return [torch.randn(4, 3).to(dtype).requires_grad_() for dtype in dtypes]


@pytest.mark.parametrize("options", [{}, {"amsgrad": True, "grad_averaging": True}, {"decoupled_decay": True}], ids=str)
def test_timm(options):
    theirs = weights(torch.float32, torch.float32, torch.float32)
    groups = [{"params": theirs[:1], "lr": 0.05}, {"params": theirs[1:], "weight_decay": 0.1}]
    other = NvNovoGrad(groups, lr=0.02, betas=(0.95, 0.7), **options)
    for step in range(3):
        give(theirs[:2], step)  # the last one has no gradient yet
        other.step()
    mine = [p.detach().clone().requires_grad_() for p in theirs]
    optimizer = NovoGrad([{"params": mine[:1]}, {"params": mine[1:]}], 1.0)
    optimizer.load_state_dict(convert_state_dict(other.state_dict(), mine))
    late = 3 if options.get("grad_averaging") else 2  # timm averages at a tensor's first step too
    for step in range(3, 8):
        give(theirs[:late], step)
        give(mine[:late], step)
        other.step()
        optimizer.step()
    for one, two in list(zip(theirs, mine, strict=True))[:2]:
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_group_entries_of_other_programs_are_kept():
    """A scheduler's first rate, timm's own factor, names; and a scheduler that asks for them can be made."""
    theirs = [torch.nn.Parameter(p.detach()) for p in weights(torch.float32, torch.float32)]
    groups = [{"params": [(f"layer{i}", p)], "lr_scale": 0.5 + i, "name": f"group {i}"} for i, p in enumerate(theirs)]
    other = NvNovoGrad(groups, lr=0.2)
    torch.optim.lr_scheduler.StepLR(other, 1)
    give(theirs, 0)
    other.step()
    optimizer = NovoGrad([{"params": [p]} for p in theirs], 1.0)
    optimizer.load_state_dict(convert_state_dict(other.state_dict(), theirs))
    kept = ("initial_lr", "lr_scale", "name", "param_names", "lr", "weight_decay")
    for mine, before in zip(optimizer.param_groups, other.param_groups, strict=True):
        assert {key: mine[key] for key in kept} == {key: before[key] for key in kept}
        assert not {"decoupled_decay", "corrected_weight_decay"} & mine.keys()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, last_epoch=1)  # asks for initial_lr
    assert scheduler.base_lrs == [0.2, 0.2]

    apex = Apex(theirs, 0.02, (0.95, 0.7), 0.05)
    apex.step()
    optimizer = NovoGrad(theirs, 1.0)
    optimizer.load_state_dict(convert_state_dict(apex.state_dict(initial_lr=0.3, name="all"), theirs))
    group = optimizer.param_groups[0]
    assert (group["initial_lr"], group["name"], group["lr"]) == (0.3, "all", 0.02)
    assert not {"norm_type", "bias_correction", "init_zero", "exp_avg_sq", "step"} & group.keys()


class Apex:
    """A state in the layout of apex's FusedNovoGrad (paper mode), made from the paper's algorithm: apex needs a GPU."""

    def __init__(self, parameters, lr, betas, weight_decay):
        self.parameters, self.settings = parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        self.each = [PaperNovoGrad(p, lr, betas, weight_decay=weight_decay) for p in parameters]

    def step(self):
        for parameter, one in zip(self.parameters, self.each, strict=True):
            one.step(parameter.grad)
            parameter.data = torch.from_numpy(one.w).to(parameter.dtype)

    def state_dict(self, **changes):
        norms = [
            torch.tensor([one.v**0.5 for p, one in zip(self.parameters, self.each, strict=True) if p.dtype is dtype])
            for dtype in (torch.float16, torch.float32)
        ]
        group = {"bias_correction": False, "grad_averaging": False, "norm_type": 2, "init_zero": False, "eps": 1e-8}
        group |= {**self.settings, "step": 3, "exp_avg_sq": norms, "params": list(range(len(self.each)))} | changes
        moments = {
            i: {"exp_avg": torch.from_numpy(one.m).to(p.dtype)}
            for i, (p, one) in enumerate(zip(self.parameters, self.each, strict=True))
        }
        return {"state": moments, "param_groups": [group]}


def test_apex_keeps_norms_by_position_and_precision():
    theirs = weights(torch.float32, torch.float16, torch.float32)
    other = Apex(theirs, 0.02, (0.95, 0.7), 0.05)
    for step in range(3):
        give(theirs, step)
        other.step()
    mine = [p.detach().clone().requires_grad_() for p in theirs]
    optimizer = NovoGrad(mine, 1.0)
    optimizer.load_state_dict(convert_state_dict(other.state_dict(), mine))
    for step in range(3, 6):
        give(theirs, step)
        give(mine, step)
        other.step()
        optimizer.step()
    for one, two in zip(theirs, mine, strict=True):
        half = one.dtype is torch.float16
        torch.testing.assert_close(one.detach(), two.detach(), rtol=5e-3 if half else 1e-5, atol=5e-3 if half else 1e-6)


def test_a_state_that_cannot_be_converted_is_named():
    parameters = weights(torch.float32, torch.float32)
    apex = Apex(parameters, 0.02, (0.95, 0.7), 0.05)
    give(parameters, 0)
    apex.step()
    with pytest.raises(ValueError, match="bias_correction=True"):
        convert_state_dict(apex.state_dict(bias_correction=True), parameters)
    with pytest.raises(ValueError, match="norm_type=0"):
        convert_state_dict(apex.state_dict(norm_type=0), parameters)
    with pytest.raises(ValueError, match="2 parameters, but 1 were given"):
        convert_state_dict(apex.state_dict(), parameters[:1])
    with pytest.raises(ValueError, match="more norms than parameters|fewer norms"):
        convert_state_dict(apex.state_dict(), [parameters[0], parameters[1].half()])
    adam = torch.optim.Adam(parameters)
    with pytest.raises(ValueError, match="neither a state of apex's FusedNovoGrad nor of timm's"):
        convert_state_dict(adam.state_dict(), parameters)
    timm = NvNovoGrad(parameters, lr=0.1)
    state = timm.state_dict()
    state["param_groups"][0]["corrected_weight_decay"] = True
    with pytest.raises(ValueError, match="corrected_weight_decay"):
        convert_state_dict(state, parameters)
