import pytest
import torch
from torchvision.ops import box_iou

from residual.detect.voting import vote


def some(seed: int, count: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(6, 2, generator=generator) * 100
    corners = centres[torch.randint(6, (count,), generator=generator)] + 3 * torch.randn(count, 2, generator=generator)
    boxes = torch.cat([corners, corners + 20 + 3 * torch.rand(count, 2, generator=generator)], 1)
    return boxes, torch.randint(3, (count,), generator=generator), torch.rand(count, generator=generator)


def slowly(boxes, labels, scores, overlap, voters):
    """Greedy suppression and voting, box by box."""
    left, found = sorted(range(len(boxes)), key=lambda i: -scores[i]), []
    while left:
        best = left.pop(0)
        left = [
            i for i in left if labels[i] != labels[best] or box_iou(boxes[i : i + 1], boxes[best : best + 1]) <= overlap
        ]
        total, weight = torch.zeros(4), 0.0
        for i in range(len(boxes)):
            if labels[i] == labels[best] and box_iou(boxes[i : i + 1], boxes[best : best + 1]) >= voters:
                total += scores[i] * boxes[i]
                weight += scores[i]
        found.append((total / weight, int(labels[best]), float(scores[best])))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_voting_agrees_with_a_slow_loop(seed: int):
    given = some(seed)
    boxes, labels, scores = vote(*given, overlap=0.3, voters=0.5)
    expected = slowly(*given, 0.3, 0.5)
    assert len(boxes) == len(expected)
    assert labels.tolist() == [label for _, label, _ in expected]
    assert scores.tolist() == pytest.approx([score for *_, score in expected])
    assert torch.allclose(boxes, torch.stack([box for box, *_ in expected]), atol=1e-3)
    assert len(boxes) < 40


def test_a_lone_box_stays_where_it_is_and_none_is_none():
    boxes = torch.tensor([[1.0, 2.0, 30.0, 40.0]])
    moved, _, _ = vote(boxes, torch.tensor([1]), torch.tensor([0.4]), overlap=0.3)
    assert torch.allclose(moved, boxes)
    empty, *_ = vote(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0), overlap=0.3)
    assert empty.shape == (0, 4)
