"""The second look: each proposed region through the last stage of the network, then its class and its box.

Shapes: P regions over all images, W channels, K classes; class 0 of the scores is "nothing", class k the label k - 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import remove_small_boxes

from residual.detect import boxes
from residual.detect.boxes import kept_first
from residual.detect.context import beside, whole
from residual.detect.cutting import Cut, cut
from residual.detect.found import Found
from residual.detect.sampling import NOTHING, assign, sample
from residual.detect.trunk import Trunk
from residual.detect.voting import vote
from residual.models.blocks import as_tensor

SMALLEST = 0.01  # side of an answer, pixels


@dataclass(frozen=True, kw_only=True)
class RegionDescription:
    """How regions are judged.  The defaults are Faster R-CNN's for PASCAL VOC.

    pooled: side of the map cut out for each region; None: what the trunk's stage was made for.  cut: how.
    context: each region is judged beside the whole image (appendix B).
    batch: regions trained on per image; share: at most so many of them objects.
    positive: overlap from which a region is an object; under it, and from `least` on, it is nothing.
    spread: standard deviations by which the codes of boxes are divided, so that the network tells numbers near one.
    score, overlap, most: of an answer: least probability; overlap of which two of a class the weaker goes; how many.
    """

    pooled: int | None = None
    cut: Cut = "pool"
    context: bool = False
    batch: int = 64
    share: float = 0.25
    positive: float = 0.5
    least: float = 0.0
    spread: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    score: float = 0.05
    overlap: float = 0.3
    most: int = 100


class RegionHead(nn.Module):
    """The trunk's stage on each region, averaged; one score per class and one box per class."""

    def __init__(self, description: RegionDescription, trunk: Trunk, classes: int) -> None:
        super().__init__()
        self.description, self.classes, self.strides = description, classes, trunk.strides[: trunk.levels]
        self.pooled = description.pooled or trunk.pooled
        self.stage = trunk.stage
        width = trunk.width * (2 if description.context else 1)
        self.score = nn.Linear(width, classes + 1)
        self.box = nn.Linear(width, 4 * classes)
        for layer, std in ((self.score, 0.01), (self.box, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        self.register_buffer("spread", torch.tensor(description.spread), persistent=False)
        self.spread: Tensor

    def see(self, maps: Sequence[Tensor], regions: Sequence[Tensor]) -> Tensor:
        """For each image its regions (P_n, 4) -> (P, W, *, *)."""
        levels = maps[: len(self.strides)]
        return as_tensor(self.stage(cut(levels, regions, self.pooled, self.strides, self.description.cut)))

    def tell(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """(P, W), or (P, 2 W) with context -> scores (P, K + 1), codes (P, K, 4)."""
        return self.score(seen).float(), self.box(seen).float().view(-1, self.classes, 4)

    def forward(
        self, maps: Sequence[Tensor], regions: Sequence[Tensor], sizes: Sequence[tuple[float, float]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (P, K + 1), codes (P, K, 4) and what was seen of each region (P, W, *, *).

        sizes: (height, width) of each image, which only context needs.
        """
        seen = self.see(maps, regions)
        x = average(seen)
        if self.description.context:
            around = average(self.see(maps, whole(sizes, regions[0])))
            x = beside(x, around, [len(here) for here in regions])
        return *self.tell(x), seen

    def choose(self, proposals: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """The regions of one image to train on, (B, 4), and the object each stands for or NOTHING, (B,).

        The objects themselves are among the candidates.
        """
        told = self.description
        candidates = torch.cat([objects, proposals])
        overlapping = candidates.detach()  # the choice is no part of what is learned
        assigned = assign(overlapping, objects, positive=told.positive, negative=told.positive, least=told.least)
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
        count = max(start, 1)  # none at all costs nothing, where a mean would be NaN
        classed = functional.cross_entropy(scores, torch.cat(truth), reduction="sum") / count
        placed = functional.smooth_l1_loss(torch.cat(told), torch.cat(wanted), beta=1.0, reduction="sum") / count
        return classed, placed

    def judged(
        self, scores: Tensor, codes: Tensor, regions: Tensor, size: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """Probabilities (P, K) and boxes (P, K, 4), on an image of `size`, of its regions (P, 4)."""
        references = regions.repeat_interleave(self.classes, dim=0)
        found = boxes.clip(boxes.decode((codes * self.spread).view(-1, 4), references), *size)
        return scores.softmax(dim=1)[:, 1:], found.view(-1, self.classes, 4)


def average(seen: Tensor) -> Tensor:
    """(P, W, *, *) -> (P, W)."""
    return seen.mean(dim=(2, 3))


@torch.no_grad()
def answer(probabilities: Tensor, boxes: Tensor, told: RegionDescription, *, voters: float | None = None) -> Found:
    """One image's answer from the probabilities (P, K) and boxes (P, K, 4) of its regions.

    voters: overlap from which boxes of a class vote on the place of the one that stays; None: no voting.
    """
    region, label = (probabilities > told.score).nonzero(as_tuple=True)
    sure, found = probabilities[region, label], boxes[region, label]
    large = remove_small_boxes(found, SMALLEST)
    found, label, sure = found[large], label[large], sure[large]
    if voters is not None:
        found, label, sure = vote(found, label, sure, overlap=told.overlap, voters=voters)
        return Found(found[: told.most], label[: told.most], sure[: told.most])
    kept = kept_first(found, sure, label, told.overlap, told.most)
    return Found(found[kept], label[kept], sure[kept])
