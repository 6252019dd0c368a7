"""NovoGrad under Lightning's mixed precision gives the same weights as a loop written by hand."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch.nn import functional as F

from novobench.optim import GradScaler, NovoGrad

LIMIT, SCALE, UPDATES = 0.05, 256.0, 6
DTYPE = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


class Net(pl.LightningModule):
    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
        self.options = options

    def training_step(self, batch):
        inputs, labels = batch
        return F.cross_entropy(self.layers(inputs), labels)

    def configure_optimizers(self):
        return NovoGrad(self.parameters(), 0.01, (0.9, 0.5), **self.options)


def batches():
    torch.manual_seed(1)
    return [(torch.randn(32, 8), torch.randint(3, (32,))) for _ in range(UPDATES)]


def scaler(precision, kind=torch.amp.GradScaler):
    return kind("cpu", init_scale=SCALE) if precision == "16-mixed" else None


def by_hand(precision):
    """autocast, unscale, clip, step."""
    net = Net()
    optimizer, scaling = net.configure_optimizers(), scaler(precision)
    for batch in batches():
        with torch.autocast("cpu", DTYPE[precision]):
            loss = net.training_step(batch)
        optimizer.zero_grad()
        (loss if scaling is None else scaling.scale(loss)).backward()
        if scaling is not None:
            scaling.unscale_(optimizer)
        assert torch.nn.utils.clip_grad_norm_(net.parameters(), LIMIT) > LIMIT
        if scaling is None:
            optimizer.step()
        else:
            scaling.step(optimizer)
            scaling.update()
    return net


def trained(net, precision, kind=torch.amp.GradScaler, **options):
    trainer = pl.Trainer(
        accelerator="cpu",
        plugins=MixedPrecision(precision, "cpu", scaler(precision, kind)),
        max_steps=UPDATES,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(net, torch.utils.data.DataLoader(batches(), batch_size=None))
    return net


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*")
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_mixed_precision_and_clipping(precision):
    expected = by_hand(precision).state_dict()
    start = copy.deepcopy(Net().state_dict())
    assert all((expected[name] - start[name]).abs().max() > 1e-3 for name in expected)

    by_lightning = trained(Net(), precision, gradient_clip_val=LIMIT)
    torch.testing.assert_close(by_lightning.state_dict(), expected, rtol=0, atol=0)
    for kind in (torch.amp.GradScaler, GradScaler):
        in_step = trained(Net(unscale_in_step=True, max_grad_norm=LIMIT), precision, kind)
        torch.testing.assert_close(in_step.state_dict(), expected, rtol=1e-5, atol=1e-6)
