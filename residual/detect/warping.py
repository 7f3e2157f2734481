"""RoI warping: a region cut out by interpolation, differentiable in the map and in the box (Dai et al. 2015).

Each cell of the cut is read at one point of the map, with weights max(0, 1 - distance) along either axis; beyond the
map is 0.  So what a box sees tells where the box should be.
Shapes: N images, P regions over all of them, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def warp(features: Tensor, regions: Sequence[Tensor], side: int, stride: int) -> Tensor:
    """(N, C, h, w), for each image its regions (P_n, 4) in pixels -> (P, C, side, side), image by image."""
    height, width = features.shape[2:]
    found = []
    for number, boxes in enumerate(regions):
        if not len(boxes):
            found.append(features.new_zeros(0, features.shape[1], side, side))
            continue
        steps = (torch.arange(side, device=boxes.device, dtype=boxes.dtype) + 0.5) / side
        low, sides = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
        x, y = ((low + steps[None, :, None] * sides) / stride).unbind(-1)  # (P, side), cells of the map
        across = (2 * x / width - 1)[:, None, :].expand(-1, side, -1)
        down = (2 * y / height - 1)[:, :, None].expand(-1, -1, side)
        grid = torch.stack([across, down], dim=-1).view(1, -1, side, 2)  # one tall picture of all regions
        tall = functional.grid_sample(features[number : number + 1].to(grid.dtype), grid, align_corners=False)
        found.append(tall[0].view(-1, len(boxes), side, side).transpose(0, 1).to(features.dtype))
    return torch.cat(found)
