import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms

from residual.detect import boxes


def some(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = 300 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    return torch.cat([corners, corners + 2 + 90 * torch.rand(count, 2, generator=generator, dtype=torch.float64)], 1)


def test_decoding_is_the_inverse_of_encoding():
    wanted, references = some(500, 0), some(500, 1)
    assert torch.allclose(boxes.decode(boxes.encode(wanted, references), references), wanted, atol=1e-9)


def test_a_box_tells_itself_by_zeros():
    assert not boxes.encode(some(20, 2), some(20, 2)).any()


def test_codes_are_those_of_torchvision():
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    wanted, references = some(200, 3).float(), some(200, 4).float()
    assert torch.allclose(boxes.encode(wanted, references), coder.encode_single(wanted, references), atol=1e-5)
    wild = 8 * torch.randn(200, 4, generator=torch.Generator().manual_seed(5))  # beyond the largest growth
    ours, theirs = boxes.decode(wild, references), coder.decode_single(wild, references)
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-3)


def test_clipping_keeps_what_is_on_the_image():
    given = torch.tensor([[-5.0, 3.0, 4.0, 99.0], [10.0, 10.0, 12.0, 12.0], [90.0, 90.0, 95.0, 95.0]])
    expected = [[0, 3, 4, 50], [10, 10, 12, 12], [60, 50, 60, 50]]
    assert boxes.clip(given, height=50, width=60).tolist() == expected


@pytest.mark.parametrize("count", [0, 1, 50, 3000])
@pytest.mark.parametrize("spread", [5.0, 200.0])
def test_the_first_that_stay_are_found_among_the_surest(count: int, spread: float, monkeypatch):
    draw = torch.Generator().manual_seed(count)
    low = spread * torch.rand(count, 2, generator=draw)
    found = torch.cat([low, low + 20 + 20 * torch.rand(count, 2, generator=draw)], dim=1)
    scores, groups = torch.rand(count, generator=draw), torch.randint(0, 3, (count,), generator=draw)
    expected = batched_nms(found, scores, groups, 0.7)
    searched = []
    monkeypatch.setattr(boxes, "batched_nms", lambda b, *rest: searched.append(len(b)) or batched_nms(b, *rest))
    for most in (1, 10, 100, 10_000):
        searched.clear()
        assert torch.equal(boxes.kept_first(found, scores, groups, 0.7, most), expected[:most])
        if count == 3000 and spread == 200 and most == 100:
            assert searched == [400]
