"""Multi-task network cascades: boxes, then masks of no class, then classes of what is masked (Dai et al. 2015).

    stage 1: regions proposed -> stage 2: a mask in each -> stage 3: class and box of the region and of what is masked

The five-stage form sends stage 3's boxes through stages 2 and 3 again, with the same weights.  Each stage's loss is
differentiated through the stages before it, the boxes' coordinates too (`warping`).  This system, on a residual
network, won COCO's segmentation in 2015.
Shapes: N images (N, 3, H, W), P regions over all of them, K classes, M objects on one image, S the side of a mask.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import batched_nms

from residual.detect.faster_rcnn import Size
from residual.detect.found import Found, factor
from residual.detect.proposals import Look, ProposalDescription, ProposalNetwork
from residual.detect.raster import covered
from residual.detect.refine import surest
from residual.detect.regions import RegionDescription, RegionHead, average
from residual.detect.sampling import NOTHING, assign
from residual.detect.trunk import Norm, Trunk, c4, freeze, normalized, vgg16
from residual.detect.voting import vote_masks
from residual.detect.warping import warp
from residual.models.description import Description
from residual.models.resnet import ResNet


@dataclass(frozen=True, kw_only=True)
class CascadeDescription:
    """A cascade, told completely.

    stages: 3, or 5 with the boxes looked at again.
    warped, pooled: sides of a region's cut as it is warped and after taking maxima; pooled divides warped.
    hidden: neurons between the cut and the mask.  mask: side of the mask.
    masking: weight of the masks' loss; the others weigh 1.
    pull: largest gradient, per image, with which later stages may pull at a number that tells a box.  Left alone they
        teach proposals to flee from objects, for background is easier to judge; the bound is that of the authors' code.
    threshold: probability from which a pixel belongs to a mask; voters: overlap of boxes from which their masks vote.
    """

    trunk: Description | Literal["vgg16"]
    classes: tuple[str, ...]
    stages: Literal[3, 5] = 3
    proposals: ProposalDescription = field(default_factory=ProposalDescription)
    regions: RegionDescription = field(default_factory=RegionDescription)
    warped: int = 28
    pooled: int = 14
    hidden: int = 256
    mask: int = 21
    masking: float = 2.0
    pull: float = 1 / 512
    threshold: float = 0.4
    voters: float = 0.5
    frozen: bool = False
    norm: Norm = "batch"

    def __post_init__(self) -> None:
        if self.stages not in (3, 5):
            raise ValueError(f"stages is {self.stages}; a cascade has 3, or 5 with the boxes looked at again")
        if self.warped % self.pooled:
            raise ValueError(
                f"warped is {self.warped} and pooled {self.pooled}; pooled must divide warped, as 14 does 28"
            )
        if self.regions.context:
            raise ValueError("a cascade judges regions by their masks and has no global context; set context=False")
        if self.frozen and self.norm != "batch":
            raise ValueError(f'frozen=True fixes a trained batch norm, but norm is "{self.norm}"; set frozen=False')


@dataclass(frozen=True)
class Pass:
    """What stages 2 and 3 say of regions: one list over all images.

    outlines (P, S, S): logits of the masks.  scores, outlined (P, K + 1): logits of the box's class and of the mask's.
    codes (P, K, 4).
    """

    outlines: Tensor
    scores: Tensor
    outlined: Tensor
    codes: Tensor


@dataclass(frozen=True)
class CascadeLosses:
    """What training minimises the sum of, each a scalar; those of stages 2 and 3 summed over the passes."""

    proposed: Tensor  # whether an anchor holds something
    placed: Tensor  # where
    masked: Tensor  # which pixels, weighted
    classed: Tensor  # what a box holds
    outlined: Tensor  # what a mask covers
    boxed: Tensor  # where

    @property
    def total(self) -> Tensor:
        return self.proposed + self.placed + self.masked + self.classed + self.outlined + self.boxed


class Cascade(nn.Module):
    """Detects and segments.  `losses` in training, `forward` to detect.

    Both paths of stage 3, of the box and of the mask, are the trunk's stage: fc6 and fc7 of VGG-16, as in the paper, or
    the last stage of a residual network.
    """

    def __init__(self, description: CascadeDescription, trunk: Trunk | None = None) -> None:
        """trunk: made from trained weights, whose modules become the cascade's; None: random weights."""
        super().__init__()
        self.description = told = description
        trunk = build(description) if trunk is None else trunk
        if trunk.levels != 1:
            raise ValueError("a cascade warps regions out of one map, but this trunk is a pyramid of several")
        self.shared, self.stride = trunk.shared, trunk.strides[0]
        self.proposer = ProposalNetwork(told.proposals, trunk.channels, trunk.strides)
        self.outliner = nn.Sequential(
            nn.Flatten(),
            nn.Linear(trunk.channels * told.pooled**2, told.hidden),
            nn.ReLU(),
            nn.Linear(told.hidden, told.mask**2),
            nn.Unflatten(1, (told.mask, told.mask)),
        )
        self.masked_stage = copy.deepcopy(trunk.stage)
        self.head = RegionHead(told.regions, replace(trunk, width=2 * trunk.width), len(told.classes))  # both paths
        self.outlined = nn.Linear(2 * trunk.width, len(told.classes) + 1)
        for layer in (self.outlined, *self.outliner):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        normalized(self, told.norm)
        if told.frozen:
            freeze(self, trunk.still)

    def look(self, features: Tensor, regions: Sequence[Tensor]) -> Pass:
        """Stages 2 and 3, on the map (N, C, h, w) and for each image its regions (P_n, 4)."""
        told = self.description
        found = functional.max_pool2d(warp(features, regions, told.warped, self.stride), told.warped // told.pooled)
        outlines = self.outliner(found)
        shares = functional.interpolate(outlines.sigmoid()[:, None], found.shape[2:], mode="bilinear")
        box, mask = found, found * shares
        if self.description.pooled != self.head.pooled:
            box, mask = (functional.adaptive_max_pool2d(x, self.head.pooled) for x in (box, mask))
        seen = torch.cat([average(self.head.stage(box)), average(self.masked_stage(mask))], dim=1)
        scores, codes = self.head.tell(seen)
        return Pass(outlines, scores, self.outlined(seen), codes)

    def losses(
        self,
        images: Tensor,
        sizes: Sequence[Size],
        objects: Sequence[Tensor],
        labels: Sequence[Tensor],
        masks: Sequence[Tensor],
    ) -> CascadeLosses:
        """sizes: of each image before padding.  objects: (M, 4) boxes; labels: (M,); masks: (M, H, W) bool."""
        (features,) = maps = self.shared(images)
        first = self.proposer(maps)
        proposed, placed = self.proposer.losses(first, objects, sizes)
        regions, assigned = self.choose(first, sizes, objects)
        found = self.look(features, regions)
        losses = self.pass_losses(found, regions, assigned, objects, labels, masks)
        if self.description.stages == 5:
            told = self.description.regions
            regions = self.next_regions(replace(found, codes=self.bounded(found.codes, len(images))), regions, sizes)
            assigned = [
                assign(region.detach(), here, positive=told.positive, negative=told.positive)
                for region, here in zip(regions, objects, strict=True)
            ]
            losses = losses + self.pass_losses(self.look(features, regions), regions, assigned, objects, labels, masks)
        return CascadeLosses(proposed, placed, *losses.unbind())

    def choose(self, look: Look, sizes: Sequence[Size], objects: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Regions to train on and the object of each, as `RegionHead.choose`, but still tied to what proposed them."""
        regions, assigned = [], []
        look = replace(look, codes=self.bounded(look.codes, len(sizes)))
        for number, (size, here) in enumerate(zip(sizes, objects, strict=True)):
            proposals = look.boxes(number, self.proposer.keep(look, number, size), size)
            region, which = self.head.choose(proposals, here)
            regions.append(region)
            assigned.append(which)
        return regions, assigned

    def bounded(self, codes: Tensor, images: int) -> Tensor:
        """The codes of so many images; what is made of them pulls at each number by `pull` at most."""
        same, most = codes.view_as(codes), self.description.pull / images  # losses are means over the images
        if same.requires_grad:
            same.register_hook(lambda gradient: gradient.clamp(-most, most))  # type: ignore[no-untyped-call]
        return same

    def pass_losses(
        self,
        found: Pass,
        regions: Sequence[Tensor],
        assigned: Sequence[Tensor],
        objects: Sequence[Tensor],
        labels: Sequence[Tensor],
        masks: Sequence[Tensor],
    ) -> Tensor:
        """(4,) what masks, classes of boxes, classes of masks and codes cost in one pass."""
        told = self.description
        regions = [region.detach() for region in regions]  # what is wanted of a region does not move with it
        cells = [covered(m, w, r, told.mask) for m, w, r in zip(masks, assigned, regions, strict=True)]
        cover, which = torch.cat(cells), torch.cat(list(assigned))
        held = which != NOTHING
        wanted = (cover[held] >= 0.5).to(found.outlines.dtype)
        summed = functional.binary_cross_entropy_with_logits(found.outlines[held], wanted, reduction="sum")
        classed, boxed = self.head.loss(found.scores, found.codes, regions, assigned, objects, labels)
        areas = [here.flatten(1).sum(dim=1) for here in masks]
        truth = self.mask_classes(found, regions, assigned, cover, areas, labels)
        count = max(len(which), 1)
        outlined = functional.cross_entropy(found.outlined, truth, reduction="sum") / count
        return torch.stack([told.masking * summed / max(wanted.numel(), 1), classed, outlined, boxed])

    @torch.no_grad()
    def mask_classes(
        self,
        found: Pass,
        regions: Sequence[Tensor],
        assigned: Sequence[Tensor],
        cover: Tensor,
        areas: Sequence[Tensor],
        labels: Sequence[Tensor],
    ) -> Tensor:
        """(P,) the class of each region's mask: 0 unless the mask, as told, overlaps its object's by half.

        cover: (P, S, S), how much of each cell the object covers.  areas: of the objects of each image, square pixels.
        """
        every = torch.cat(list(regions))
        told = found.outlines.sigmoid() >= self.description.threshold
        cell = (every[:, 2:] - every[:, :2]).clamp(min=0).prod(dim=1) / self.description.mask**2
        shared = (told * cover).sum(dim=(1, 2)) * cell
        mine = told.sum(dim=(1, 2)) * cell
        area, of = torch.zeros_like(cell), torch.zeros(len(cell), dtype=torch.int64, device=cell.device)
        which = torch.cat(list(assigned))
        held = which != NOTHING
        area[held] = torch.cat([a[w[w != NOTHING]] for a, w in zip(areas, assigned, strict=True)]).to(area.dtype)
        of[held] = torch.cat([here[w[w != NOTHING]] for here, w in zip(labels, assigned, strict=True)]) + 1
        union = (mine + area - shared).clamp(min=torch.finfo(cell.dtype).tiny)
        return torch.where(shared / union >= 0.5, of, 0)

    def next_regions(self, found: Pass, regions: Sequence[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
        """Each region's box of the class its mask is surest of: what stages 4 and 5 look at."""
        counts = [len(region) for region in regions]
        told = zip(torch.split(found.outlined, counts), torch.split(found.codes, counts), regions, sizes, strict=True)
        return [surest(*self.head.judged(scores, codes, region, size)) for scores, codes, region, size in told]

    @torch.no_grad()
    def forward(
        self, images: Tensor, sizes: Sequence[Size], shown: Sequence[tuple[int, int]] | None = None
    ) -> list[Found]:
        """What is found on each image, with masks, after voting.

        shown: (height, width) of the images for which boxes and masks are told; None: as they are given.
        """
        (features,) = maps = self.shared(images)
        first = self.proposer(maps)
        answers = []
        for number, size in enumerate(sizes):
            mine = features[number : number + 1]
            regions = self.proposer.propose(first, number, size)
            found = self.look(mine, [regions])
            every, scores, outlines = regions, found.outlined, found.outlines
            if self.description.stages == 5:
                again = self.next_regions(found, [regions], [size])[0]
                found = self.look(mine, [again])
                every = torch.cat([every, again])
                scores, outlines = torch.cat([scores, found.outlined]), torch.cat([outlines, found.outlines])
            frame = (round(size[0]), round(size[1])) if shown is None else shown[number]
            boxes = every * factor(size, frame, every)
            answers.append(self.answer(boxes, scores.softmax(dim=1)[:, 1:], outlines.sigmoid(), frame))
        return answers

    def answer(self, boxes: Tensor, probabilities: Tensor, outlines: Tensor, frame: tuple[int, int]) -> Found:
        """One image's answer from its regions (P, 4), their probabilities (P, K) and masks (P, S, S)."""
        told = self.description
        region, label = (probabilities > told.regions.score).nonzero(as_tuple=True)
        sure = probabilities[region, label]
        kept = batched_nms(boxes[region], sure, label, told.regions.overlap)[: told.regions.most]
        voted = vote_masks(
            boxes[region], label, sure, outlines[region], kept, frame, voters=told.voters, threshold=told.threshold
        )
        return Found(boxes[region[kept]], label[kept], sure[kept], voted)


def build(description: CascadeDescription) -> Trunk:
    """The described trunk with random weights."""
    return vgg16() if description.trunk == "vgg16" else c4(ResNet(description.trunk))
