"""Cutting regions out of maps: every region becomes a map of one size.

Shapes: N images, P regions over all of them, C channels; maps (N, C, *, *), for each image its regions (P_n, 4).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import roi_align, roi_pool

from residual.detect import lookup

Cut = Literal["pool", "align", "corner-align"]
"""pool: rounded to the map's cells, their maxima (Girshick 2015).  align: interpolated at exact places (He et al.
2017).  corner-align: the same half a cell on, as torchvision's detectors have it."""


def cut(maps: Sequence[Tensor], regions: Sequence[Tensor], side: int, strides: Sequence[int], how: Cut) -> Tensor:
    """(P, C, side, side), image by image; of several maps, each region from the one that fits its size."""
    every = rows(regions)
    if len(maps) == 1:
        return _cut(maps[0], every, side, strides[0], how)
    where = level(every[:, 1:], len(maps))
    cells = maps[0].new_empty(len(every), side, side, maps[0].shape[1]).permute(0, 3, 1, 2)
    for number, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        mine = (where == number).nonzero().flatten()
        cells[mine] = _cut(features, every[mine], side, stride, how)
    return cells


def level(regions: Tensor, levels: int, *, side: float = 224.0, fits: int = 2) -> Tensor:
    """(P, 4) -> (P,) the map that each region is cut from: half its size, one map finer (Lin et al. 2017, equation 1).

    A region of `side` squared pixels, the size of ImageNet's images, fits map number `fits`, counted from 0.
    """
    sizes = (regions[:, 2:] - regions[:, :2]).clamp(min=0).prod(dim=1).sqrt()
    # 1e-6, as torchvision has it: a region of exactly 224 pixels shall not fall a level by rounding
    return (fits + torch.log2(sizes / side) + 1e-6).floor().clamp(0, levels - 1).long()


def rows(regions: Sequence[Tensor]) -> Tensor:
    """(P, 5): the number of its image before each region."""
    numbers = [torch.full_like(here[:, :1], number) for number, here in enumerate(regions)]
    return torch.cat([torch.cat(numbers), torch.cat(list(regions))], dim=1)


def _cut(features: Tensor, regions: Tensor, side: int, stride: int, how: Cut) -> Tensor:
    exact = features.to(regions.dtype)  # half precision would round the places
    on_cpu, learned = exact.device.type == "cpu", torch.is_grad_enabled() and exact.requires_grad
    if how == "pool" and on_cpu and not learned:
        found = lookup.pool(exact, regions.detach(), side, stride)
    elif how == "pool":
        found = roi_pool(exact, regions, side, 1 / stride)
    elif on_cpu:
        found = lookup.align(exact, regions.detach(), side, stride, half=0.5 if how == "align" else 0.0)
    else:
        found = roi_align(exact, regions, side, 1 / stride, sampling_ratio=2, aligned=how == "align")
    return found.to(features.dtype)
