"""What has been measured since the last line of metrics.jsonl: sums over iterations and processes."""

from typing import Any

import torch
from torch import Tensor

from residual.train import distributed
from residual.train.distributed import World


class Totals:
    """Loss, errors and images, added up on the device; reading them waits for it."""

    def __init__(self, device: torch.device) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64  # which MPS does not have
        self.sums = torch.zeros(3, dtype=wide, device=device)

    def add(self, loss: Tensor, wrong: Tensor, images: int, world: World) -> Tensor:
        """One iteration of `images` in each process; returns how many were wrong in all of them, on the device."""
        here = torch.stack([loss * images, wrong, torch.full_like(loss, images)])
        everywhere = distributed.total(here, world)
        self.sums += everywhere
        return everywhere[1]

    def take(self) -> tuple[float, float]:
        """Mean loss and error in percent since the last time."""
        loss, wrong, images = self.sums.tolist()
        self.sums.zero_()
        return loss / images, 100 * wrong / images

    def state(self) -> list[float]:
        """What a checkpoint keeps of them."""
        sums: list[float] = self.sums.tolist()
        return sums

    def load(self, state: list[float]) -> None:
        """Continue from `state`."""
        self.sums.copy_(torch.tensor(state, dtype=self.sums.dtype))


class Means:
    """Several numbers of each iteration, by name, added up on the device."""

    def __init__(self, device: torch.device) -> None:
        self.wide = torch.float32 if device.type == "mps" else torch.float64
        self.sums: dict[str, Tensor] = {}
        self.iterations = 0

    def add(self, values: dict[str, Tensor], world: World) -> None:
        """One iteration's; of several processes their mean counts."""
        here = torch.stack([value.detach().to(self.wide) for value in values.values()])
        everywhere = distributed.total(here, world) / world.size
        for name, value in zip(values, everywhere, strict=True):
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.iterations += 1

    def take(self) -> dict[str, float]:
        """The means since the last time."""
        means = {name: float(value) / max(self.iterations, 1) for name, value in self.sums.items()}
        self.sums, self.iterations = {}, 0
        return means

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of them."""
        return {"sums": {name: float(value) for name, value in self.sums.items()}, "iterations": self.iterations}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.sums = {name: torch.tensor(value, dtype=self.wide) for name, value in state["sums"].items()}
        self.iterations = state["iterations"]
