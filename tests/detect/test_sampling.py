import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from residual.detect import sampling
from residual.detect.sampling import NOTHING, UNUSED, assign, sample


def some(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = 60 * torch.rand(count, 2, generator=generator)
    return torch.cat([corners, corners + 5 + 30 * torch.rand(count, 2, generator=generator)], 1)


def test_references_are_assigned_as_torchvision_does():
    for seed in range(50):
        references, objects = some(200, seed), some(1 + seed % 6, 1000 + seed)
        for best in (True, False):
            ours = assign(references, objects, positive=0.6, negative=0.3, best=best)
            theirs = Matcher(0.6, 0.3, allow_low_quality_matches=best)(box_iou(objects, references))
            if best:  # where a reference is the best of several, both take an object that it is the best of
                theirs = torch.where(theirs >= 0, 0, theirs)
                ours = torch.where(ours >= 0, 0, ours)
            assert torch.equal(ours, theirs)


def test_many_references_are_assigned_part_by_part_as_all_at_once(monkeypatch):
    references, objects = some(300, 1), some(7, 2)
    for best in (True, False):
        at_once = assign(references, objects, positive=0.6, negative=0.3, best=best)
        monkeypatch.setattr(sampling, "PAIRS", 100)
        assert torch.equal(assign(references, objects, positive=0.6, negative=0.3, best=best), at_once)
        monkeypatch.undo()


def test_without_objects_every_reference_stands_for_nothing():
    assert assign(some(9, 0), torch.zeros(0, 4), positive=0.5, negative=0.5).tolist() == [NOTHING] * 9


def test_what_overlaps_too_little_to_be_a_telling_mistake_is_unused():
    references, objects = (
        torch.tensor([[0.0, 0, 10, 10], [8, 0, 18, 10], [50, 0, 60, 10]]),
        torch.tensor([[0.0, 0, 10, 10]]),
    )
    assigned = assign(references, objects, positive=0.5, negative=0.5, least=0.1)
    assert assigned.tolist() == [0, NOTHING, UNUSED]


def test_a_sample_has_at_most_its_share_of_objects_and_no_unused_reference():
    assigned = torch.tensor([0] * 30 + [NOTHING] * 100 + [UNUSED] * 50)
    positive, negative = sample(assigned, 40, share=0.5)
    assert (len(positive), len(negative)) == (20, 20)
    assert set(assigned[positive].tolist()) == {0}
    assert set(assigned[negative].tolist()) == {NOTHING}
    assert len(set(positive.tolist())) == 20
    few = torch.tensor([0] * 3 + [NOTHING] * 100)
    assert [len(part) for part in sample(few, 40, share=0.5)] == [3, 37]
