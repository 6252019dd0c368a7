"""An optimizer whose evaluation weights are the mean of all weights so far."""

import torch


class AveragedSGD(torch.optim.SGD):
    """`train()` undoes `eval()` up to rounding only, as schedule-free optimizers do, and a step in the wrong mode
    fails."""

    novobench_schedule = "constant"

    def __init__(self, params, lr, weight_decay=0.0):
        super().__init__(params, lr, weight_decay=weight_decay)
        for group in self.param_groups:
            group["trains"] = False

    def step(self, closure=None):
        assert all(group["trains"] for group in self.param_groups)
        super().step(closure)
        for parameter, state in self._each():
            state["steps"] = state.get("steps", 0) + 1
            mean = state.setdefault("mean", torch.zeros_like(parameter))
            mean.lerp_(parameter.detach(), 1 / state["steps"])

    @torch.no_grad()
    def train(self):
        for parameter, state in self._switched(True):
            parameter.add_(state["distance"])

    @torch.no_grad()
    def eval(self):
        for parameter, state in self._switched(False):
            state["distance"] = parameter - state["mean"]
            parameter.copy_(state["mean"])

    def _switched(self, trains):
        """What changes if the mode does."""
        was_training = self.param_groups[0]["trains"]
        for group in self.param_groups:
            group["trains"] = trains
        return [(p, state) for p, state in self._each() if "mean" in state and was_training != trains]

    def _each(self):
        return [(p, self.state[p]) for group in self.param_groups for p in group["params"]]
