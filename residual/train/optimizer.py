"""Stochastic gradient descent with momentum, and what weight decay applies to."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """v <- momentum v + g + decay w;  w <- w - rate v.

    decay_all: False spares batch-norm scales, shifts and biases (Goyal et al. 2017; Jia et al. 2018); the
    paper says only "a weight decay of 0.0001".
    """

    momentum: float = 0.9
    nesterov: bool = False
    decay: float = 1e-4
    decay_all: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is at least 0 and below 1, got {self.momentum}")
        if self.nesterov and not self.momentum:
            raise ValueError("Nesterov's step looks ahead along the momentum, and there is none: set nesterov=False")
        if not 0 <= self.decay < 1:
            raise ValueError(f"weight decay is at least 0 and below 1, got {self.decay}")


def make_optimizer(model: nn.Module, description: Sgd) -> torch.optim.SGD:
    """The optimizer over all parameters of `model`; the rate is set by the loop before every iteration.

    The momentum stands from the beginning, as zeros.  PyTorch makes it of the first gradient, which is the same;
    but its fused form fails where that comes later for some parameters, as for blocks that were dropped at first.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [p for p in parameters if description.decay_all or p.ndim > 1]
    spared = [p for p in parameters if not description.decay_all and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": description.decay}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    optimizer = torch.optim.SGD(
        groups,
        lr=0.0,
        momentum=description.momentum,
        nesterov=description.nesterov,
        fused=parameters[0].device.type in ("cpu", "cuda"),
    )
    if description.momentum:
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
