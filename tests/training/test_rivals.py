"""A cell trains as the documented loops of the packages do: the same weights, and the same evaluation, to rounding."""

import itertools

import prodigyopt
import pytest
import schedulefree
import torch

from novobench.tasks import base
from novobench.training import cell, checkpoints
from tests.cells import small_cell, small_config

UPDATES, LR, DECAY = 8, 0.01, 0.05
COMMON = {
    "budget": f"{UPDATES}steps",
    "batch": {"size": 32, "micro": 32},
    "schedule__name": "constant",
    "schedule__warmup": 0,
    "optimizer__lr": LR,
    "optimizer__weight_decay": DECAY,
    "optimizer__decay_factors": {},
    "optimizer__clip_norm": None,
    "runtime__channels_last": False,  # Muon sums in another order
    "runtime__checkpoint_every": 100,
}


def loop(config, make_optimizers, make_scheduler=None):
    """`for batch in loader: zero_grad, loss, backward, step`, as each README prints it."""
    module, data = base.build(config)
    data.setup("fit")
    optimizers = make_optimizers(module)
    schedulers = [make_scheduler(optimizer) for optimizer in optimizers] if make_scheduler else []
    for optimizer in optimizers:
        getattr(optimizer, "train", lambda: None)()
    module.train()
    for batch in data.train_batches(0, UPDATES, 0, 1):
        module.zero_grad()
        module.training_step(batch, 0).backward()
        for each in (*optimizers, *schedulers):
            each.step()
    return module, data, optimizers


def novobenchs(path, **changes):
    folder = small_cell(path, **changes)
    cell.run(folder.path)
    return folder, checkpoints.load_newest(folder.checkpoints)


def assert_same_weights(state, module):
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(state["model"][name], parameter.detach(), rtol=1e-5, atol=1e-7)


def test_muon_with_adamw(tmp_path):
    """https://docs.pytorch.org/docs/stable/generated/torch.optim.Muon.html: hidden matrices, AdamW for the rest."""
    changes = {**COMMON, "optimizer__name": "muon"}

    def optimizers(module):
        named = dict(module.named_parameters())
        hidden = [name for name, p in named.items() if p.ndim == 4]
        rest = [p for name, p in named.items() if name not in hidden]
        assert hidden
        matrices = []
        for name in hidden:  # torch's Muon takes matrices alone: these share memory with the convolutions
            matrix = torch.nn.Parameter(named[name].detach().flatten(1))
            named[name].register_post_accumulate_grad_hook(lambda p, m=matrix: setattr(m, "grad", p.grad.flatten(1)))
            matrices.append(matrix)
        return [
            torch.optim.Muon(matrices, lr=LR, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=LR, weight_decay=DECAY, fused=True),
        ]

    module, *_ = loop(small_config(**changes), optimizers)
    assert_same_weights(novobenchs(tmp_path, **changes)[1], module)


def test_schedule_free(tmp_path):
    """https://github.com/facebookresearch/schedule_free: train(), eval(), statistics of batch norm taken anew."""
    changes = {**COMMON, "optimizer__name": "schedule_free_adamw", "schedule__name": "cosine"}
    module, data, (optimizer,) = loop(
        small_config(**changes),
        lambda module: [schedulefree.AdamWScheduleFree(module.parameters(), lr=LR, weight_decay=DECAY)],
    )
    folder, state = novobenchs(tmp_path, **changes)
    assert_same_weights(state, module)
    optimizer.eval()
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for batch in itertools.islice(data.train_batches(0, 50, 0, 1), 32):  # an epoch
            module.training_step(batch, 0)
    module.eval()
    test = next(split for split in data.evaluation_sets if split.role == "test")
    module.evaluation_start()
    with torch.no_grad():
        for batch in data.evaluation_batches(test.dataset, 0, 1):
            module.evaluation_step(batch)
    expected = module.evaluation_end()
    metrics = folder.read_record().metrics["test"]
    assert metrics["loss"].value == pytest.approx(expected["loss"].value, rel=1e-4)
    assert metrics["top1"].value == pytest.approx(expected["top1"].value)


@pytest.mark.parametrize("warmup", [0, 3])
def test_prodigy(warmup, tmp_path):
    """https://github.com/konstmish/prodigy: lr=1, cosine annealing; with a warm-up `safeguard_warmup=True`."""
    options = {"optimizer__options__d0": 1e-4, "optimizer__options__safeguard_warmup": warmup > 0}
    changes = {**COMMON, "optimizer__name": "prodigy", "optimizer__lr": 1.0, **options, "schedule__name": "cosine"}
    changes |= {"schedule__warmup": f"{warmup}steps"}

    def optimizers(module):
        arguments = {"weight_decay": DECAY, "d0": 1e-4, "safeguard_warmup": warmup > 0}
        return [prodigyopt.Prodigy(module.parameters(), lr=1.0, **arguments)]

    def scheduler(optimizer):
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=UPDATES - warmup)
        if not warmup:
            return cosine
        linear = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (warmup + 1), total_iters=warmup)
        return torch.optim.lr_scheduler.SequentialLR(optimizer, [linear, cosine], [warmup])

    module, _, (optimizer,) = loop(small_config(**changes), optimizers, scheduler)
    _, state = novobenchs(tmp_path, **changes)
    assert_same_weights(state, module)
    assert optimizer.param_groups[0]["d"] > 1e-4  # the estimate has moved
    assert state["optimizer"]["param_groups"][0]["d"] == pytest.approx(optimizer.param_groups[0]["d"])
