"""What the processes of `test_sharding` do: train one small net sharded in several ways and compare with one process.

Run as `torchrun --nproc-per-node=N -m tests.optim.sharded FOLDER`; prints one JSON line of largest differences.
"""

import json
import os
import sys
import warnings

os.environ["TRITON_INTERPRET"] = "1"

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from novobench.optim import NovoGrad

PATHS = {
    "loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {},
    "triton": {"fused": True},
}
OPTIONS = {"betas": (0.9, 0.5), "weight_decay": 0.05}
RMS = {"layer_scale": "rms"}
VARIANTS = {"plain": {}, "clipped": {"max_grad_norm": 0.7}, "update_clip": {"update_clip": 0.02}, "rms": RMS}
STEPS = 4


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3), nn.LayerNorm(3), nn.Linear(3, 1))


def batches(step):
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(step))


def train(net, optimizer, steps=range(STEPS), share=slice(None)):
    for step in steps:
        net.zero_grad()
        net(batches(step)[share]).square().mean().backward()
        optimizer.step()


def whole(x):
    return x.full_tensor() if isinstance(x, DTensor) else x


def difference(net, reference):
    mine = dict(net.named_parameters())
    return max(
        float((whole(mine[name].detach()) - wanted.detach()).abs().max())
        for name, wanted in reference.named_parameters()
    )


def alone(**options):
    net = make_net()
    optimizer = NovoGrad(net.parameters(), 0.05, **OPTIONS, **options)
    train(net, optimizer)
    return net, optimizer


def share_of_this_process(world):
    return slice(dist.get_rank() * 8 // world, (dist.get_rank() + 1) * 8 // world)


def main(folder):
    dist.init_process_group("gloo")
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,))
    share = share_of_this_process(world)
    found = {}
    for variant, extra in VARIANTS.items():
        reference, _ = alone(foreach=False, fused=False, **extra)
        for path, chosen in PATHS.items():
            net = make_net()
            for layer in net:
                if isinstance(layer, nn.Linear):
                    fully_shard(layer, mesh=mesh)
            fully_shard(net, mesh=mesh)
            train(net, NovoGrad(net.parameters(), 0.05, **OPTIONS, **chosen, **extra), share=share)
            found[f"fsdp2 {variant} {path}"] = difference(net, reference)

            net = make_net()
            tensor_parallel = {"0": ColwiseParallel(), "2": RowwiseParallel()}  # 3 and 4 stay plain tensors
            parallelize_module(net, mesh, tensor_parallel)
            train(net, NovoGrad(net.parameters(), 0.05, **OPTIONS, **chosen, **extra))
            found[f"tensor parallel {variant} {path}"] = difference(net, reference)
    if world == 4:
        reference, _ = alone()
        for path, chosen in PATHS.items():
            net = make_net()
            fully_shard(net, mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))
            train(net, NovoGrad(net.parameters(), 0.05, **OPTIONS, **chosen), share=share)
            found[f"hsdp {path}"] = difference(net, reference)
    found |= by_hand(mesh) | replicas(share) | checkpoint(mesh, share, folder) | rounded(mesh, share, folder)
    if dist.get_rank() == 0:
        print(json.dumps(found))
    dist.destroy_process_group()


def by_hand(mesh):
    """DTensors with given gradients: an empty shard, columns, a replica, two dtypes, a plain tensor among them."""
    found = {}
    placed = [((1, 5), Shard(0)), ((4, 6), Shard(1)), ((5,), Replicate()), ((7, 3), Shard(0)), ((3,), None)]
    for path, chosen in PATHS.items():
        torch.manual_seed(1)
        values = [torch.randn(shape) for shape, _ in placed]
        plain = [v.clone().requires_grad_() for v in values]
        sharded = [
            (v.clone() if where is None else distribute_tensor(v, mesh, [where])).requires_grad_()
            for v, (_, where) in zip(values, placed, strict=True)
        ]
        optimizers = [NovoGrad(p, 0.1, **OPTIONS, amsgrad=True, **chosen) for p in (plain, sharded)]
        for _ in range(3):
            for one, many, (shape, where) in zip(plain, sharded, placed, strict=True):
                one.grad = torch.randn(shape)
                many.grad = one.grad.clone() if where is None else distribute_tensor(one.grad, mesh, [where])
            # one gradient laid out otherwise than its weight
            sharded[1].grad = distribute_tensor(plain[1].grad, mesh, [Replicate()])
            for optimizer in optimizers:
                optimizer.step()
        found[f"by hand {path}"] = max(
            float((whole(many.detach()) - one.detach()).abs().max()) for one, many in zip(plain, sharded, strict=True)
        )
        seconds = [o.state[p]["exp_avg_sq"] for o, ps in zip(optimizers, (plain, sharded), strict=True) for p in ps]
        half = len(placed)
        found[f"by hand v {path}"] = max(
            float((a - b).abs() / b) for a, b in zip(seconds[half:], seconds[:half], strict=True)
        )
    return found


def replicas(share):
    """DDP, and ZeRO stage 1, where each process holds the state of some parameters."""
    reference, _ = alone()
    found = {}
    for path, chosen in PATHS.items():
        net = DistributedDataParallel(make_net())
        train(net, NovoGrad(net.parameters(), 0.05, **OPTIONS, **chosen), share=share)
        found[f"ddp {path}"] = difference(net.module, reference)
        net = DistributedDataParallel(make_net())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = ZeroRedundancyOptimizer(net.parameters(), NovoGrad, lr=0.05, **OPTIONS, **chosen)
        train(net, optimizer, share=share)
        found[f"zero {path}"] = difference(net.module, reference)
    return found


def checkpoint(mesh, share, folder):
    """Saved from shards after two steps, loaded into whole tensors: the last two steps are the same."""
    reference, _ = alone()
    found = {}
    for path, chosen in PATHS.items():
        where = os.path.join(folder, path)
        net = make_net()
        fully_shard(net, mesh=mesh)
        optimizer = NovoGrad(net.parameters(), 0.05, **OPTIONS, **chosen)
        train(net, optimizer, range(2), share)
        dcp.save({"net": net.state_dict(), "optimizer": get_optimizer_state_dict(net, optimizer)}, checkpoint_id=where)

        other = make_net()  # whole on every process
        resumed = NovoGrad(other.parameters(), 0.05, **OPTIONS, **chosen)
        state = {"net": other.state_dict(), "optimizer": get_optimizer_state_dict(other, resumed)}
        dcp.load(state, checkpoint_id=where)
        other.load_state_dict(state["net"])
        set_optimizer_state_dict(other, resumed, state["optimizer"])
        train(other, resumed, range(2, STEPS))
        found[f"resharded {path}"] = difference(other, reference)
    return found


def rounded(mesh, share, folder):
    """Moments in bf16: equal to one process up to rounding errors, and the same bits if resumed from a checkpoint."""
    options = {"moment_dtype": torch.bfloat16, **OPTIONS}
    reference, _ = alone()
    found = {}
    for path, chosen in PATHS.items():
        nets = []
        for _ in range(3):
            net = make_net()
            fully_shard(net, mesh=mesh)
            nets.append((net, NovoGrad(net.parameters(), 0.05, **options, **chosen)))
        (straight, optimizer), (begun, first), (resumed, second) = nets
        train(straight, optimizer, share=share)
        moments = [optimizer.state[parameter]["exp_avg"] for parameter in straight.parameters()]
        assert all(isinstance(m, DTensor) and m.dtype == torch.bfloat16 for m in moments)
        allowance = 4 * STEPS * 0.05 * 2**-8  # as if no error of m, at most 4 here, were undone by another
        found[f"rounded {path}"] = max(difference(straight, reference) - allowance, 0.0)

        where = os.path.join(folder, f"rounded {path}")
        train(begun, first, range(2), share)
        dcp.save({"net": begun.state_dict(), "optimizer": get_optimizer_state_dict(begun, first)}, checkpoint_id=where)
        state = {"net": resumed.state_dict(), "optimizer": get_optimizer_state_dict(resumed, second)}
        dcp.load(state, checkpoint_id=where)
        resumed.load_state_dict(state["net"])
        set_optimizer_state_dict(resumed, second, state["optimizer"])
        train(resumed, second, range(2, STEPS), share)
        found[f"rounded and resumed {path}"] = max(
            float((whole(a.detach()) - whole(b.detach())).abs().max())
            for a, b in zip(resumed.parameters(), straight.parameters(), strict=True)
        )
    return found


if __name__ == "__main__":
    main(sys.argv[1])
