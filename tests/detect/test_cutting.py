import torch
from torchvision.ops import MultiScaleRoIAlign, roi_pool
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
