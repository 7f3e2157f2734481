"""Faster R-CNN on a residual network, as in the paper's appendix A: "C4".

    image -> all stages but the last -> regions proposed -> the last stage on each region -> class and box

The stages before the last are shared by both, at stride 16 for ImageNet's networks.  `freeze` turns batch norm into the
fixed scale and shift that the paper used, for want of memory; a network trained from the start keeps it learning.
Shapes: N images, padded to one size (N, 3, H, W), each with its own size; M objects on an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from residual.detect.proposals import ProposalDescription, ProposalNetwork
from residual.detect.regions import RegionDescription, RegionHead
from residual.models.blocks import as_tensor
from residual.models.description import Description
from residual.models.resnet import ResNet


@dataclass(frozen=True, kw_only=True)
class DetectorDescription:
    """A detector, told completely."""

    trunk: Description
    classes: tuple[str, ...]
    proposals: ProposalDescription = field(default_factory=ProposalDescription)
    regions: RegionDescription = field(default_factory=RegionDescription)
    frozen: bool = False  # batch norm as fixed scale and shift, the stem and the first stage not trained


@dataclass(frozen=True)
class Losses:
    """What training minimises the sum of, each a scalar."""

    proposed: Tensor  # whether an anchor holds something
    placed: Tensor  # where
    classed: Tensor  # what a region holds
    boxed: Tensor  # where

    @property
    def total(self) -> Tensor:
        return self.proposed + self.placed + self.classed + self.boxed


class FasterRCNN(nn.Module):
    """Detects in two looks.  `losses` in training, `forward` to detect."""

    def __init__(self, description: DetectorDescription, trunk: ResNet | None = None) -> None:
        """trunk: trained, of the description's network; its classifier is left behind.  None: random weights."""
        super().__init__()
        self.description = description
        net = ResNet(description.trunk) if trunk is None else trunk
        if net.norm is not None:
            raise ValueError("a detector's last stage ends in its activation; a pre-activation network's does not")
        widths = description.trunk.outputs
        stride = (4 if description.trunk.stem == "imagenet" else 1) * 2 ** (len(widths) - 2)
        self.stem, self.stages = net.stem, net.stages[:-1]
        self.proposer = ProposalNetwork(description.proposals, widths[-2], stride)
        self.head = RegionHead(description.regions, net.stages[-1], widths[-1], len(description.classes), stride)
        if description.frozen:
            freeze(self)

    def features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, H / stride, W / stride): what both looks share."""
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return as_tensor(x)

    def losses(
        self, images: Tensor, sizes: Sequence[tuple[float, float]], objects: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> Losses:
        """sizes: (height, width) of each image before padding.  objects: (M, 4) boxes; labels: (M,)."""
        features = self.features(images)
        logits, codes, references = self.proposer(features)
        first, chosen = [], []
        for scores, offsets, here, size in zip(logits, codes, objects, sizes, strict=True):
            first.append(self.proposer.loss(scores, offsets, references, here, size))
            chosen.append(self.head.choose(self.proposer.propose(scores, offsets, references, size), here))
        regions, assigned = [region for region, _ in chosen], [which for _, which in chosen]
        seen, told = self.head(features, regions)
        classed, boxed = self.head.loss(seen, told, regions, assigned, objects, labels)
        return Losses(
            proposed=torch.stack([scored for scored, _ in first]).mean(),
            placed=torch.stack([placed for _, placed in first]).mean(),
            classed=classed,
            boxed=boxed,
        )

    @torch.no_grad()
    def forward(self, images: Tensor, sizes: Sequence[tuple[float, float]]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each image boxes (M, 4), labels (M,) and probabilities (M,), the surest first."""
        features = self.features(images)
        logits, codes, references = self.proposer(features)
        regions = [
            self.proposer.propose(scores, offsets, references, size)
            for scores, offsets, size in zip(logits, codes, sizes, strict=True)
        ]
        seen, told = self.head(features, regions)
        counts = [len(region) for region in regions]
        return [
            self.head.answer(scores, offsets, region, size)
            for scores, offsets, region, size in zip(
                seen.split(counts), told.split(counts), regions, sizes, strict=True
            )
        ]

    def train(self, mode: bool = True) -> "FasterRCNN":
        super().train(mode)
        if self.description.frozen:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


def freeze(detector: FasterRCNN) -> None:
    """Batch norm becomes a fixed scale and shift; the stem and the first stage keep their weights."""
    still = [detector.stem, detector.stages[0]]
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in [*still, *norms]:
        module.requires_grad_(False)
