"""Voting: what survives suppression becomes the mean of what it suppressed; boxes (Gidaris and Komodakis 2015), masks.

Shapes: M boxes of one image, (M, 4); labels and scores (M,).
"""

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from residual.detect.detections import Outlines
from residual.detect.raster import placed, reached, runs_at


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
) -> Outlines:
    """The masks of the boxes that stayed, on an image of `size`, after voting (Dai et al. 2015).

    masks: (M, S, S) probabilities in their boxes.  Each of `kept` becomes the mean, weighted by score, of the masks of
    all boxes of its class that overlap its box by at least `voters`; where it reaches `threshold` is the object.
    """
    found = []
    for mine in electorate(boxes, labels, kept, voters):
        rows, columns = reached(torch.cat([boxes[mine, :2].amin(dim=0), boxes[mine, 2:].amax(dim=0)]), size)
        total = torch.zeros(rows.stop - rows.start, columns.stop - columns.start, device=boxes.device)
        weight = 0.0
        for voter in mine.nonzero().flatten():
            some, others, values = placed(masks[voter], boxes[voter], size)
            here = total[some.start - rows.start : some.stop - rows.start]
            here[:, others.start - columns.start : others.stop - columns.start] += scores[voter] * values
            weight += float(scores[voter])
        found.append(runs_at((total >= threshold * weight) & (total > 0), rows.start, columns.start, size))
    return Outlines(size, tuple(found))
