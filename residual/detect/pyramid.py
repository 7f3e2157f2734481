"""Feature pyramids, the modern neighbour of "C4" (Lin et al. 2017): maps of every stage, as rich as the last one.

    stage 2 ... stage 5 -> 1x1 to one width, the coarser map doubled and added, 3x3 -> maps at strides 4 to 32, and 64

Proposals come from all five maps, regions are cut from the one of the first four that fits their size.
"""

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork

from residual.detect.trunk import Stages, Trunk, strides
from residual.models.resnet import ResNet


@dataclass(frozen=True, kw_only=True)
class PyramidDescription:
    """width: channels of every map.  hidden: neurons of both fully connected layers that each region goes through."""

    width: int = 256
    hidden: int = 1024


class Pyramid(nn.Module):
    """(N, 3, H, W) -> the map of each stage and a last one at twice the stride, (N, width, *, *) each."""

    def __init__(self, net: ResNet, width: int) -> None:
        super().__init__()
        stages = len(net.stages)
        self.body = Stages(net, stages, handed=stages)
        self.fpn = FeaturePyramidNetwork(list(net.description.outputs), width)

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs = OrderedDict((str(number), x) for number, x in enumerate(self.body(images)))
        maps = list(self.fpn(outputs).values())
        return [*maps, functional.max_pool2d(maps[-1], 1, stride=2)]


def pyramid(net: ResNet, description: PyramidDescription) -> Trunk:
    """The stages for the image, two fully connected layers for each region.  Takes the network's modules."""
    width, hidden, pooled = description.width, description.hidden, 7
    shared, steps = Pyramid(net, width), strides(net.description)
    stage = nn.Sequential(
        nn.Flatten(),
        nn.Linear(width * pooled**2, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Unflatten(1, (hidden, 1, 1)),
    )
    return Trunk(
        shared=shared,
        channels=width,
        strides=(*steps, 2 * steps[-1]),
        stage=stage,
        width=hidden,
        pooled=pooled,
        levels=len(steps),
        still=(shared.body.stem, shared.body.stages[0]),
    )
