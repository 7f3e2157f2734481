"""Which references answer for which object, and which of them are trained on.

Shapes: R references, M objects on one image, (R, 4) and (M, 4) boxes.
"""

import torch
from torch import Tensor
from torchvision.ops import box_iou

NOTHING, UNUSED = -1, -2  # what a reference stands for that stands for no object


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
    overlaps = box_iou(references, objects)
    most, which = overlaps.max(dim=1)
    assigned = torch.full_like(which, UNUSED)
    assigned[(most >= least) & (most < negative)] = NOTHING
    assigned[most >= positive] = which[most >= positive]
    if best:
        reached = overlaps.max(dim=0).values
        top, of = ((overlaps == reached) & (reached > 0)).nonzero(as_tuple=True)
        assigned[top] = of
    return assigned


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
