"""Box voting: a box that survives suppression becomes the mean of those it suppressed (Gidaris and Komodakis 2015).

Shapes: M boxes of one image, (M, 4); labels and scores (M,).
"""

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou


def vote(boxes: Tensor, labels: Tensor, scores: Tensor, *, overlap: float, voters: float = 0.5) -> tuple[Tensor, ...]:
    """Boxes, labels and scores that stay, the surest first.

    overlap: of which two boxes of a class the weaker goes.  voters: each box that stays moves to the mean, weighted by
    score, of all boxes of its class that overlap it by at least so much, itself among them.  Scores do not change.
    """
    kept = batched_nms(boxes, scores, labels, overlap)
    near = (box_iou(boxes[kept], boxes) >= voters) & (labels[kept][:, None] == labels[None, :])
    weights = near * scores[None, :]
    moved = weights @ boxes / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    return moved, labels[kept], scores[kept]
