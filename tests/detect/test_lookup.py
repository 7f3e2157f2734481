"""Cuts out of a table are torchvision's."""

import pytest
import torch
from torchvision.ops import roi_align, roi_pool

from residual.detect.lookup import align, pool


def regions(count: int, images: int, *, within: float, largest: float) -> torch.Tensor:
    """(count, 5), many of them reaching beyond the map, some without a side."""
    draw = torch.Generator().manual_seed(count)
    low = (within + 40) * torch.rand(count, 2, generator=draw) - 20
    sides = largest * torch.rand(count, 2, generator=draw) ** 3
    sides[::7, 0] = 0
    numbers = torch.randint(0, images, (count, 1), generator=draw)
    return torch.cat([numbers, low, low + sides], dim=1)


@pytest.mark.parametrize("side", [1, 7, 14])
@pytest.mark.parametrize("size", [(20, 25), (1, 40), (63, 5), (1, 1)])
def test_maxima_are_exactly_those_of_torchvision(side: int, size: tuple[int, int]):
    features = torch.randn(2, 5, *size, generator=torch.Generator().manual_seed(0))
    some = regions(300, 2, within=16.0 * max(size), largest=20.0 * max(size))
    some = torch.cat([some, torch.tensor([[1.0, 8, 24, 8, 24], [0, 7.9, 40, 23.9, 56.1]])])  # halves of a cell
    for maps in (features, features.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(pool(maps, some, side, 16), roi_pool(maps, some, side, 1 / 16))


@pytest.mark.parametrize("side", [1, 7, 14])
@pytest.mark.parametrize("size", [(20, 25), (1, 40), (63, 5), (1, 1)])
@pytest.mark.parametrize("half", [0.0, 0.5])
def test_means_are_those_of_torchvision(side: int, size: tuple[int, int], half: float):
    features = torch.randn(2, 5, *size, generator=torch.Generator().manual_seed(0))
    some = regions(300, 2, within=16.0 * max(size), largest=20.0 * max(size))
    expected = roi_align(features, some, side, 1 / 16, sampling_ratio=2, aligned=half > 0)
    off = (align(features, some, side, 16, half=half) - expected).abs()
    assert off.quantile(0.999) < 1e-4  # a place on the last cell's very edge may fall to either side of it
    assert (off > 1e-4).float().mean() < 1e-3


@pytest.mark.parametrize("how", [pool, lambda *given: align(*given, half=0.5)])
def test_of_no_regions_nothing_is_cut(how):
    assert how(torch.randn(1, 3, 4, 5), torch.zeros(0, 5), 7, 16).shape == (0, 3, 7, 7)
