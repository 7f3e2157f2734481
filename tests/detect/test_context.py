from dataclasses import replace

import torch

from residual.detect.context import beside, whole
from residual.detect.cutting import cut


def test_each_region_stands_beside_its_own_image():
    regions, images = torch.arange(10.0).view(5, 2), torch.tensor([[10.0, 11.0], [20.0, 21.0], [30.0, 31.0]])
    found = beside(regions, images, [2, 0, 3])
    assert found[:, 2].tolist() == [10, 10, 30, 30, 30]
    assert torch.equal(found[:, :2], regions)
    assert whole([(5, 7)], regions)[0].tolist() == [[0, 0, 7, 5]]


def test_the_image_goes_through_the_same_stage_and_learns_with_it(make):
    net = make(regions=replace(make().description.regions, context=True)).eval()
    maps, sizes = net.shared(torch.randn(2, 3, 64, 96)), [(64, 96), (50, 80)]
    regions = [torch.tensor([[3.0, 4.0, 30.0, 40.0]]), torch.tensor([[20.0, 4.0, 70.0, 40.0], [0.0, 0.0, 9.0, 9.0]])]
    scores, codes, _ = net.head(maps, regions, sizes)
    number = 0
    for n, (here, size) in enumerate(zip(regions, sizes, strict=True)):
        image = torch.tensor([[0.0, 0.0, size[1], size[0]]])
        for region in here:
            pair = [
                net.head.stage(cut([maps[0][n : n + 1]], [box], 6, (16,), "align")).mean((2, 3))
                for box in (region[None], image)
            ]
            expected = net.head.tell(torch.cat(pair, 1))
            assert torch.allclose(scores[number], expected[0][0], atol=1e-6)
            assert torch.allclose(codes[number], expected[1][0], atol=1e-6)
            number += 1


def test_only_with_context_does_a_score_depend_on_what_lies_elsewhere(make):
    for context in (False, True):
        net = make(regions=replace(make().description.regions, context=context)).eval()
        maps = [torch.randn(1, 8, 6, 6, requires_grad=True)]
        scores, _, _ = net.head(maps, [torch.tensor([[0.0, 0.0, 20.0, 20.0]])], [(96, 96)])
        scores.square().sum().backward()
        assert bool(maps[0].grad[..., 3:, 3:].any()) == context
