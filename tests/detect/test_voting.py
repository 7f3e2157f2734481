import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from residual.detect.raster import placed
from residual.detect.voting import vote, vote_masks


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
    point = torch.tensor([[7.0, 8.0, 7.0, 8.0]])
    moved, _, _ = vote(point, torch.tensor([1]), torch.tensor([0.4]), overlap=0.3)
    assert torch.equal(moved, point)
    empty, *_ = vote(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0), overlap=0.3)
    assert empty.shape == (0, 4)


def test_masks_vote_as_a_slow_loop_over_pixels_does():
    boxes, labels, scores = some(9, 25)
    masks = torch.rand(25, 5, 5, generator=torch.Generator().manual_seed(1))
    kept = batched_nms(boxes, scores, labels, 0.3)
    found = vote_masks(boxes, labels, scores, masks, kept, (130, 140))
    each = torch.zeros(25, 130, 140)
    for n in range(25):
        rows, columns, values = placed(masks[n], boxes[n], (130, 140))
        each[n, rows, columns] = values
    for mask, best in zip(found, kept.tolist(), strict=True):
        voters = [
            n
            for n in range(25)
            if labels[n] == labels[best] and box_iou(boxes[n : n + 1], boxes[best : best + 1]) >= 0.5
        ]
        mean = sum(scores[n] * each[n] for n in voters) / sum(scores[n] for n in voters)
        assert np.array_equal(mask, mean >= 0.4)
    assert len(kept) < 25
    assert found.drawn().any()
