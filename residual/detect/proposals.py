"""The region proposal network: from a map of features to boxes that may hold something (Ren et al. 2015).

Shapes: N images, C channels, an h x w map, A anchors at each place.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import nms, remove_small_boxes

from residual.detect import boxes
from residual.detect.anchors import anchors
from residual.detect.sampling import assign, sample


@dataclass(frozen=True, kw_only=True)
class ProposalDescription:
    """How regions are proposed.  The defaults are Faster R-CNN's for PASCAL VOC, on images of 600 pixels.

    sizes, shapes: of the anchors (square root of the area in pixels; height / width).
    width: channels between the map and the answers.
    positive, negative: overlap from which an anchor is trained as an object, under which as nothing.
    batch: anchors trained on per image, at most half of them objects.
    before, after: proposals kept by score before and by score after removing overlaps, in training and in testing.
    overlap: of which two proposals the weaker one goes.  smallest: side below which a proposal goes, pixels.
    """

    sizes: tuple[float, ...] = (128.0, 256.0, 512.0)
    shapes: tuple[float, ...] = (0.5, 1.0, 2.0)
    width: int = 512
    positive: float = 0.7
    negative: float = 0.3
    batch: int = 256
    before: tuple[int, int] = (12_000, 6_000)
    after: tuple[int, int] = (2_000, 300)
    overlap: float = 0.7
    smallest: float = 1.0

    @property
    def anchors(self) -> int:
        return len(self.sizes) * len(self.shapes)


class ProposalNetwork(nn.Module):
    """A 3x3 convolution, then for each anchor a score and four numbers that tell a box."""

    def __init__(self, description: ProposalDescription, channels: int, stride: int) -> None:
        super().__init__()
        self.description, self.stride = description, stride
        self.conv = nn.Conv2d(channels, description.width, 3, padding=1)
        self.score = nn.Conv2d(description.width, description.anchors, 1)
        self.box = nn.Conv2d(description.width, 4 * description.anchors, 1)
        for layer in (self.conv, self.score, self.box):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C, h, w) -> logits (N, R), codes (N, R, 4) and the anchors (R, 4), R = h * w * A."""
        x = torch.relu(self.conv(features))
        logits = self.score(x).permute(0, 2, 3, 1).flatten(1)
        codes = self.box(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4)
        height, width = features.shape[2:]
        told = self.description
        references = anchors(
            height, width, stride=self.stride, sizes=told.sizes, shapes=told.shapes, device=features.device
        )
        return logits, codes, references

    @torch.no_grad()
    def propose(self, logits: Tensor, codes: Tensor, references: Tensor, size: tuple[float, float]) -> Tensor:
        """The proposals of one image of `size` (height, width), the surest first: (P, 4)."""
        told, testing = self.description, int(not self.training)
        surest, order = logits.topk(min(told.before[testing], len(logits)))
        found = boxes.clip(boxes.decode(codes[order], references[order]), *size)
        kept = remove_small_boxes(found, told.smallest)
        found, surest = found[kept], surest[kept]
        return found[nms(found, surest, told.overlap)[: told.after[testing]]]

    def loss(
        self, logits: Tensor, codes: Tensor, references: Tensor, objects: Tensor, size: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """Of one image with `objects` (M, 4): cross-entropy of the scores, smooth L1 of the codes.

        Anchors that reach over the border of the image are not trained on.
        """
        told = self.description
        height, width = size
        inside = (references[:, :2] >= 0).all(1) & (references[:, 2] <= width) & (references[:, 3] <= height)
        if not inside.any():  # a small image: better anchors over its border than none
            inside = torch.ones_like(inside)
        places = inside.nonzero().flatten()
        assigned = assign(references[places], objects, positive=told.positive, negative=told.negative, best=True)
        positive, negative = sample(assigned, told.batch, share=0.5)
        used = torch.cat([positive, negative])
        truth = torch.zeros(len(used), device=logits.device)
        truth[: len(positive)] = 1.0
        scored = functional.binary_cross_entropy_with_logits(logits[places[used]], truth)
        wanted = boxes.encode(objects[assigned[positive]], references[places[positive]])
        told_codes = codes[places[positive]]
        placed = functional.smooth_l1_loss(told_codes, wanted, beta=1 / 9, reduction="sum") / max(len(used), 1)
        return scored, placed
