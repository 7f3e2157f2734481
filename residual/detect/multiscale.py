"""Multi-scale testing of the second look (appendix B): each region is seen at two adjacent scales and the best is kept.

Shapes: P regions of one image, W channels, S scales.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

See = Callable[[Tensor], Tensor]
"""What one scale makes of regions (P, 4), told in pixels of the image itself: (P, W)."""


def adjacent(regions: Tensor, scales: Sequence[float], *, side: float = 224.0) -> Tensor:
    """(P,) the smaller of the two scales at which each region is seen; the other is the next.

    scales: by which the image was resized, growing.  Of the two, one makes the region (the root of its area) at most
    `side` pixels and the next more, as far as there are such; the paper leaves the choice to Ren et al. 2015 (networks
    on convolutional maps), who take the scales nearest to the size of ImageNet's images.
    """
    sizes = (regions[:, 2:] - regions[:, :2]).clamp(min=0).prod(dim=1).sqrt()
    fits = sizes[:, None] * regions.new_tensor(scales)[None, :] <= side
    return (fits.sum(dim=1) - 1).clamp(0, max(len(scales) - 2, 0))


def maxout(sees: Sequence[See], scales: Sequence[float], regions: Tensor) -> Tensor:
    """(P, W): what a region's two scales make of it, merged by the maximum of each channel."""
    first = adjacent(regions, scales)
    merged: Tensor | None = None
    for number, see in enumerate(sees):
        mine = ((first == number) | (first == number - 1)).nonzero().flatten()
        seen = see(regions[mine])
        if merged is None:
            merged = seen.new_full((len(regions), seen.shape[1]), -torch.inf)
        merged[mine] = torch.maximum(merged[mine], seen)
    assert merged is not None, "there is at least one scale"
    return merged
