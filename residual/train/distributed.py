"""Several processes, one training: as started by `torchrun`.  The result is that of one process at the same batch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from residual.train.average import BATCH_NORMS


@dataclass(frozen=True)
class World:
    """How many processes train together, and which of them this is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and the progress."""
        return self.rank == 0

    def shard(self, positions: Tensor) -> Tensor:
        """This process's consecutive share of a global batch; refuses a batch that does not divide."""
        if len(positions) % self.size:
            raise ValueError(f"a batch of {len(positions)} images cannot be shared evenly by {self.size} processes")
        share = len(positions) // self.size
        return positions[self.rank * share : (self.rank + 1) * share]


def join(device: str) -> World:
    """Join the processes that `torchrun` started (gloo on CPUs, NCCL on GPUs); alone without torchrun."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return world


def leave() -> None:
    """Leave the group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def share(model: nn.Module, world: World) -> nn.Module:
    """The model as the processes train it together: gradients are averaged.  Alone: the model itself."""
    if world.size == 1:
        return model
    # Statistics of all processes' images are already equal, so no buffer needs to be sent around.
    return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)


def agree(value: float, world: World) -> float:
    """The leader's value, in every process: decisions taken from a clock must be the same everywhere."""
    if world.size == 1:
        return value
    box = torch.tensor([value], dtype=torch.float64)
    if dist.get_backend() == "nccl":
        box = box.cuda()
    dist.broadcast(box, 0)
    return float(box)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the images of all processes, on any device (`torch.nn.SyncBatchNorm` needs a GPU)."""

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim >= 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *) -> the same shape, normalised by the statistics of all processes' (B, *)."""
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        wide = x.float()
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        totals = _SumOverProcesses.apply(torch.cat([wide.sum(axes), wide.square().sum(axes), count]))
        channels, count = x.shape[1], totals[-1]
        mean = totals[:channels] / count
        variance = totals[channels : 2 * channels] / count - mean.square()
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            weight = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean, weight)
            self.running_var.lerp_(variance * count / (count - 1), weight)
        shape = [1, channels] + [1] * (x.ndim - 2)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul((self.bias - mean * scale).view(shape), wide, scale.view(shape)).to(x.dtype)


def sync_batch_norms(model: nn.Module) -> nn.Module:
    """Let every batch norm in `model` see the images of all processes.  Names and parameters stay."""
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            module.__class__ = SyncedBatchNorm  # the same parameters and buffers, another forward
    return model


def any_says(yes: bool, world: World) -> bool:
    """Whether any process says yes; every process must ask at the same point."""
    if world.size == 1:
        return yes
    return float(total(torch.tensor([float(yes)]), world)) > 0


def total(values: Tensor, world: World) -> Tensor:
    """The sum of `values` over the processes."""
    if world.size == 1:
        return values
    box = values.cuda() if dist.get_backend() == "nccl" else values.clone()
    dist.all_reduce(box)
    return box.to(values.device)


@contextmanager
def leader_first(world: World) -> Iterator[None]:
    """Let the leader do the block before the others begin it."""
    if world.size > 1 and not world.leads:
        dist.barrier()
    yield
    if world.size > 1 and world.leads:
        dist.barrier()
