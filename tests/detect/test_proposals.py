import pytest
import torch
from torchvision.ops import batched_nms

from residual.detect import proposals
from residual.detect.proposals import kept_first


@pytest.mark.parametrize("count", [0, 1, 50, 3000])
@pytest.mark.parametrize("spread", [5.0, 200.0])
def test_the_surest_that_stay_are_found_among_the_surest(count: int, spread: float, monkeypatch):
    draw = torch.Generator().manual_seed(count)
    low = spread * torch.rand(count, 2, generator=draw)
    boxes = torch.cat([low, low + 20 + 20 * torch.rand(count, 2, generator=draw)], dim=1)
    scores, groups = torch.rand(count, generator=draw), torch.randint(0, 3, (count,), generator=draw)
    expected = batched_nms(boxes, scores, groups, 0.7)
    searched = []
    monkeypatch.setattr(proposals, "batched_nms", lambda b, *rest: searched.append(len(b)) or batched_nms(b, *rest))
    for most in (1, 10, 100, 10_000):
        searched.clear()
        assert torch.equal(kept_first(boxes, scores, groups, 0.7, most), expected[:most])
        if count == 3000 and spread == 200 and most == 100:
            assert searched == [400]
