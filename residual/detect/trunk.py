"""A classifier taken apart for detection: the part that sees the whole image, and the part that sees each region.

Shapes: N images, P regions, C channels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models import vgg16 as build_vgg16
from torchvision.ops import FrozenBatchNorm2d

from residual.models.blocks import as_tensor
from residual.models.description import PRE_ACTIVATION, Description
from residual.models.resnet import ResNet, recomputed

Norm = Literal["batch", "sync", "group"]
GROUPS = 32  # of group normalization (Wu and He 2018), where the channels allow


@dataclass(frozen=True, kw_only=True, eq=False)
class Trunk:
    """What a detector is assembled from.  `c4`, `vgg16` and `pyramid.pyramid` make them; any other will do.

    shared: (N, 3, H, W) -> maps (N, channels, H / stride, W / stride), the finest first, sides rounded up or down.
    strides: pixels of the image to a place, of each map.  levels: regions are cut from the first so many maps.
    stage: (P, channels, pooled, pooled) -> (P, width, *, *): what each region goes through.
    still: modules whose weights stay as they are when a trained classifier is fine-tuned.
    """

    shared: nn.Module
    channels: int
    strides: tuple[int, ...]
    stage: nn.Module
    width: int
    pooled: int
    levels: int = 1
    still: tuple[nn.Module, ...] = ()


class Stages(nn.Module):
    """The stem and the first `count` stages of a ResNet, of which the last `handed` hand on their maps."""

    def __init__(self, net: ResNet, count: int, handed: int) -> None:
        super().__init__()
        if net.description.order in PRE_ACTIVATION:
            raise ValueError(
                f"the network's order is \"{net.description.order}\", but a detector's stages must end in their "
                "activation, and those of a pre-activation network do not; use one of another order"
            )
        self.stem, self.stages, self.handed = net.stem, net.stages[:count], handed
        self.checkpoint, self.draws = net.description.checkpoint, net.description.draws

    def forward(self, images: Tensor) -> list[Tensor]:
        x, outputs = self.stem(images), []
        for stage in self.stages:
            assert isinstance(stage, nn.Sequential)
            for block in stage:
                forget = self.checkpoint and torch.is_grad_enabled()
                x = recomputed(block, x, draws=self.draws) if forget else block(x)
            outputs.append(as_tensor(x))
        return outputs[-self.handed :]


def c4(net: ResNet) -> Trunk:
    """The paper's way (appendix A): conv1 to conv4 for the image, conv5 for each region.  Takes its modules."""
    widths = net.description.outputs
    shared = Stages(net, len(widths) - 1, handed=1)
    return Trunk(
        shared=shared,
        channels=widths[-2],
        strides=(strides(net.description)[-2],),
        stage=net.stages[-1],
        width=widths[-1],
        pooled=14,
        still=(shared.stem, shared.stages[0]),
    )


class Convolutions(nn.Module):
    """A chain of layers that ends in one map."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, images: Tensor) -> list[Tensor]:
        return [as_tensor(self.layers(images))]


def vgg16(net: nn.Module | None = None) -> Trunk:
    """The baseline of tables 7 and 8: conv1_1 to conv5_3 for the image, fc6 and fc7 for each region.

    net: torchvision's `vgg16`, whose modules are taken; None: random weights.  Its first four convolutions stay still.
    """
    whole = build_vgg16(weights=None) if net is None else net
    features, classifier = whole.features, whole.classifier
    assert isinstance(features, nn.Sequential)
    assert isinstance(classifier, nn.Sequential)
    return Trunk(
        shared=Convolutions(features[:-1]),  # without the last pooling
        channels=512,
        strides=(16,),
        stage=nn.Sequential(nn.Flatten(), *classifier[:-1], nn.Unflatten(1, (4096, 1, 1))),
        width=4096,
        pooled=7,
        still=(features[:10],),
    )


def strides(description: Description) -> tuple[int, ...]:
    """Pixels of the image to a place, after each stage."""
    first = 4 if description.stem == "imagenet" else 1
    return tuple(first * 2**stage for stage in range(len(description.depths)))


def normalized(module: nn.Module, norm: Norm) -> None:
    """Each batch norm in the module stays, counts over all processes, or makes way for a new group norm."""
    if norm == "sync":
        convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
        convert(module)
    if norm == "group":
        replace(module, lambda old: nn.GroupNorm(math.gcd(GROUPS, old.num_features), old.num_features))


def freeze(module: nn.Module, still: tuple[nn.Module, ...]) -> None:
    """Each batch norm in the module becomes a fixed scale and shift; what is `still` keeps its weights."""
    replace(module, fixed)
    for each in still:
        each.requires_grad_(False)


def fixed(norm: nn.BatchNorm2d) -> nn.Module:
    """The scale and shift of a batch norm in evaluation, under the same names."""
    made: nn.Module = FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
    made.load_state_dict(norm.state_dict())
    return made


def replace(module: nn.Module, make: Callable[[nn.BatchNorm2d], nn.Module]) -> None:
    """Each batch norm within the module makes way for what is made of it."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, make(child))
        else:
            replace(child, make)
