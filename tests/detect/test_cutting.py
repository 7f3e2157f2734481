import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align, roi_pool
from torchvision.ops.poolers import LevelMapper

from residual.detect.cutting import cut, level, rows


def some(count: int, seed: int, largest: float = 900.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = 100 * torch.rand(count, 2, generator=generator)
    return torch.cat([corners, corners + 1 + largest * torch.rand(count, 2, generator=generator) ** 2], 1)


def test_regions_come_from_the_map_that_torchvision_takes():
    regions = torch.cat([some(500, 0), torch.tensor([[0.0, 0, side, side] for side in (56, 112, 224, 448, 896)])])
    assert torch.equal(level(regions, 4), LevelMapper(2, 5)([regions]))
    assert level(torch.zeros(1, 4), 4).tolist() == [0]


def test_of_several_maps_regions_are_cut_as_torchvision_cuts_them():
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 256 // stride, 320 // stride) for stride in (4, 8, 16, 32)]
    regions = [some(30, 1, 200.0), some(20, 2, 200.0)]
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    expected = theirs(dict(zip("0123", maps, strict=True)), regions, [(256, 320)] * 2)
    assert torch.allclose(cut(maps, regions, 7, (4, 8, 16, 32), "corner-align"), expected, atol=1e-4)
    assert level(torch.cat(regions), 4).unique().numel() > 1


def test_of_a_linear_map_an_aligned_cut_is_exact():
    rows_, columns = torch.meshgrid(torch.arange(30.0) + 0.5, torch.arange(30.0) + 0.5, indexing="ij")
    features, box = (16 * torch.stack([columns, rows_]))[None], torch.tensor([[100.0, 60.0, 310.0, 200.0]])
    found = cut([features], [box], 7, (16,), "align")[0]
    steps = (torch.arange(7) + 0.5) / 7
    assert torch.allclose(found[0], (100 + 210 * steps).expand(7, 7), atol=1e-3)
    assert torch.allclose(found[1], (60 + 140 * steps)[:, None].expand(7, 7), atol=1e-3)


def test_of_one_map_all_regions_are_cut_whatever_their_size():
    features, regions = torch.randn(2, 3, 20, 20), [some(5, 3), some(4, 4)]
    assert torch.equal(cut([features], regions, 7, (16,), "pool"), roi_pool(features, regions, 7, 1 / 16))
    assert rows(regions)[:, 0].tolist() == [0] * 5 + [1] * 4


def taught(found: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """The gradient in the maps of a sum of the cells, each weighted otherwise."""
    weights = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((weights * found).sum(), maps)[0]


@pytest.mark.parametrize("how", ["pool", "align", "corner-align"])
def test_a_cut_teaches_the_maps_what_that_of_torchvision_teaches_them(how: str):
    maps = torch.randn(2, 3, 20, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    regions = [some(9, 5, 200.0).double(), some(8, 6, 200.0).double()]  # inside: on an edge a place may fall either way
    found = cut([maps], regions, 7, (16,), how)
    if how == "pool":
        theirs = roi_pool(maps, regions, 7, 1 / 16)
    else:
        theirs = roi_align(maps, regions, 7, 1 / 16, sampling_ratio=2, aligned=how == "align")
    assert torch.allclose(found, theirs, atol=1e-6)
    assert torch.allclose(taught(found, maps), taught(theirs, maps), atol=1e-6)


def test_a_cut_teaches_the_same_to_the_last_bit_each_time():  # without which no training could be resumed exactly
    maps = torch.randn(2, 8, 20, 25, generator=torch.Generator().manual_seed(0)).requires_grad_()
    regions = [some(40, 7, 300.0), some(40, 8, 300.0)]
    first, *others = (taught(cut([maps], regions, 7, (16,), "align"), maps) for _ in range(4))
    assert first.any()
    assert all(torch.equal(first, other) for other in others)


def test_of_no_regions_maps_learn_nothing():
    maps = torch.randn(2, 3, 20, 20, requires_grad=True)
    found = cut([maps], [torch.zeros(0, 4)] * 2, 7, (16,), "align")
    assert found.shape == (0, 3, 7, 7)
    assert not taught(found, maps).any()
