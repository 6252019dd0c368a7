"""NovoGrad in a timm-style script, with timm's weight-decay groups and scheduler. Needs `pip install timm`.

Run: python scripts/examples/timm_script.py
"""

import timm
import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch.nn import functional as F

from novobench.optim import NovoGrad


def main(updates: int = 40) -> list[float]:
    """Train a small ResNet to detect a bright upper half in noisy images; return the losses."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2, in_chans=3)
    groups = param_groups_weight_decay(model, weight_decay=1e-3)
    optimizer = NovoGrad(groups, lr=0.02, betas=(0.95, 0.98))
    scheduler = CosineLRScheduler(optimizer, t_initial=updates, warmup_t=5, warmup_lr_init=1e-3, t_in_epochs=False)
    losses = []
    for update in range(updates):
        labels = torch.randint(2, (32,))
        images = torch.randn(32, 3, 64, 64)
        images[:, :, :32] += labels.view(-1, 1, 1, 1)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step_update(update + 1)
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    losses = main()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
