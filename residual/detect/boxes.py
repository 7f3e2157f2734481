"""Boxes as tensors: how a network tells one, from a reference box, by four numbers.

Shapes: (M, 4) float, each (left, top, right, bottom) in pixels.
"""

import math

import torch
from torch import Tensor
from torchvision.ops import batched_nms

LARGEST = math.log(1000 / 16)  # a box is told at most so many times (in e-folds) the size of its reference


def encode(boxes: Tensor, references: Tensor) -> Tensor:
    """(M, 4) codes: shift of the centre in sides of the reference, log of the ratio of sides (Girshick et al. 2014)."""
    centre, sides = _centre(boxes)
    from_centre, from_sides = _centre(references)
    return torch.cat([(centre - from_centre) / from_sides, torch.log(sides / from_sides)], dim=1)


def decode(codes: Tensor, references: Tensor) -> Tensor:
    """The boxes that the codes tell: the inverse of `encode`, with growth bounded by LARGEST."""
    from_centre, from_sides = _centre(references)
    centre = from_centre + codes[:, :2] * from_sides
    sides = from_sides * torch.exp(codes[:, 2:].clamp(max=LARGEST))
    return torch.cat([centre - sides / 2, centre + sides / 2], dim=1)


def clip(boxes: Tensor, height: float, width: float) -> Tensor:
    """What of each box lies on the image."""
    limits = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limits)


def kept_first(boxes: Tensor, scores: Tensor, groups: Tensor, overlap: float, most: int) -> Tensor:
    """(at most `most`,) which boxes `batched_nms` keeps, the surest of them; those of other groups (M,) do not count.

    Which boxes stay does not depend on less sure ones, so that of some thousand the surest are mostly enough.
    """
    order, some = scores.argsort(descending=True, stable=True), 4 * most
    while True:
        asked = order[:some]
        kept: Tensor = batched_nms(boxes[asked], scores[asked], groups[asked], overlap)
        if len(kept) >= most or some >= len(order):
            return asked[kept[:most]]
        some *= 4


def _centre(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :2] + sides / 2, sides
