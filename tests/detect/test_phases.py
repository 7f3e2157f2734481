import pytest
import torch

from residual.detect.masks import MaskDescription
from residual.detect.phases import ALTERNATING, Phase, phase_loss

TOGETHER = (Phase(name="together", learns=("shared", "proposer", "head", "masker")),)

TRUTH = ([(64, 64)], [torch.tensor([[10.0, 10.0, 40.0, 40.0]])], [torch.tensor([1])])


def image() -> torch.Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_all_at_once_is_the_detectors_own_loss(make):
    net = make().train()
    torch.manual_seed(3)
    expected = net.losses(image(), *TRUTH).total
    torch.manual_seed(3)
    assert torch.allclose(phase_loss(net, TOGETHER[0], image(), *TRUTH), expected)


@pytest.mark.parametrize("masks", [False, True])
def test_each_of_the_four_steps_changes_its_parts_alone(masks: bool, make):
    net = make(**({"masks": MaskDescription(width=5)} if masks else {}))
    outlines = [torch.ones(1, 64, 64, dtype=torch.bool)] if masks else None
    proposals = [torch.tensor([[8.0, 8.0, 40.0, 44.0], [0.0, 0.0, 30.0, 9.0]])]
    for phase in ALTERNATING:
        before = {name: value.clone() for name, value in net.state_dict().items()}
        given = proposals if phase.proposals == "before" else None
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        optimizer.zero_grad()
        phase_loss(net, phase, image(), *TRUTH, outlines, given).backward()
        optimizer.step()
        changed = {
            name.split(".")[0] for name, value in net.state_dict().items() if not torch.equal(value, before[name])
        }
        assert changed == set(phase.learns) - (set() if masks else {"masker"}), phase.name
    assert [phase.learns[0] for phase in ALTERNATING] == ["shared", "shared", "proposer", "head"]


def test_a_step_is_refused_without_the_proposals_it_stands_on_and_with_others(make):
    net = make()
    with pytest.raises(ValueError, match="needs the proposals"):
        phase_loss(net, ALTERNATING[1], image(), *TRUTH)
    with pytest.raises(ValueError, match="makes its own"):
        phase_loss(net, TOGETHER[0], image(), *TRUTH, proposals=[torch.zeros(0, 4)])
