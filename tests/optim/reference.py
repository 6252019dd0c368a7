"""NovoGrad in NumPy, float64, written from the paper's Algorithm 1 and equations 4-6, for tests alone."""

import numpy as np
import torch


def _float64(values):
    return values.detach().double().numpy().copy() if isinstance(values, torch.Tensor) else np.array(values, float)


class PaperNovoGrad:
    """One parameter tensor. Options as in the paper; ε also at the first step, as all public code."""

    def __init__(self, weight, lr, betas, eps=1e-8, weight_decay=0.0, **options):
        self.w = _float64(weight)
        self.lr, (self.beta1, self.beta2), self.eps, self.d = lr, betas, eps, weight_decay
        self.options = options
        self.m = self.v = self.v_max = None

    def step(self, gradient, lr=None):
        lr = self.lr if lr is None else lr
        g = _float64(gradient)
        if self.options.get("maximize"):
            g = -g
        square = float((g * g).sum())
        first = self.m is None
        self.v = square if first else self.beta2 * self.v + (1 - self.beta2) * square
        self.v_max = self.v if first else max(self.v_max, self.v)
        v = self.v_max if self.options.get("amsgrad") else self.v
        divisor = np.sqrt(v + self.eps) if self.options.get("eps_inside_sqrt") else np.sqrt(v) + self.eps
        term = g / divisor
        if not self.options.get("decoupled_weight_decay"):
            term = term + self.d * self.w
        if first:
            self.m = term
        else:
            share = 1 - self.beta1 if self.options.get("grad_averaging") else 1.0
            self.m = self.beta1 * self.m + share * term
        clip = self.options.get("update_clip")
        if clip is not None:
            lr = min(lr, clip * np.linalg.norm(self.w) / (np.linalg.norm(self.m) + 1e-8))
        if self.options.get("decoupled_weight_decay"):
            self.w = self.w * (1 - lr * self.d)
        self.w = self.w - lr * self.m
