"""Which references answer for which object, and which of them are trained on.

Shapes: R references, M objects on one image, (R, 4) and (M, 4) boxes.
"""

import torch
from torch import Tensor
from torchvision.ops import box_iou

NOTHING, UNUSED = -1, -2  # what a reference stands for that stands for no object
PAIRS = 1 << 22  # overlaps looked at together: a pyramid's 240,000 anchors with 400 objects would take almost 4 GB


def assign(
    references: Tensor, objects: Tensor, *, positive: float, negative: float, least: float = 0.0, best: bool = False
) -> Tensor:
    """(R,) int64: the object each reference overlaps most, if by at least `positive`; NOTHING where that overlap is at
    least `least` and below `negative`; UNUSED in between and below.

    best: for each object, also the references that overlap it most of all, however little, but not nothing.
    """
    count = len(references)
    if not len(objects):
        return torch.full((count,), NOTHING, dtype=torch.int64, device=references.device)
    parts = torch.split(references, max(PAIRS // len(objects), 1))
    assigned, reached = [], torch.zeros(len(objects), device=references.device, dtype=references.dtype)
    for part in parts:
        overlaps = box_iou(part, objects)
        most, which = overlaps.max(dim=1)
        here = torch.full_like(which, UNUSED)
        here[(most >= least) & (most < negative)] = NOTHING
        here[most >= positive] = which[most >= positive]
        assigned.append(here)
        reached = torch.maximum(reached, overlaps.max(dim=0).values)
    if best:
        for part, here in zip(parts, assigned, strict=True):
            if len(parts) > 1:  # else they are still there
                overlaps = box_iou(part, objects)
            top, of = ((overlaps == reached) & (reached > 0)).nonzero(as_tuple=True)
            here[top] = of
    return torch.cat(assigned)


def sample(assigned: Tensor, count: int, *, share: float) -> tuple[Tensor, Tensor]:
    """Indices of at most `count` references at random: (positive, negative), positive at most `share` of the count.

    Too few positive ones are made up for by negative ones.  Draws from torch's generator, on the CPU so that every
    device takes the same.
    """
    positive, negative = (assigned >= 0).nonzero().flatten(), (assigned == NOTHING).nonzero().flatten()
    some = min(len(positive), int(count * share))
    return _some(positive, some), _some(negative, min(len(negative), count - some))


def _some(indices: Tensor, count: int) -> Tensor:
    return indices[torch.randperm(len(indices))[:count].to(indices.device)]
