"""Optimizers in NumPy, float64, for one parameter tensor each, written from the papers. Only for tests.

`step(gradient, lr)` takes a step. `state` is what torch's and ours keep, by the same names.
"""

import numpy as np
import torch


def _float64(values):
    return values.detach().double().numpy().copy() if isinstance(values, torch.Tensor) else np.array(values, float)


class PaperNovoGrad:
    """The paper's Algorithm 1 and equations 4-6. Options as there; ε also at the first step, as all public code.

    With `layer_scale="rms"`, which is not the paper's, m moves the weight at √n times the rate. n is the number of
    elements, `elements` if a complex number counts as one.
    """

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
        term = g / divisor if divisor else np.zeros_like(g)  # ε = 0 and a zero gradient: 0/0 is taken as 0
        if not self.options.get("decoupled_weight_decay"):
            term = term + self.d * self.w
        if first:
            self.m = term
        else:
            share = 1 - self.beta1 if self.options.get("grad_averaging") else 1.0
            self.m = self.beta1 * self.m + share * term
        clip, rate = self.options.get("update_clip"), lr
        if self.options.get("layer_scale") == "rms":
            rate = lr * np.sqrt(self.options.get("elements", self.w.size))
        if clip is not None:
            rate = min(rate, clip * np.linalg.norm(self.w) / (np.linalg.norm(self.m) + 1e-8))
        if self.options.get("decoupled_weight_decay"):
            # decoupled from what the gradients do, scaling and clipping included
            self.w = self.w * (1 - lr * self.d)
        self.w = self.w - rate * self.m

    @property
    def state(self):
        state = {} if self.m is None else {"exp_avg": self.m, "exp_avg_sq": self.v}
        return state | {"max_exp_avg_sq": self.v_max} if state and self.options.get("amsgrad") else state


class PaperNovoGradModel:
    """`PaperNovoGrad` for all tensors of a model: clipping, gradient scaling and skipping concern them together.

    A norm that is not finite leaves its own tensor alone; with `max_grad_norm`, `skip_nonfinite="step"` or gradients
    that come scaled it leaves all tensors alone. `found_inf` does so, too. A first step with neither gradient nor rate
    does not count: torch.distributed.checkpoint takes one to create state. The clip factor is that of
    `torch.nn.utils.clip_grad_norm_`.
    """

    def __init__(self, weights, settings, max_grad_norm=None, skip_nonfinite="tensor"):
        self.tensors = [PaperNovoGrad(weight, **own) for weight, own in zip(weights, settings, strict=True)]
        self.max_grad_norm, self.skip_nonfinite = max_grad_norm, skip_nonfinite

    def take_over(self, i, weight, state):
        """Continue from the weight and m of another optimizer."""
        self.tensors[i].w = _float64(weight)
        if self.tensors[i].m is not None:
            self.tensors[i].m = _float64(state["exp_avg"])

    def step(self, gradients, rates, grad_scale=None, found_inf=None):
        """`gradients` has None for a missing gradient. Returns which tensors moved."""
        together = self.max_grad_norm is not None or self.skip_nonfinite == "step" or grad_scale is not None
        gradients = [None if g is None else _float64(g) / (grad_scale or 1.0) for g in gradients]
        norms = [0.0 if g is None else np.sqrt((g * g).sum()) for g in gradients]
        norm = np.sqrt(sum(n * n for n in norms))
        moves = [
            g is not None and np.isfinite(n) and not (tensor.m is None and n == 0 and rate == 0)
            for tensor, g, n, rate in zip(self.tensors, gradients, norms, rates, strict=True)
        ]
        if found_inf or (together and not np.isfinite(norm)):
            return [False] * len(moves)
        factor = 1.0 if self.max_grad_norm is None else min(1.0, self.max_grad_norm / (norm + 1e-6))
        for tensor, gradient, rate, move in zip(self.tensors, gradients, rates, moves, strict=True):
            if move:
                tensor.step(factor * gradient, rate)
        return moves


class PaperSGD:
    """Sutskever et al., 2013, with torch's dampening, which spares the first gradient; weight decay in the gradient."""

    def __init__(self, weight, weight_decay, momentum=0.9, dampening=0.0, nesterov=False):
        self.w, self.state = _float64(weight), {}
        self.d, self.momentum, self.dampening, self.nesterov = weight_decay, momentum, dampening, nesterov

    def step(self, gradient, lr):
        g = _float64(gradient) + self.d * self.w
        if self.momentum:
            buffer = self.state.get("momentum_buffer")
            buffer = g if buffer is None else self.momentum * buffer + (1 - self.dampening) * g
            self.state["momentum_buffer"] = buffer
            g = g + self.momentum * buffer if self.nesterov else buffer
        self.w = self.w - lr * g


class PaperAdam:
    """Kingma & Ba, 2015, Algorithm 1, and Loshchilov & Hutter, 2019, where `decoupled`."""

    def __init__(self, weight, weight_decay, betas=(0.9, 0.999), eps=1e-8, amsgrad=False, decoupled=False):
        self.w, self.d, self.eps, self.amsgrad, self.decoupled = _float64(weight), weight_decay, eps, amsgrad, decoupled
        self.beta1, self.beta2 = betas
        self.t, self.m, self.v, self.v_max = 0, 0.0, 0.0, 0.0

    def step(self, gradient, lr):
        g = _float64(gradient)
        if self.decoupled:
            self.w = self.w * (1 - lr * self.d)
        else:
            g = g + self.d * self.w
        self.t += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * g * g
        self.v_max = np.maximum(self.v_max, self.v)
        v = (self.v_max if self.amsgrad else self.v) / (1 - self.beta2**self.t)
        self.w = self.w - lr * self.m / (1 - self.beta1**self.t) / (np.sqrt(v) + self.eps)

    @property
    def state(self):
        found = {"exp_avg": self.m, "exp_avg_sq": self.v} if self.t else {}
        return found | {"max_exp_avg_sq": self.v_max} if found and self.amsgrad else found


class PaperLARS:
    """You et al., 2017, Algorithm 1."""

    def __init__(self, weight, weight_decay, momentum=0.9, trust=0.001, eps=1e-8):
        self.w, self.state = _float64(weight), {}
        self.d, self.momentum, self.trust, self.eps = weight_decay, momentum, trust, eps

    def step(self, gradient, lr):
        g = _float64(gradient)
        size, norm = np.linalg.norm(self.w), np.linalg.norm(g)
        rate = self.trust * size / (norm + self.d * size + self.eps) if size and norm else 1.0
        move = self.momentum * self.state.get("momentum_buffer", 0.0) + lr * rate * (g + self.d * self.w)
        self.state["momentum_buffer"] = move
        self.w = self.w - move


class PaperNormalizedSGD:
    """§2 of the NovoGrad paper, layer by layer."""

    def __init__(self, weight, weight_decay, momentum=0.0, layer_wise=True, eps=1e-8):
        self.w, self.state = _float64(weight), {}
        self.d, self.momentum, self.eps = weight_decay, momentum, eps

    def step(self, gradient, lr):
        g = _float64(gradient)
        move = g / (np.linalg.norm(g) + self.eps) + self.d * self.w
        if self.momentum:
            move = self.state["momentum_buffer"] = self.momentum * self.state.get("momentum_buffer", 0.0) + move
        self.w = self.w - lr * move


class PaperNovoGradVariant:
    """Algorithm 1 of the NovoGrad paper; with `moment`, v divides the sum of raw gradients instead of each gradient."""

    def __init__(
        self, weight, weight_decay, betas=(0.95, 0.25), eps=1e-8, normalize="gradient", initialize_second_moment=True
    ):
        self.w, self.state = _float64(weight), {}
        self.d, (self.beta1, self.beta2), self.eps = weight_decay, betas, eps
        self.moment, self.initialize = normalize == "moment", initialize_second_moment

    def step(self, gradient, lr):
        g = _float64(gradient)
        square = float(np.sum(g * g))
        before = self.state.get("exp_avg_sq", square if self.initialize else 0.0)
        v = self.beta2 * before + (1 - self.beta2) * square
        divisor, m = np.sqrt(v) + self.eps, self.beta1 * self.state.get("exp_avg", 0.0)
        if self.moment:
            m = m + g
            self.w = self.w - lr * m / divisor - lr * self.d / (1 - self.beta1) * self.w
        else:
            m = m + g / divisor + self.d * self.w
            self.w = self.w - lr * m
        self.state = {"exp_avg": m, "exp_avg_sq": v}


class PaperAdafactor:
    """Shazeer & Stern, 2018, Algorithms 4 and 5 without momentum; `lr` bounds the relative step size."""

    def __init__(self, weight, weight_decay, beta2_decay=-0.8, d=1.0):
        self.w, self.state, self.t = _float64(weight), {}, 0
        self.decay, self.beta2_decay, self.d = weight_decay, beta2_decay, d

    def step(self, gradient, lr):
        g = _float64(gradient)
        self.t += 1
        new = self.t**self.beta2_decay
        rate = max(1e-3, np.sqrt(np.mean(self.w**2))) * min(lr, self.t**-0.5)
        self.w = self.w * (1 - lr * self.decay)
        means = {"variance": g**2}
        if g.ndim > 1:
            means = {f"{kind}_var": np.mean(g**2, axis, keepdims=True) for kind, axis in (("row", -1), ("col", -2))}
        self.state |= {name: (1 - new) * self.state.get(name, 0.0) + new * mean for name, mean in means.items()}
        if g.ndim > 1:
            row, column = self.state["row_var"], self.state["col_var"]
            v = row * column / row.mean(-2, keepdims=True)
        else:
            v = self.state["variance"]
        u = g / np.sqrt(v)
        self.w = self.w - rate * u / max(1.0, np.sqrt(np.mean(u**2)) / self.d)
