"""The step: stochastic gradient descent with momentum, or LAMB; and what weight decay applies to."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


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


@dataclass(frozen=True, kw_only=True)
class Lamb:
    """Adam's step with decoupled decay, as long as the weights it changes (You et al. 2020, algorithm 2).

    m <- mean m + (1 - mean) g;  v <- square v + (1 - square) g^2, both divided by 1 - mean^t and 1 - square^t;
    u = m / (sqrt v + epsilon) + decay w;  w <- w - rate |w| / |u| u.
    Batch-norm scales, shifts and biases take Adam's step as it is, without decay.
    """

    mean: float = 0.9
    square: float = 0.999
    epsilon: float = 1e-6
    decay: float = 0.01

    def __post_init__(self) -> None:
        for name in ("mean", "square", "decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"LAMB's {name} is at least 0 and below 1, got {getattr(self, name)}")
        if not self.epsilon > 0:
            raise ValueError(f"LAMB's epsilon keeps a division from zero and is above it, got {self.epsilon}")


def make_optimizer(model: nn.Module, description: Sgd | Lamb) -> torch.optim.Optimizer:
    """The optimizer over all parameters of `model`; the rate is set by the loop before every iteration.

    Its state stands from the beginning, as zeros.  PyTorch makes the momentum of the first gradient, which is the same;
    but its fused form fails where that comes later for some parameters, as for blocks that were dropped at first.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    everything = isinstance(description, Sgd) and description.decay_all
    decayed = [p for p in parameters if everything or p.ndim > 1]
    spared = [p for p in parameters if not everything and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": description.decay}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    if isinstance(description, Lamb):
        return LambOptimizer(groups, mean=description.mean, square=description.square, epsilon=description.epsilon)
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


class LambOptimizer(torch.optim.Optimizer):
    """LAMB, which PyTorch has not, as `Lamb` describes it; nothing in a step waits for a GPU."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, mean: float, square: float, epsilon: float) -> None:
        super().__init__(groups, {"lr": 0.0, "mean": mean, "square": square, "epsilon": epsilon})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = {
                    "steps": torch.zeros((), device=parameter.device),
                    "mean": torch.zeros_like(parameter),
                    "square": torch.zeros_like(parameter),
                }

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step along the gradients; a parameter without one stays, with its means."""
        assert closure is None, "the gradients are there already"
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._step(group, weights, [p.grad for p in weights])

    def _step(self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> None:
        steps, means, squares = ([self.state[p][name] for p in weights] for name in ("steps", "mean", "square"))
        torch._foreach_add_(steps, 1.0)
        torch._foreach_lerp_(means, gradients, 1 - group["mean"])
        torch._foreach_mul_(squares, group["square"])
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["square"])

        def unbiased(decay: float) -> list[Tensor]:
            """1 - decay^t: what the means have seen of the gradients yet."""
            powers = torch._foreach_pow(decay, steps)
            return [1 - power for power in powers]

        updates = torch._foreach_div(means, unbiased(group["mean"]))
        sizes = torch._foreach_sqrt(torch._foreach_div(squares, unbiased(group["square"])))
        torch._foreach_add_(sizes, group["epsilon"])
        torch._foreach_div_(updates, sizes)
        if group["weight_decay"]:
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
            long, wide = (torch.stack(torch._foreach_norm(each)) for each in (weights, updates))
            ratios = torch.where((long > 0) & (wide > 0), long / wide, 1.0)  # weights of zero take the bare step
            torch._foreach_mul_(updates, list(ratios.unbind()))
        torch._foreach_mul_(updates, group["lr"])  # which may be a tensor (train/graph.py)
        torch._foreach_sub_(weights, updates)
