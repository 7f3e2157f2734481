import torch

from residual.detect.refine import refine, surest


def judge(regions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes; each moves a region by its own step, and the second is surer of regions further to the right."""
    right = regions[:, 0] > 10
    probabilities = torch.stack([torch.where(right, 0.2, 0.7), torch.where(right, 0.6, 0.1)], dim=1)
    return probabilities, torch.stack([regions + 1, regions + 100], dim=1)


def test_each_box_of_the_surest_class_is_judged_again_one_by_one():
    regions = torch.tensor([[0.0, 0.0, 5.0, 5.0], [20.0, 0.0, 30.0, 5.0], [9.5, 3.0, 40.0, 8.0]])
    probabilities, boxes = refine(judge, *judge(regions))
    expected = []
    for region in regions:
        sure, told = judge(region[None])
        expected.append(judge(told[0, int(sure[0].argmax())][None]))
    assert torch.equal(probabilities, torch.cat([judge(regions)[0], *(p for p, _ in expected)]))
    assert torch.equal(boxes, torch.cat([judge(regions)[1], *(b for _, b in expected)]))
    assert probabilities[3:].tolist() == torch.tensor([[0.7, 0.1], [0.2, 0.6], [0.2, 0.6]]).tolist()


def test_no_region_is_refined_to_none():
    probabilities, boxes = refine(judge, *judge(torch.zeros(0, 4)))
    assert probabilities.shape == (0, 2)
    assert surest(probabilities, boxes).shape == (0, 4)
