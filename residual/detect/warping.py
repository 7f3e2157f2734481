"""RoI warping: a region cut out by interpolation, differentiable in the map and in the box (Dai et al. 2015).

Each cell of the cut is read at one point of the map, with weights max(0, 1 - distance) along either axis; beyond the
map is 0.  So what a box sees tells where the box should be.
Shapes: N images, P regions over all of them, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from residual.detect.cutting import rows


def warp(features: Tensor, regions: Sequence[Tensor], side: int, stride: int) -> Tensor:
    """(N, C, h, w), for each image its regions (P_n, 4) in pixels -> (P, C, side, side), image by image.

    A cell is a weighted sum of four rows of a table, the map with its channels last.
    """
    channels, height, width = features.shape[1:]
    every = rows(regions)
    low, high = every[:, None, 1:3], every[:, None, 3:]
    steps = (torch.arange(side, device=every.device, dtype=every.dtype) + 0.5) / side
    x, y = ((low + steps[:, None] * (high - low)) / stride - 0.5).unbind(-1)  # (P, side), cells of the map
    columns, across = _between(x, width)
    lines, down = _between(y, height)
    lines = (every[:, :1].long() * height + lines) * width
    places = (lines[:, None, :, :, None] + columns[None, :, :, None, :]).view(4, -1)
    weights = (down[:, None, :, :, None] * across[None, :, :, None, :]).view(4, -1)
    table = features.to(every.dtype).permute(0, 2, 3, 1).reshape(-1, channels)
    cells = functional.embedding_bag(
        places.T.contiguous(), table, per_sample_weights=weights.T.contiguous(), mode="sum"
    )
    return cells.view(-1, side, side, channels).permute(0, 3, 1, 2).to(features.dtype)


def _between(at: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(2, P, side) each: the cells, of `size` along an axis, between which places (P, side) lie, and their weights."""
    first = at.detach().floor()
    which = torch.stack([first, first + 1])
    weights = torch.stack([first + 1 - at, at - first]) * ((which >= 0) & (which < size))
    return which.nan_to_num().clamp(0, size - 1).long(), weights  # a box that is no number gives what is none
