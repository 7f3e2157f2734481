"""Global context (appendix B): what each region is seen as, beside what the whole image is seen as.

The whole image is a region like any other, cut out and seen by the same stage.
Shapes: N images, P regions over all of them, W channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def whole(sizes: Sequence[tuple[float, float]], like: Tensor) -> list[Tensor]:
    """For each image of a size (height, width) its one region (1, 4)."""
    return [like.new_tensor([[0.0, 0.0, width, height]]) for height, width in sizes]


def beside(regions: Tensor, images: Tensor, counts: Sequence[int]) -> Tensor:
    """(P, W) regions, (N, W) images and how many regions each has -> (P, 2 W)."""
    return torch.cat([regions, images.repeat_interleave(torch.tensor(counts, device=images.device), dim=0)], dim=1)
