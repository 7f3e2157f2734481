"""Networks of other implementations with numbers that training could have left: no norm at the identity."""

import torch
from torch import Tensor, nn


def perturbed(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode, its norms' statistics, scales and shifts far from where they start."""
    rng = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, like: Tensor) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=rng)

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(between(-0.3, 0.3, module.running_mean))
            module.running_var.copy_(between(0.5, 2.0, module.running_var))
            module.weight.data.copy_(between(0.5, 1.5, module.weight))
            module.bias.data.copy_(between(-0.3, 0.3, module.bias))
    return model.eval()


@torch.no_grad()
def difference(ours: nn.Module, theirs: nn.Module, side: int = 64) -> float:
    """The largest difference between two networks' logits for two random images, in units of the largest logit."""
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    expected: Tensor = theirs(images)
    return float((ours(images) - expected).abs().max() / expected.abs().max())
