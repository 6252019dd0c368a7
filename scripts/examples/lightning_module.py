"""NovoGrad in a LightningModule. Run: python scripts/examples/lightning_module.py

Lightning unscales and clips as for any optimizer (`Trainer(gradient_clip_val=...)`). NovoGrad needs no extra options.
"""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from novobench.optim import NovoGrad


class Regression(pl.LightningModule):
    """A small network that learns a sum of squares."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 64), nn.GELU(), nn.Linear(64, 1))
        self.losses: list[float] = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        optimizer = NovoGrad(self.parameters(), lr=0.01, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main(epochs: int = 6) -> list[float]:
    """Train; return the losses."""
    pl.seed_everything(0, verbose=False)
    x = torch.randn(4096, 4)
    data = DataLoader(TensorDataset(x, x.square().sum(dim=1, keepdim=True)), batch_size=128, shuffle=True)
    module = Regression()
    trainer = pl.Trainer(
        max_epochs=epochs,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    return module.losses


if __name__ == "__main__":
    losses = main()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
