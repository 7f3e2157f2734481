"""Reference boxes over a map of features: every size in every shape at every place (Ren et al. 2015)."""

from typing import Literal

import torch
from torch import Tensor

Stand = Literal["centre", "corner"]
"""Where in its place an anchor has its middle.  corner: and with whole numbers of pixels, as torchvision has them."""


def anchors(
    height: int,
    width: int,
    *,
    stride: int,
    sizes: tuple[float, ...],
    shapes: tuple[float, ...],
    device: torch.device,
    stand: Stand = "centre",
) -> Tensor:
    """(height * width * A, 4): row by row, column by column, at each place size by size and shape by shape.

    height, width: of the map, `stride` pixels of the image to a place.
    sizes: square roots of the areas, pixels.  shapes: height / width.  A = len(sizes) * len(shapes).
    """
    areas = torch.tensor(sizes, device=device)[:, None]
    ratios = torch.tensor(shapes, device=device).sqrt()[None, :]
    halves = torch.stack([areas / ratios, areas * ratios], dim=-1).view(-1, 2) / 2  # (A, 2) half width, half height
    shift = 0.5 if stand == "centre" else 0.0
    halves = halves if stand == "centre" else halves.round()
    rows = (torch.arange(height, device=device) + shift) * stride
    columns = (torch.arange(width, device=device) + shift) * stride
    down, across = torch.meshgrid(rows, columns, indexing="ij")
    centres = torch.stack([across, down], dim=-1).view(-1, 1, 2)
    return torch.cat([centres - halves, centres + halves], dim=-1).view(-1, 4)
