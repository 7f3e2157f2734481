"""Several processes, one training: as started by `torchrun`.  The result is that of one process at the same batch."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")

ASK_EVERY = 10  # iterations between the questions that GPUs ask each other


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
        """This process's share of a global batch; refuses a batch that does not divide."""
        count = len(positions)
        if self.size == 1:
            return positions
        if count % (2 * self.size):
            raise ValueError(
                f"a batch of {count} images cannot be shared by {self.size} processes, which each take a number of "
                f"pairs: let the batch be a multiple of {2 * self.size}, or start another number of processes"
            )
        return share_of(positions, self.rank, self.size)


def share_of(rows: Tensor, number: int, shares: int) -> Tensor:
    """Share `number` (from 0) of the rows of a batch, of as many equal shares as said; refuses rows that do not divide.

    Images are mixed with their mirror in the batch (data/transforms.py), so a share is a run of rows and the
    mirrored run: its own mirror is then the global one.  A share of a share is a share of the whole: part k of g of
    share r of n is share g r + k of g n.
    """
    if shares == 1:
        return rows
    if len(rows) % (2 * shares):
        raise ValueError(
            f"{len(rows)} images do not divide into {shares} parts of pairs: let there be a multiple of {2 * shares}"
        )
    half = len(rows) // (2 * shares)
    first = number * half
    return torch.cat([rows[first : first + half], rows[len(rows) - first - half : len(rows) - first]])


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
        store, rank, size = next(iter(rendezvous("env://")))
        if os.environ.get("GROUP_WORLD_SIZE") == "1":
            # torchrun keeps its store over a restart: what a process that died left there must not be taken for that of
            # the one in its place.  Several torchruns count restarts apart; docs/cluster.md says what they need.
            store = dist.PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)  # type: ignore[attr-defined]
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    return world


def leave() -> None:
    """Leave the group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def share(model: nn.Module, world: World, *, drops: bool) -> nn.Module:
    """The model as the processes train it together: gradients are averaged.  Alone: the model itself.

    drops: whether an iteration may leave out parameters, as stochastic depth does.
    The moving averages of batch norms that are not synchronised follow the leader's images.
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


def may_ask(step: int, world: World) -> bool:
    """Whether processes may ask each other something after iteration `step`: on GPUs an answer waits for the device."""
    return world.size == 1 or dist.get_backend() != "nccl" or step % ASK_EVERY == 0


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
