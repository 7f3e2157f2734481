"""A trained detector made ready to answer: the same answers in less time, and no more training.

In evaluation a batch norm is a scale and a shift: they go into the weights of the convolution ahead of it.  What
follows a layer, the addition of a shortcut and a ReLU, is done while its numbers are at hand.  Channels stand last.
"""

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from residual.detect.regions import RegionHead
from residual.models.blocks import Basic, Block, Bottleneck, as_tensor
from residual.models.resnet import Stem

NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)  # SyncBatchNorm and GroupNorm stay as they are


Network = TypeVar("Network", bound=nn.Module)


def ready(net: Network) -> Network:
    """A copy of a detector for inference alone, in evaluation mode.  Float32 on the CPU gains; other devices work too.

    Probabilities agree to 1e-4, boxes to 1e-4 of the image.  Its state dict has other names: what is kept is the net.
    """
    return within(copy.deepcopy(net).eval().requires_grad_(False))


class Fused(nn.Module):
    """A convolution or a fully connected layer with what follows it: a scale and a shift, an addition, a ReLU."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.layer, self.rectified = layer.to(memory_format=torch.channels_last), False

    @property
    def weight(self) -> Tensor:
        return self.layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.layer.bias

    def scale(self, norm: Any) -> None:
        """Take the norm that follows into the weights."""
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        self.layer.weight, self.layer.bias = fuse_conv_bn_weights(self.layer.weight, self.layer.bias, *statistics)

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        layer = self.layer
        if not (x.device.type == "cpu" and x.dtype == layer.weight.dtype == torch.float32 and in_one_step()):
            y = as_tensor(layer(x))
            y = y if plus is None else y + plus
            return torch.relu(y) if self.rectified else y
        # The layers of oneDNN that torch.compile puts in; PyTorch has no public name for them
        steps, after = torch.ops.mkldnn, "relu" if self.rectified else "none"
        if isinstance(layer, nn.Linear):
            return as_tensor(steps._linear_pointwise(x, layer.weight, layer.bias, after, [], ""))
        told = (layer.weight, layer.bias, layer.padding, layer.stride, layer.dilation, layer.groups)
        if plus is None:
            return as_tensor(steps._convolution_pointwise(x, *told, after, [], ""))
        return as_tensor(steps._convolution_pointwise.binary(x, plus, *told, "add", 1.0, after, [], ""))


class Rows(nn.Module):
    """(P, C, S, S) -> (P, S * S * C), channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


class Unit(nn.Module):
    """y = relu(shortcut(x) + F(x)), the addition done with the last layer of F."""

    def __init__(self, first: list[nn.Module], last: Fused, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.first, self.last, self.shortcut = nn.Sequential(*first), last, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return as_tensor(self.last(self.first(x), None if self.shortcut is None else self.shortcut(x)))


def in_one_step() -> bool:
    """Whether PyTorch can do on the CPU what `Fused` says; not under autocast, which does not know these layers."""
    known = torch.backends.mkldnn.enabled and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return bool(known) and not torch.is_autocast_enabled("cpu")


def prepared(module: nn.Module) -> nn.Module:
    """The module, changed, or what takes its place."""
    match module:
        case Fused():
            return module
        case nn.Linear():
            return Fused(module)
        case nn.Conv2d() if module.padding_mode == "zeros" and not isinstance(module.padding, str):
            return Fused(module)
        case Stem():
            layers = [module.conv, module.norm, nn.ReLU(), module.pool]
            return nn.Sequential(*chain(layer for layer in layers if layer is not None))
        case Basic() | Bottleneck() if foldable(module):
            return unit(module)
        case nn.Sequential():
            return nn.Sequential(*chain(module))
    return within(module)


def within(module: Network) -> Network:
    """The module, its parts prepared."""
    for name, child in module.named_children():
        setattr(module, name, prepared(child))
    if isinstance(module, RegionHead) and isinstance(module.stage, nn.Sequential):
        read_as_cut(module.stage, cells=module.pooled**2)
    return module


def chain(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """Layers that follow one another, prepared: norms and ReLUs go into what they follow."""
    found: list[nn.Module] = []
    for layer in layers:
        last = found[-1] if found else None
        if not isinstance(last, Fused) or last.rectified:
            found.append(prepared(layer))
        elif isinstance(last.layer, nn.Conv2d) and isinstance(layer, NORMS):
            last.scale(layer)
        elif isinstance(layer, nn.ReLU):
            last.rectified = True
        else:
            found.append(prepared(layer))
    return found


def read_as_cut(stage: nn.Sequential, *, cells: int) -> None:
    """If a stage begins with a fully connected layer on the `cells` of a cut, that reads them channels last too."""
    if isinstance(stage[0], nn.Flatten) and isinstance(stage[1], Fused):
        layer = stage[1].layer
        stage[0] = Rows()
        by_channel = layer.weight.view(len(layer.weight), -1, cells)
        layer.weight = nn.Parameter(by_channel.transpose(1, 2).flatten(1), requires_grad=False)


def foldable(block: Block) -> bool:
    """Whether it is the paper's unit, its batch norms ahead of the addition, and nothing weighs F."""
    plain = block.order == "original" and block.gate is None and block.survival == block.residual_scale == 1
    return plain and isinstance(block.last_norm, NORMS)


def unit(block: Basic | Bottleneck) -> Unit:
    """A foldable block, prepared."""
    layers = [block.conv1, block.norm1, nn.ReLU(), block.conv2, block.norm2]
    if isinstance(block, Bottleneck):
        layers += [nn.ReLU(), block.conv3, block.norm3]
    *first, last = chain(layers)
    assert isinstance(last, Fused)
    last.rectified = True
    return Unit(first, last, None if block.shortcut is None else prepared(block.shortcut))
