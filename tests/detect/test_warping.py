import math

import torch
from torchvision.ops import roi_align

from residual.detect.warping import warp


def some(seed: int, count: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = 20 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    return torch.cat([corners, corners + 3 + 30 * torch.rand(count, 2, generator=generator, dtype=torch.float64)], 1)


def slowly(features: torch.Tensor, box: list[float], side: int, stride: int) -> torch.Tensor:
    """The paper's sum over the whole map, with its weights max(0, 1 - distance), cell by cell."""
    channels, height, width = features.shape
    found = torch.zeros(channels, side, side, dtype=features.dtype)
    for i in range(side):
        for j in range(side):
            y = (box[1] + (i + 0.5) / side * (box[3] - box[1])) / stride - 0.5
            x = (box[0] + (j + 0.5) / side * (box[2] - box[0])) / stride - 0.5
            for v in range(height):
                for u in range(width):
                    weight = max(0.0, 1 - abs(y - v)) * max(0.0, 1 - abs(x - u))
                    found[:, i, j] += weight * features[:, v, u]
    return found


def test_warping_agrees_with_a_slow_loop_also_beyond_the_map():
    features = torch.randn(2, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    regions = [some(1), torch.tensor([[-9.0, 3.0, 60.0, 20.0], [4.0, 4.0, 5.0, 5.0]], dtype=torch.float64)]
    found = warp(features, regions, 4, 4)
    expected = [slowly(features[n], box, 4, 4) for n, here in enumerate(regions) for box in here.tolist()]
    assert torch.allclose(found, torch.stack(expected), atol=1e-12)


def test_inside_the_map_it_is_roi_align_with_one_point_to_a_cell():
    features = torch.randn(1, 3, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    regions = some(2) + 4
    theirs = roi_align(features, [regions], 7, 1 / 4, sampling_ratio=1, aligned=True)
    assert torch.allclose(warp(features, [regions], 7, 4), theirs, atol=1e-12)


def test_the_gradient_is_that_of_finite_differences_in_the_map_and_in_the_box():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(1, 2, 5, 6, dtype=torch.float64, generator=generator).requires_grad_()
    regions = some(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, r: warp(f, [r], 3, 4), (features, regions), eps=1e-6, atol=1e-5)
    (moved,) = torch.autograd.grad(warp(features, [regions], 3, 4).square().sum(), regions)
    assert moved.all()


def test_following_the_gradient_moves_a_box_onto_what_it_looks_for():
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    hill = torch.exp(-((rows - 11.5) ** 2 + (columns - 14.5) ** 2) / 30)[None, None]
    box = torch.tensor([[20.0, 28.0, 60.0, 68.0]], requires_grad=True)
    optimizer = torch.optim.SGD([box], lr=200)
    for _ in range(100):
        optimizer.zero_grad()
        (-warp(hill, [box], 5, 4).mean()).backward()
        optimizer.step()
    middle = (box[0, :2] + box[0, 2:]).detach() / 2
    assert math.dist(middle.tolist(), (60, 48)) < 1  # (14.5 + 0.5) * 4, (11.5 + 0.5) * 4


def test_no_region_is_none():
    assert warp(torch.zeros(2, 3, 5, 5), [torch.zeros(0, 4)] * 2, 4, 16).shape == (0, 3, 4, 4)
