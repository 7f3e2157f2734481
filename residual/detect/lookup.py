"""Cuts as rows looked up in a table, channels last: what `roi_pool` and `roi_align` of torchvision give, several times
as fast on a CPU.  The maps learn through `align`, to the same bits each time; not through `pool`.

Shapes: N images, P regions over all of them, (P, 5) with the number of its image before each; C channels.
"""

import torch
from torch import Tensor
from torch.nn import functional

NEAR = 1 << 18  # numbers that stay in a core's own cache


def pool(features: Tensor, regions: Tensor, side: int, stride: int) -> Tensor:
    """(N, C, h, w) -> (P, C, side, side): the maxima of each region's cells; 0 where a cell is not on the map.

    The largest of any run of cells is the larger of two runs of 2^k cells, one from its beginning, one to its end.  So
    each cell of the cut is the maximum of four rows in a table of squares of 2^k x 2^l.
    """
    count, channels, height, width = features.shape
    at = regions[:, 1:] / stride
    left, right = _spans(at[:, 0], at[:, 2], side, width)
    top, bottom = _spans(at[:, 1], at[:, 3], side, height)
    longest = max([1, *(int((end - begin).max()) for begin, end in ((left, right), (top, bottom)) if len(at))])
    powers = longest.bit_length()
    table = _squares(features.permute(0, 2, 3, 1), powers).view(-1, channels)
    down, rows = _ends(top, bottom, height)
    across, columns = _ends(left, right, width)
    rows = ((down * powers * count + regions[:, :1].long()) * height + rows) * width  # (2, P, side)
    columns = across * count * height * width + columns
    places = (rows[:, None, :, :, None] + columns[None, :, :, None, :]).flatten(0, 1)  # (4, P, side, side)
    found = features.new_empty(len(at), side, side, channels)
    near = max(NEAR // (side * side * channels), 1)  # regions at a time
    for some, here in zip(torch.split(found, near), torch.split(places, near, dim=1), strict=True):
        cells = some.view(-1, channels)
        torch.index_select(table, 0, here[0].flatten(), out=cells)
        for others in here[1:]:
            torch.maximum(cells, table.index_select(0, others.flatten()), out=cells)
    beyond = (bottom <= top)[:, :, None] | (right <= left)[:, None, :]
    if beyond.any():
        found[beyond] = 0
    return found.permute(0, 3, 1, 2)


def align(features: Tensor, regions: Tensor, side: int, stride: int, *, half: float) -> Tensor:
    """(N, C, h, w) -> (P, C, side, side): each cell the mean of four places, each interpolated between four of the map.

    half: of a cell, by which places are moved: 0.5 is exact, 0.0 torchvision's way.
    """
    channels, height, width = features.shape[1:]
    low, high = torch.split(regions[:, 1:] / stride - half, 2, dim=1)
    sides = high - low if half else (high - low).clamp(min=1)
    columns, across = _between(low[:, 0], sides[:, 0], side, width)
    rows, down = _between(low[:, 1], sides[:, 1], side, height)
    rows = (regions[:, :1, None].long() * height + rows) * width
    places = rows[:, :, None, :, None] + columns[:, None, :, None, :]  # (P, side, side, 4, 4)
    weights = down[:, :, None, :, None] * across[:, None, :, None, :]
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    cells = functional.embedding_bag(
        places.view(-1, 16), table, per_sample_weights=weights.view(-1, 16).to(table.dtype), mode="sum"
    )
    return cells.view(-1, side, side, channels).permute(0, 3, 1, 2)


def _spans(low: Tensor, high: Tensor, side: int, size: int) -> tuple[Tensor, Tensor]:
    """Along one axis of `size` cells, (P, side) each: where the cells of a cut begin, and behind which they end.

    The region's ends are rounded, halves up, and both of them belong to it (Girshick 2015).
    """
    start, stop = (at.floor() + (at - at.floor() >= 0.5) for at in (low, high))
    length = (stop - start + 1).clamp(min=1) / side
    steps = torch.arange(side, device=low.device)
    begin = ((steps * length[:, None]).floor() + start[:, None]).clamp(0, size)
    end = (((steps + 1) * length[:, None]).ceil() + start[:, None]).clamp(0, size)
    return begin.long(), end.long()


def _ends(begin: Tensor, end: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(P, side): k; (2, P, side): where the two runs of 2^k cells begin that cover the span."""
    power = torch.frexp((end - begin).clamp(min=1).float()).exponent.long() - 1
    return power, torch.stack([begin.clamp(max=size - 1), (end - (1 << power)).clamp(min=0)])


def _squares(maps: Tensor, powers: int) -> Tensor:
    """(N, h, w, C) -> (powers, powers, N, h, w, C): at [k, l] the maxima of the 2^k x 2^l cells from here on.

    What would reach beyond the map is not asked for and means nothing.
    """
    table = maps.new_empty(powers, powers, *maps.shape)
    table[0, 0] = maps
    for k in range(powers):
        if k:
            _larger(table[k - 1, 0], table[k, 0], 1, 1 << (k - 1))
        for other in range(1, powers):
            _larger(table[k, other - 1], table[k, other], 2, 1 << (other - 1))
    return table


def _larger(cells: Tensor, found: Tensor, axis: int, step: int) -> None:
    """Into `found` the larger of each cell and the one `step` on along the axis, where there is one."""
    found.copy_(cells)
    here = max(cells.shape[axis] - step, 0)
    torch.maximum(
        cells.narrow(axis, 0, here), cells.narrow(axis, cells.shape[axis] - here, here), out=found.narrow(axis, 0, here)
    )


def _between(low: Tensor, length: Tensor, side: int, size: int) -> tuple[Tensor, Tensor]:
    """Along one axis of `size` cells, (P, side, 4) each: which are read for each cell of a cut, and their weights.

    low, length: (P,) where regions begin and how long they are.  Each cell of the cut is the mean of two places, each
    between two cells of the map; more than a cell beyond the map there is nothing.
    """
    steps = (torch.arange(2 * side, device=low.device) + 0.5) / (2 * side)
    at = low[:, None] + steps * length[:, None]  # (P, 2 side)
    inside = (at >= -1) & (at <= size)
    at = at.clamp(0, size - 1)
    first = at.floor()
    share = at - first
    which = torch.stack([first, (first + 1).clamp(max=size - 1)], dim=-1).long()
    weights = torch.stack([1 - share, share], dim=-1) * inside[..., None] / 2
    return which.view(-1, side, 4), weights.view(-1, side, 4)
