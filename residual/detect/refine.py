"""Box refinement (appendix B): each region's box, as the network told it, is looked at once more.

Shapes: P regions of one image, K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Judge = Callable[[Tensor], tuple[Tensor, Tensor]]
"""What a network makes of regions (P, 4) of one image: probabilities (P, K) and boxes (P, K, 4)."""


def refine(judge: Judge, probabilities: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The first judgement and that of the boxes it told, one for each region: (2 P, K) and (2 P, K, 4).

    A region has a box for each class; the one of its surest class is looked at, as in the code of the multi-task
    cascades.
    """
    again = judge(surest(probabilities, boxes))
    return torch.cat([probabilities, again[0]]), torch.cat([boxes, again[1]])


def surest(probabilities: Tensor, boxes: Tensor) -> Tensor:
    """(P, K) and (P, K, 4) -> (P, 4): each region's box of its surest class."""
    return boxes[torch.arange(len(boxes), device=boxes.device), probabilities.argmax(dim=1)]
