"""The region proposal network: from a map of features to boxes that may hold something (Ren et al. 2015).

Shapes: N images, C channels, h x w maps, A anchors at each place, R of them in all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import remove_small_boxes

from residual.detect import boxes
from residual.detect.anchors import Stand, anchors
from residual.detect.sampling import assign, sample
from residual.models.blocks import relu


@dataclass(frozen=True, kw_only=True)
class ProposalDescription:
    """How regions are proposed.  The defaults are Faster R-CNN's for PASCAL VOC, on images of 600 pixels.

    sizes, shapes: of the anchors (square root of the area in pixels; height / width).  On several maps the sizes are
        those of the finest, and grow with the stride.
    stand: where in its place on the map an anchor has its middle.
    width: channels between the map and the answers.
    positive, negative: overlap from which an anchor is trained as an object, under which as nothing.
    batch: anchors trained on per image, at most half of them objects.
    before, after: proposals kept by score before (of each map) and after removing overlaps, in training and in testing.
    overlap: of which two proposals the weaker one goes.  smallest: side below which a proposal goes, pixels.
    """

    sizes: tuple[float, ...] = (128.0, 256.0, 512.0)
    shapes: tuple[float, ...] = (0.5, 1.0, 2.0)
    stand: Stand = "centre"
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


@dataclass(frozen=True)
class Look:
    """What the network says of every anchor: logits (N, R), codes (N, R, 4), and the anchors (R, 4), map by map.

    counts: how many of the anchors stand on each map.
    """

    logits: Tensor
    codes: Tensor
    references: Tensor
    counts: tuple[int, ...]

    def boxes(self, image: int, which: Tensor, size: tuple[float, float]) -> Tensor:
        """What some anchors of an image of `size` (height, width) tell, on the image; differentiable."""
        return boxes.clip(boxes.decode(self.codes[image, which], self.references[which]), *size)


class ProposalNetwork(nn.Module):
    """A 3x3 convolution, then for each anchor a score and four numbers that tell a box; the same on every map."""

    def __init__(self, description: ProposalDescription, channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.description, self.strides = description, tuple(strides)
        self.conv = nn.Conv2d(channels, description.width, 3, padding=1)
        self.score = nn.Conv2d(description.width, description.anchors, 1)
        self.box = nn.Conv2d(description.width, 4 * description.anchors, 1)
        for layer in (self.conv, self.score, self.box):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> Look:
        """(N, C, h, w) each -> a score and a box for every anchor."""
        logits, codes, references = [], [], []
        for features, stride in zip(maps, self.strides, strict=True):
            x = relu(self.conv(features))
            logits.append(self.score(x).float().permute(0, 2, 3, 1).flatten(1))  # places need whole precision
            codes.append(self.box(x).float().permute(0, 2, 3, 1).reshape(len(x), -1, 4))
            height, width = features.shape[2:]
            references.append(self.references(height, width, stride, features.device))
        counts = tuple(len(each) for each in references)
        return Look(torch.cat(logits, 1), torch.cat(codes, 1), torch.cat(references), counts)

    def references(self, height: int, width: int, stride: int, device: torch.device) -> Tensor:
        """The anchors of one map."""
        told, growth = self.description, stride / self.strides[0]
        sizes = tuple(size * growth for size in told.sizes)
        return anchors(height, width, stride=stride, sizes=sizes, shapes=told.shapes, device=device, stand=told.stand)

    @torch.no_grad()
    def keep(self, look: Look, image: int, size: tuple[float, float]) -> Tensor:
        """The anchors (P,) that propose something on one image of `size` (height, width), the surest first."""
        told, testing = self.description, int(not self.training)
        surest, start = [], 0
        for count in look.counts:
            here = look.logits[image, start : start + count]
            surest.append(start + here.topk(min(told.before[testing], count)).indices)
            start += count
        which = torch.cat(surest)
        level = torch.cat([torch.full_like(each, number) for number, each in enumerate(surest)])
        found = look.boxes(image, which, size)
        large = remove_small_boxes(found, told.smallest)
        which, level, found = which[large], level[large], found[large]
        return which[boxes.kept_first(found, look.logits[image, which], level, told.overlap, told.after[testing])]

    @torch.no_grad()
    def propose(self, look: Look, image: int, size: tuple[float, float]) -> Tensor:
        """The proposals of one image, the surest first: (P, 4)."""
        return look.boxes(image, self.keep(look, image, size), size)

    def losses(
        self, look: Look, objects: Sequence[Tensor], sizes: Sequence[tuple[float, float]]
    ) -> tuple[Tensor, Tensor]:
        """Means over the images of what scores and codes cost."""
        each = [self.loss(look, n, here, size) for n, (here, size) in enumerate(zip(objects, sizes, strict=True))]
        return torch.stack([scored for scored, _ in each]).mean(), torch.stack([placed for _, placed in each]).mean()

    def loss(self, look: Look, image: int, objects: Tensor, size: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """Of one image with `objects` (M, 4): cross-entropy of the scores, smooth L1 of the codes.

        Anchors that reach over the border of the image are not trained on.
        """
        told, references = self.description, look.references
        height, width = size
        inside = (references[:, :2] >= 0).all(1) & (references[:, 2] <= width) & (references[:, 3] <= height)
        if not inside.any():  # a small image: better anchors over its border than none
            inside = torch.ones_like(inside)
        places = inside.nonzero().flatten()
        assigned = assign(references[places], objects, positive=told.positive, negative=told.negative, best=True)
        positive, negative = sample(assigned, told.batch, share=0.5)
        used = places[torch.cat([positive, negative])]
        truth = torch.zeros(len(used), device=used.device)
        truth[: len(positive)] = 1.0
        scored = functional.binary_cross_entropy_with_logits(look.logits[image, used], truth)
        wanted = boxes.encode(objects[assigned[positive]], references[places[positive]])
        told_codes = look.codes[image, places[positive]]
        placed = functional.smooth_l1_loss(told_codes, wanted, beta=1 / 9, reduction="sum") / max(len(used), 1)
        return scored, placed
