import pytest
import torch

from residual.detect.multiscale import adjacent, maxout


def squares(*sides: float) -> torch.Tensor:
    return torch.tensor([[3.0, 5.0, 3.0 + side, 5.0 + side] for side in sides])


def test_a_region_is_seen_at_the_two_scales_around_224_pixels():
    scales = (0.5, 1.0, 2.0, 4.0)
    assert adjacent(squares(112, 150, 80, 224, 60, 448, 56), scales).tolist() == [2, 1, 2, 1, 2, 0, 2]
    assert adjacent(squares(4000, 0, 3), scales).tolist() == [0, 2, 2]  # the ends have no further scale
    assert adjacent(squares(4000, 3), (1.0,)).tolist() == [0, 0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_two_scales_are_merged_by_the_maximum_region_by_region(count: int):
    scales = tuple(0.25 * 2**k for k in range(count))
    sees = [
        lambda r, k=k: torch.sin(r @ torch.randn(4, 6, generator=torch.Generator().manual_seed(k)))
        for k in range(count)
    ]
    regions = squares(3, 20, 100, 150, 300, 700, 1500)
    found = maxout(sees, scales, regions)
    for region, seen in zip(regions, found, strict=True):
        low = int(adjacent(region[None], scales))
        both = [sees[k](region[None])[0] for k in (low, min(low + 1, count - 1))]
        assert torch.allclose(seen, torch.maximum(*both))
    assert maxout(sees, scales, regions[:0]).shape == (0, 6)
