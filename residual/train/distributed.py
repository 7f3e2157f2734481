"""Several processes, one training: as started by `torchrun`.  The result is that of one process at the same batch."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from residual.train.average import BATCH_NORMS

T = TypeVar("T")


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
        """This process's share of a global batch; refuses a batch that does not divide.

        Images are mixed with their mirror in the batch (data/transforms.py), so a share is a run of rows and the
        mirrored run: its own mirror is then the global one.
        """
        count = len(positions)
        if self.size == 1:
            return positions
        if count % (2 * self.size):
            raise ValueError(
                f"a batch of {count} images cannot be shared by {self.size} processes, which each take a number of "
                f"pairs: let the batch be a multiple of {2 * self.size}, or start another number of processes"
            )
        half = count // (2 * self.size)
        first = self.rank * half
        return torch.cat([positions[first : first + half], positions[count - first - half : count - first]])


def join(device: torch.device) -> World:
    """Join the processes that `torchrun` started (gloo on CPUs, NCCL on GPUs); alone without torchrun."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        if world.local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"{torch.cuda.device_count()} GPUs cannot serve process {world.local_rank + 1} on this machine; "
                "start torchrun with as many processes as there are GPUs"
            )
        torch.cuda.set_device(world.local_rank)  # where NCCL puts what it sends
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return world


def leave() -> None:
    """Leave the group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def share(model: nn.Module, world: World, *, drops: bool) -> nn.Module:
    """The model as the processes train it together: gradients are averaged.  Alone: the model itself.

    drops: whether an iteration may leave out parameters, as stochastic depth does.
    """
    if world.size == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=drops)


def agree(value: float, world: World) -> float:
    """The leader's value, in every process: decisions taken from a clock must be the same everywhere."""
    if world.size == 1:
        return value
    box = torch.tensor([value], dtype=torch.float64)
    if dist.get_backend() == "nccl":
        box = box.cuda()
    dist.broadcast(box, 0)
    return float(box)


def from_leader(make: Callable[[], T], world: World) -> T:
    """What `make` returns in the leader, in every process.  Where it fails, all of them fail."""
    if world.size == 1:
        return make()
    box: list[Any] = [None, None]
    failure = None
    if world.leads:
        try:
            box[0] = make()
        except Exception as error:
            failure, box[1] = error, str(error)
    dist.broadcast_object_list(box, 0)
    if failure is not None:
        raise failure
    if box[1] is not None:
        raise ValueError(f"the leading process failed: {box[1]}")
    made: T = box[0]
    return made


class _Gathered(torch.autograd.Function):
    """One row from each process: (F,) -> (processes, F)."""

    @staticmethod
    def forward(context: Any, row: Tensor) -> Tensor:
        rows = [torch.empty_like(row) for _ in range(dist.get_world_size())]
        dist.all_gather(rows, row.contiguous())
        return torch.stack(rows)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]


class SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the images of all processes, on any device (`torch.nn.SyncBatchNorm` needs a GPU)."""

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim >= 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *) -> the same shape, normalised by the statistics of all processes' (B, *)."""
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        channels = x.shape[1]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        here = wide.new_full((1,), x.numel() // channels)
        rows = _Gathered.apply(torch.cat([*torch.var_mean(wide, axes, correction=0), here]))
        variances, means, counts = rows.split([channels, channels, 1], dim=1)
        count = counts.sum()
        # of deviations, not of squares: the difference of two large numbers would leave little
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
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
    """Let the leader do the block before the others begin it; they begin even if it failed there."""
    if world.size > 1 and not world.leads:
        dist.barrier()
    try:
        yield
    finally:
        if world.size > 1 and world.leads:
            dist.barrier()
