"""Faster R-CNN on a residual network, as in the paper's appendix A ("C4"), and its relatives.

    image -> the shared stages -> regions proposed -> the last stage on each region -> class and box, and mask

With `masks` it is Mask R-CNN; with `pyramid` it stands on a feature pyramid; with trunk="vgg16" it is the baseline of
tables 7 and 8.  `frozen` turns batch norm into the fixed scale and shift that the paper used, for want of memory.
Shapes: N images, padded to one size (N, 3, H, W), each with its own size; M objects on an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from residual.detect.found import Found, factor
from residual.detect.masks import MaskDescription, MaskHead
from residual.detect.proposals import ProposalDescription, ProposalNetwork
from residual.detect.pyramid import PyramidDescription, pyramid
from residual.detect.raster import covered, paste
from residual.detect.regions import RegionDescription, RegionHead, answer
from residual.detect.sampling import NOTHING
from residual.detect.trunk import Norm, Trunk, c4, freeze, normalized, vgg16
from residual.models.description import Description
from residual.models.resnet import ResNet

Size = tuple[float, float]  # height, width, pixels


@dataclass(frozen=True, kw_only=True)
class DetectorDescription:
    """A detector, told completely.

    trunk: a residual network, or VGG-16.  pyramid: its feature pyramid instead of its last stage but one.
    masks: with masks, or without.
    frozen: batch norm as fixed scale and shift, the stem and the first stage not trained.
    norm: of the trunk and of all that regions go through; "group" and "sync" are for training from the start.
    """

    trunk: Description | Literal["vgg16"]
    classes: tuple[str, ...]
    pyramid: PyramidDescription | None = None
    proposals: ProposalDescription = field(default_factory=ProposalDescription)
    regions: RegionDescription = field(default_factory=RegionDescription)
    masks: MaskDescription | None = None
    frozen: bool = False
    norm: Norm = "batch"

    def __post_init__(self) -> None:
        if self.pyramid and self.trunk == "vgg16":
            raise ValueError('a pyramid stands on a residual network\'s stages, but trunk is "vgg16"; set pyramid=None')
        if self.regions.pooled and (self.pyramid or self.trunk == "vgg16"):
            raise ValueError(
                f"regions.pooled is {self.regions.pooled}, but fully connected layers see regions of one size; "
                "set pooled=None"
            )
        if self.frozen and self.norm != "batch":
            raise ValueError(
                f'frozen=True fixes the statistics of a trained batch norm, but norm is "{self.norm}", which is made '
                'anew; set frozen=False, or norm="batch"'
            )


@dataclass(frozen=True)
class Losses:
    """What training minimises the sum of, each a scalar."""

    proposed: Tensor  # whether an anchor holds something
    placed: Tensor  # where
    classed: Tensor  # what a region holds
    boxed: Tensor  # where
    masked: Tensor | None = None  # which pixels

    @property
    def total(self) -> Tensor:
        whole = self.proposed + self.placed + self.classed + self.boxed
        return whole if self.masked is None else whole + self.masked


class FasterRCNN(nn.Module):
    """Detects in two looks.  `losses` in training, `forward` to detect.

    Its parts are `shared` (images to maps), `proposer`, `head` and `masker`.
    """

    def __init__(self, description: DetectorDescription, trunk: Trunk | None = None) -> None:
        """trunk: made from trained weights, whose modules become the detector's; None: random weights."""
        super().__init__()
        self.description = description
        trunk = build(description) if trunk is None else trunk
        classes = len(description.classes)
        self.shared = trunk.shared
        self.proposer = ProposalNetwork(description.proposals, trunk.channels, trunk.strides)
        self.head = RegionHead(description.regions, trunk, classes)
        self.masker = None if description.masks is None else MaskHead(description.masks, trunk, classes)
        normalized(self, description.norm)
        if description.frozen:
            freeze(self, trunk.still)

    def losses(
        self,
        images: Tensor,
        sizes: Sequence[Size],
        objects: Sequence[Tensor],
        labels: Sequence[Tensor],
        masks: Sequence[Tensor] | None = None,
    ) -> Losses:
        """sizes: of each image before padding.  objects: (M, 4) boxes; labels: (M,); masks: (M, H, W) bool."""
        maps = self.shared(images)
        look = self.proposer(maps)
        proposed, placed = self.proposer.losses(look, objects, sizes)
        proposals = [self.proposer.propose(look, image, size) for image, size in enumerate(sizes)]
        classed, boxed, masked = self.region_losses(maps, proposals, sizes, objects, labels, masks)
        return Losses(proposed, placed, classed, boxed, masked)

    def region_losses(
        self,
        maps: Sequence[Tensor],
        proposals: Sequence[Tensor],
        sizes: Sequence[Size],
        objects: Sequence[Tensor],
        labels: Sequence[Tensor],
        masks: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the second look's scores, codes and masks cost, on a sample of the proposals and the objects."""
        chosen = [self.head.choose(found, here) for found, here in zip(proposals, objects, strict=True)]
        regions, assigned = [region for region, _ in chosen], [which for _, which in chosen]
        scores, codes, seen = self.head(maps, regions, sizes)
        classed, boxed = self.head.loss(scores, codes, regions, assigned, objects, labels)
        if self.masker is None:
            return classed, boxed, None
        if masks is None:
            raise ValueError("a detector of masks is trained on masks, but the objects have none; give `masks`")
        return classed, boxed, self._mask_loss(maps, seen, regions, assigned, labels, masks)

    def _mask_loss(
        self,
        maps: Sequence[Tensor],
        seen: Tensor,
        regions: Sequence[Tensor],
        assigned: Sequence[Tensor],
        labels: Sequence[Tensor],
        masks: Sequence[Tensor],
    ) -> Tensor:
        assert self.masker is not None
        some = [which != NOTHING for which in assigned]
        held = [region[mine] for region, mine in zip(regions, some, strict=True)]
        which = [each[mine] for each, mine in zip(assigned, some, strict=True)]
        of = torch.cat([here[each] for here, each in zip(labels, which, strict=True)])
        if self.masker.convs is None:
            logits = self.masker(seen[torch.cat(some)])
        else:
            logits = self.masker(self.masker.see(maps, held, self.head))
        side = logits.shape[-1]
        cells = [covered(m, w, r, side) for m, w, r in zip(masks, which, held, strict=True)]
        return self.masker.loss(logits, of, (torch.cat(cells) >= 0.5).to(logits.dtype))

    @torch.no_grad()
    def forward(
        self, images: Tensor, sizes: Sequence[Size], shown: Sequence[tuple[int, int]] | None = None
    ) -> list[Found]:
        """What is found on each image.

        shown: (height, width) of the images for which boxes and masks are told; None: as they are given.
        """
        maps = self.shared(images)
        look = self.proposer(maps)
        answers = []
        for number, size in enumerate(sizes):
            mine = [features[number : number + 1] for features in maps]
            regions = self.proposer.propose(look, number, size)
            scores, codes, _ = self.head(mine, [regions], [size])
            found = answer(*self.head.judged(scores, codes, regions, size), self.description.regions)
            frame = (round(size[0]), round(size[1])) if shown is None else shown[number]
            answers.append(self.outlined(mine, found, factor(size, frame, found.boxes), frame))
        return answers

    def outlined(self, maps: Sequence[Tensor], found: Found, by: Tensor, frame: tuple[int, int]) -> Found:
        """One image's answer on a `frame`, its boxes times `by`; with masks, if the detector makes them."""
        boxes = found.boxes * by
        if self.masker is None:
            return Found(boxes, found.labels, found.scores)
        logits = self.masker(self.masker.see(maps, [found.boxes], self.head))
        mine = logits[torch.arange(len(found), device=logits.device), found.labels].sigmoid()
        outlines = paste(mine, boxes, frame, threshold=self.masker.description.threshold)
        return Found(boxes, found.labels, found.scores, outlines)


def build(description: DetectorDescription) -> Trunk:
    """The described trunk with random weights."""
    if description.trunk == "vgg16":
        return vgg16()
    net = ResNet(description.trunk)
    return c4(net) if description.pyramid is None else pyramid(net, description.pyramid)
