"""NovoGrad in a plain PyTorch loop, with mixed precision on a GPU.

Run: python scripts/examples/plain_pytorch.py

The step also clips, and on a GPU unscales, in the same pass over the gradients: `max_grad_norm` and `unscale_in_step`
replace `clip_grad_norm_` and `scaler.unscale_`.
"""

import torch
from torch import nn

from novobench.optim import NovoGrad


def main(steps: int = 200) -> list[float]:
    """Fit a small network to a sum of squares; return the losses."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = nn.Sequential(nn.Linear(4, 64), nn.GELU(), nn.Linear(64, 1)).to(device)
    optimizer = NovoGrad(net.parameters(), lr=0.01, weight_decay=1e-4, max_grad_norm=1.0, unscale_in_step=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
    losses = []
    for _ in range(steps):
        x = torch.randn(128, 4, device=device)
        with torch.autocast(device, torch.float16, enabled=device == "cuda"):
            loss = nn.functional.mse_loss(net(x).float(), x.square().sum(dim=1, keepdim=True))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    losses = main()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
