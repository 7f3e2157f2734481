"""Voting: what survives suppression becomes the mean of what it suppressed; boxes (Gidaris and Komodakis 2015), masks.

Shapes: M boxes of one image, (M, 4); labels and scores (M,).
"""

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from residual.detect.raster import placed


def vote(boxes: Tensor, labels: Tensor, scores: Tensor, *, overlap: float, voters: float = 0.5) -> tuple[Tensor, ...]:
    """Boxes, labels and scores that stay, the surest first.

    overlap: of which two boxes of a class the weaker goes.  voters: each box that stays moves to the mean, weighted by
    score, of all boxes of its class that overlap it by at least so much, itself among them.  Scores do not change.
    """
    kept = batched_nms(boxes, scores, labels, overlap)
    near = electorate(boxes, labels, kept, voters)
    weights = near * scores[None, :]
    moved = weights @ boxes / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    return moved, labels[kept], scores[kept]


def electorate(boxes: Tensor, labels: Tensor, kept: Tensor, voters: float) -> Tensor:
    """(len(kept), M) bool: which boxes vote on each that is kept; itself in any case, even if it has no area."""
    near: Tensor = (box_iou(boxes[kept], boxes) >= voters) & (labels[kept][:, None] == labels[None, :])
    near[torch.arange(len(kept), device=kept.device), kept] = True
    return near


@torch.no_grad()
def vote_masks(
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor,
    masks: Tensor,
    kept: Tensor,
    size: tuple[int, int],
    *,
    voters: float = 0.5,
    threshold: float = 0.4,
) -> Tensor:
    """(len(kept), H, W) bool: the masks of the boxes that stayed, after voting (Dai et al. 2015).

    masks: (M, S, S) probabilities in their boxes.  Each of `kept` becomes the mean, weighted by score, of the masks of
    all boxes of its class that overlap its box by at least `voters`; where it reaches `threshold` is the object.
    """
    found = torch.zeros(len(kept), *size, dtype=torch.bool, device=boxes.device)
    for number, mine in enumerate(electorate(boxes, labels, kept, voters)):
        total, weight = torch.zeros(size, device=boxes.device), 0.0
        for voter in mine.nonzero().flatten():
            rows, columns, values = placed(masks[voter], boxes[voter], size)
            total[rows, columns] += scores[voter] * values
            weight += float(scores[voter])
        found[number] = (total >= threshold * weight) & (total > 0)
    return found
