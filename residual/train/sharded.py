"""The state of an optimizer, shared out over the processes: ZeRO, stage 1 (Rajbhandari et al. 2020).

Of N processes each keeps the momentum, or LAMB's two means, of one N-th of the parameters, steps those, and hands them
on.  Weights and gradients stay whole in every process.  The steps are those of the whole optimizer, bit for bit.
"""

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.optim import Optimizer

from residual.train.distributed import World


class ShardedState:
    """Keeps the share of this process in `optimizer`, whose state must stand from the beginning.

    What others keep has no values here: it lies on the device "meta", in its place and shape, except between `gather`
    and `forget`.  So a checkpoint can be written by the leader and read by any number of processes, sharded or not.
    """

    def __init__(self, optimizer: Optimizer, world: World) -> None:
        self.optimizer, self.world = optimizer, world
        self.shares: list[list[Tensor]] = [[] for _ in range(world.size)]  # parameters by the rank that steps them
        filled = [0] * world.size
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                rank = filled.index(min(filled))
                self.shares[rank].append(parameter)
                filled[rank] += parameter.numel()
        self.aside: list[tuple[Tensor, Tensor | None]] = []
        self.forget()
        optimizer.register_step_pre_hook(self._set_aside)
        optimizer.register_step_post_hook(self._hand_on)

    def gather(self) -> None:
        """Let the leader have the whole state, in the memory of the CPU.  Every process must call this."""
        for rank, parameters in enumerate(self.shares):
            for parameter in parameters:
                state = self.optimizer.state[parameter]
                for name, value in state.items():
                    mine = rank == self.world.rank
                    box = value.contiguous() if mine else torch.empty(value.shape, device=parameter.device)
                    dist.broadcast(box, rank)
                    if self.world.leads and not mine:
                        state[name] = torch.empty_like(value, device="cpu").copy_(box)

    def forget(self) -> None:
        """Keep this process's share alone."""
        for rank, parameters in enumerate(self.shares):
            if rank != self.world.rank:
                for parameter in parameters:
                    state = self.optimizer.state[parameter]
                    self.optimizer.state[parameter] = {name: value.to("meta") for name, value in state.items()}

    def _set_aside(self, *_: Any) -> None:
        """Before a step: it passes over parameters without a gradient, and so over those of other processes."""
        others = [p for rank, share in enumerate(self.shares) if rank != self.world.rank for p in share]
        self.aside = [(parameter, parameter.grad) for parameter in others]
        for parameter in others:
            parameter.grad = None

    @torch.no_grad()
    def _hand_on(self, *_: Any) -> None:
        """After a step: every process's parameters to all others."""
        for parameter, gradient in self.aside:
            parameter.grad = gradient
        for rank, parameters in enumerate(self.shares):
            if not parameters:
                continue
            flat = torch.cat([parameter.reshape(-1) for parameter in parameters])
            dist.broadcast(flat, rank)
            if rank != self.world.rank:
                pieces = torch.split(flat, [parameter.numel() for parameter in parameters])
                for parameter, piece in zip(parameters, pieces, strict=True):
                    parameter.copy_(piece.view_as(parameter))
