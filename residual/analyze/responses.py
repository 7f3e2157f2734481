"""How strongly each layer responds: figure 7 of the paper.

Shapes: B images at a time, C channels, * spatial axes.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from residual.models.resnet import ResNet

BEFORE_THE_ADDITION = ("original", "relu-before-add", "relu-only")  # orders in which BN follows every convolution


@dataclass
class _Spread:
    """Mean and sum of squared deviations of all values seen so far (Chan, Golub and LeVeque 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: Tensor) -> None:
        variance, mean = (float(each) for each in torch.var_mean(values.float(), correction=0))
        count = values.numel()
        total, shift = self.count + count, mean - self.mean
        self.squares += variance * count + shift**2 * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    @property
    def std(self) -> float:
        return math.sqrt(self.squares / self.count)


@torch.no_grad()
def responses(model: ResNet, batches: Iterable[Tensor]) -> list[float]:
    """Standard deviation of each 3x3 layer's response, in the order of the layers (He et al. 2015, figure 7).

    The response is the output of batch norm behind the convolution, before ReLU or the addition; its deviation is
    taken over all images, positions and channels, which the paper leaves open.  In a residual network it tells the
    strength of F.  batches: normalised images (B, C, *), at least one.
    Refuses an order of layers in which batch norm does not stand between convolution and addition.
    """
    if (order := model.description.order) not in BEFORE_THE_ADDITION:
        raise ValueError(
            f"the response of a layer is what batch norm makes of it before the addition, and order {order!r} has no "
            f"such place; it is defined for the orders: {', '.join(BEFORE_THE_ADDITION)}"
        )
    norms = list(norms_of_3x3(model))
    spreads = [_Spread() for _ in norms]
    with ExitStack() as stack:
        for norm, spread in zip(norms, spreads, strict=True):
            stack.enter_context(told(norm, spread))
        was_training = model.training
        model.eval()
        for images in batches:
            model(images)
        model.train(was_training)
    if not spreads or not spreads[0].count:
        raise ValueError("responses are measured on images, of a network with 3x3 layers; there were none")
    return [spread.std for spread in spreads]


def norms_of_3x3(model: ResNet) -> Iterator[nn.Module]:
    """The batch norm behind each convolution of extent 3, from the stem on; projections have extent 1."""
    for _, module in model.named_modules():
        children = dict(module.named_children())
        for name, child in children.items():
            convolution = isinstance(child, nn.Conv1d | nn.Conv2d | nn.Conv3d)
            if convolution and set(child.kernel_size) == {3}:
                yield children[name.replace("conv", "norm")]


@contextmanager
def told(norm: nn.Module, spread: _Spread) -> Iterator[None]:
    """While this lasts, `spread` sees every output of `norm`, before the ReLU in place that may follow."""
    handle = norm.register_forward_hook(lambda module, inputs, output: spread.add(output))
    try:
        yield
    finally:
        handle.remove()
