"""The second look: each proposed region through the last stage of the network, then its class and its box.

Shapes: P regions over all images, K classes; class 0 of the scores is "nothing", class k the label k - 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import batched_nms, roi_align, roi_pool

from residual.detect import boxes
from residual.detect.sampling import NOTHING, assign, sample


@dataclass(frozen=True, kw_only=True)
class RegionDescription:
    """How regions are judged.  The defaults are Faster R-CNN's for PASCAL VOC.

    pooled: side of the map cut out for each region, before the last stage halves it.
    align: interpolate at exact places (He et al. 2017) instead of rounding to the map's cells and taking maxima (2015).
    batch: regions trained on per image; share: at most so many of them objects.
    positive: overlap from which a region is an object; under it, and from `least` on, it is nothing.
    spread: standard deviations by which the codes of boxes are divided, so that the network tells numbers near one.
    score, overlap, most: of an answer: least probability; overlap of which two of a class the weaker goes; how many.
    """

    pooled: int = 14
    align: bool = False
    batch: int = 64
    share: float = 0.25
    positive: float = 0.5
    least: float = 0.0
    spread: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    score: float = 0.05
    overlap: float = 0.3
    most: int = 100


class RegionHead(nn.Module):
    """The last stage of the network on each region, averaged; one score per class and one box per class.

    stage: (P, C, pooled, pooled) -> (P, width, *).
    """

    def __init__(self, description: RegionDescription, stage: nn.Module, width: int, classes: int, stride: int) -> None:
        super().__init__()
        self.description, self.classes, self.stride = description, classes, stride
        self.stage = stage
        self.score = nn.Linear(width, classes + 1)
        self.box = nn.Linear(width, 4 * classes)
        for layer, std in ((self.score, 0.01), (self.box, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        self.register_buffer("spread", torch.tensor(description.spread), persistent=False)
        self.spread: Tensor

    def forward(self, features: Tensor, regions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """features (N, C, h, w), for each image its regions (P_n, 4) -> scores (P, K + 1), codes (P, K, 4)."""
        side, scale = self.description.pooled, 1 / self.stride
        if self.description.align:
            cut = roi_align(features, list(regions), side, scale, sampling_ratio=2, aligned=True)
        else:
            cut = roi_pool(features, list(regions), side, scale)
        x = self.stage(cut).mean(dim=(2, 3))
        return self.score(x), self.box(x).view(-1, self.classes, 4)

    @torch.no_grad()
    def choose(self, proposals: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """The regions of one image to train on, (B, 4), and the object each stands for or NOTHING, (B,).

        The objects themselves are among the candidates.
        """
        told = self.description
        candidates = torch.cat([objects, proposals])
        assigned = assign(candidates, objects, positive=told.positive, negative=told.positive, least=told.least)
        positive, negative = sample(assigned, told.batch, share=told.share)
        used = torch.cat([positive, negative])
        return candidates[used], assigned[used]

    def loss(
        self,
        scores: Tensor,
        codes: Tensor,
        regions: Sequence[Tensor],
        assigned: Sequence[Tensor],
        objects: Sequence[Tensor],
        labels: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy over the classes, smooth L1 of the codes of the true class; means over all regions."""
        truth, wanted, told = [], [], []
        start = 0
        for region, which, boxes_here, labels_here in zip(regions, assigned, objects, labels, strict=True):
            found = which != NOTHING
            truth.append(torch.zeros_like(which))
            truth[-1][found] = labels_here[which[found]] + 1
            wanted.append(boxes.encode(boxes_here[which[found]], region[found]) / self.spread)
            places = start + found.nonzero().flatten()
            told.append(codes[places, labels_here[which[found]]])
            start += len(region)
        classed = functional.cross_entropy(scores, torch.cat(truth))
        placed = functional.smooth_l1_loss(torch.cat(told), torch.cat(wanted), beta=1.0, reduction="sum") / max(
            start, 1
        )
        return classed, placed

    @torch.no_grad()
    def answer(
        self, scores: Tensor, codes: Tensor, regions: Tensor, size: tuple[float, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (M, 4), labels (M,) and probabilities (M,) of one image of `size`, the surest first."""
        told = self.description
        probabilities = scores.softmax(dim=1)[:, 1:]
        region, label = (probabilities > told.score).nonzero(as_tuple=True)
        sure = probabilities[region, label]
        found = boxes.clip(boxes.decode(codes[region, label] * self.spread, regions[region]), *size)
        kept = batched_nms(found, sure, label, told.overlap)[: told.most]
        return found[kept], label[kept], sure[kept]
