"""Masks: for each region, of what its box holds, which pixels (Mask R-CNN, He et al. 2017).

On "C4" the mask is made of what the last stage saw of the region; with `convs` it has its own cut and convolutions.
Shapes: P regions over all images, K classes, S the side of a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from residual.detect.cutting import cut
from residual.detect.regions import RegionHead
from residual.detect.trunk import Trunk
from residual.models.blocks import as_tensor


@dataclass(frozen=True, kw_only=True)
class MaskDescription:
    """How masks are told.  The defaults are "C4"'s: 7 x 7 of the last stage become a mask of 14 x 14.

    width: channels of the convolutions.  convs: 3x3 convolutions on an own cut of side `pooled`, whose mask has twice
    that side (4 and 14 on a pyramid: 28 x 28); 0: on what the last stage saw.
    threshold: probability from which a pixel belongs to an object.
    """

    width: int = 256
    convs: int = 0
    pooled: int = 14
    threshold: float = 0.5


class MaskHead(nn.Module):
    """A deconvolution that doubles the side, then a mask of its own for every class."""

    def __init__(self, description: MaskDescription, trunk: Trunk, classes: int) -> None:
        super().__init__()
        self.description = description
        layers: list[nn.Module] = []
        for number in range(description.convs):
            c_in = description.width if number else trunk.channels
            layers += [nn.Conv2d(c_in, description.width, 3, padding=1), nn.ReLU()]
        self.convs = nn.Sequential(*layers) if layers else None
        self.up = nn.ConvTranspose2d(description.width if layers else trunk.width, description.width, 2, stride=2)
        self.mask = nn.Conv2d(description.width, classes, 1)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def see(self, maps: Sequence[Tensor], regions: Sequence[Tensor], head: RegionHead) -> Tensor:
        """What a mask is made of, (P, C, S / 2, S / 2): the own cut, or what the head's stage sees."""
        if self.convs is None:
            return head.see(maps, regions)
        levels = maps[: len(head.strides)]
        return cut(levels, regions, self.description.pooled, head.strides, head.description.cut)

    def forward(self, seen: Tensor) -> Tensor:
        """(P, C, S / 2, S / 2) -> logits (P, K, S, S)."""
        x = seen if self.convs is None else self.convs(seen)
        return as_tensor(self.mask(torch.relu(self.up(x))))

    def loss(self, logits: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
        """Cross-entropy of each pixel of the true class's mask; the masks of other classes cost nothing.

        logits (P, K, S, S), labels (P,), wanted (P, S, S), of regions that hold an object.
        """
        mine = logits[torch.arange(len(labels), device=labels.device), labels]
        summed = functional.binary_cross_entropy_with_logits(mine, wanted, reduction="sum")
        return summed / max(wanted.numel(), 1)
