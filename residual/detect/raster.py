"""Masks between an image's pixels and the cells of boxes: what covers a cell, and cells pasted into an image.

Shapes: M objects or answers on one image, P regions, S the side of a mask.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from residual.data.outlines import Runs, as_runs
from residual.detect.detections import Outlines
from residual.detect.sampling import NOTHING

BAND = 1 << 22  # pixels; more of a mask at once would take half a gigabyte of places on a photograph


def covered(masks: Tensor, which: Tensor, regions: Tensor, side: int) -> Tensor:
    """(P, side, side): how much of each cell of each region its object covers, 0 to 1.

    masks: (M, H, W) bool.  which: (P,) the object of each region, or NOTHING, which covers none of it.
    """
    found = torch.zeros(len(regions), side, side, device=regions.device, dtype=regions.dtype)
    some = (which != NOTHING).nonzero().flatten()
    if len(some):
        used = torch.zeros(len(masks), dtype=torch.bool, device=masks.device)
        used[which[some]] = True  # of 400 objects, those that are needed
        place = (used.cumsum(0) - 1)[which[some]]
        rois = torch.cat([place[:, None].to(regions.dtype), regions[some].detach()], dim=1)
        cells = roi_align(masks[used, None].to(regions.dtype), rois, side, 1.0, sampling_ratio=0, aligned=True)
        found[some] = cells[:, 0]
    return found


def reached(box: Tensor, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of an image of `size` that a box (4,) reaches."""
    left, top, right, bottom = box.tolist()
    rows = slice(*(min(max(edge, 0), size[0]) for edge in (int(top), int(-(-bottom // 1)))))
    columns = slice(*(min(max(edge, 0), size[1]) for edge in (int(left), int(-(-right // 1)))))
    return rows, columns


def placed(mask: Tensor, box: Tensor, size: tuple[int, int], *, band: int = BAND) -> tuple[slice, slice, Tensor]:
    """Rows and columns of the image that a box reaches, and the mask (S, S) interpolated at their pixels' centres.

    Beyond its cells the mask is 0, as in Detectron2.  band: pixels that are worked out at a time.
    """
    left, top, right, bottom = box.tolist()
    mask = mask.to(box.dtype)  # half precision cannot count an image's pixels
    rows, columns = reached(box, size)
    down = torch.arange(rows.start, rows.stop, device=mask.device, dtype=mask.dtype)
    across = torch.arange(columns.start, columns.stop, device=mask.device, dtype=mask.dtype)
    y = 2 * (down + 0.5 - top) / max(bottom - top, torch.finfo(mask.dtype).tiny) - 1
    x = 2 * (across + 0.5 - left) / max(right - left, torch.finfo(mask.dtype).tiny) - 1
    values = mask.new_zeros(len(down), len(across))
    high = max(band // max(len(across), 1), 1)
    for some, here in zip(torch.split(y, high), torch.split(values, high), strict=True):
        grid = torch.stack(torch.meshgrid(x, some, indexing="xy"), dim=-1)[None]
        if grid.numel():
            here.copy_(functional.grid_sample(mask[None, None], grid, align_corners=False)[0, 0])
    return rows, columns, values


@torch.no_grad()
def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int], *, threshold: float = 0.5) -> Outlines:
    """Masks (M, S, S) of probabilities in their boxes (M, 4) -> M masks on an image of `size`."""
    found = []
    for mask, box in zip(masks, boxes, strict=True):
        rows, columns, values = placed(mask, box, size)
        found.append(runs_at(values >= threshold, rows.start, columns.start, size))
    return Outlines(size, tuple(found))


def runs_at(inside: Tensor, top: int, left: int, size: tuple[int, int]) -> Runs:
    """The outline of a mask on an image of `size` of which the part `inside` (h, w), bool, has its corner there."""
    height, width = size
    part = inside.cpu().numpy()
    columns = np.zeros((height, part.shape[1]), np.bool_, order="F")
    columns[top : top + len(part)] = part
    lengths = as_runs(columns).lengths
    lengths[0] += left * height  # the first and the last run are outside, if only of length 0
    lengths[-1] += (width - left - part.shape[1]) * height
    return Runs(lengths)
