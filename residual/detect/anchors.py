"""Reference boxes over a map of features: every size in every shape at every place (Ren et al. 2015)."""

import torch
from torch import Tensor


def anchors(
    height: int, width: int, *, stride: int, sizes: tuple[float, ...], shapes: tuple[float, ...], device: torch.device
) -> Tensor:
    """(height * width * A, 4): row by row, column by column, at each place size by size and shape by shape.

    height, width: of the map, `stride` pixels of the image to a place; an anchor stands at the middle of its place.
    sizes: square roots of the areas, pixels.  shapes: height / width.  A = len(sizes) * len(shapes).
    """
    areas = torch.tensor(sizes, device=device)[:, None]
    ratios = torch.tensor(shapes, device=device).sqrt()[None, :]
    halves = torch.stack([areas / ratios, areas * ratios], dim=-1).view(-1, 2) / 2  # (A, 2) half width, half height
    rows = (torch.arange(height, device=device) + 0.5) * stride
    columns = (torch.arange(width, device=device) + 0.5) * stride
    down, across = torch.meshgrid(rows, columns, indexing="ij")
    centres = torch.stack([across, down], dim=-1).view(-1, 1, 2)
    return torch.cat([centres - halves, centres + halves], dim=-1).view(-1, 4)
