import pytest
import torch
from torch import nn
from torchvision.models.detection.roi_heads import maskrcnn_loss, project_masks_on_boxes

from residual.detect.masks import MaskDescription
from residual.detect.pyramid import PyramidDescription
from residual.detect.raster import covered
from residual.detect.regions import RegionDescription
from residual.models.catalog import describe

ALIGNED = RegionDescription(cut="align", batch=16)


def test_on_c4_the_mask_of_resnet50_is_14_by_14_and_on_a_pyramid_28_by_28(make):
    with torch.device("meta"):
        net = make(trunk=describe("resnet50"), masks=MaskDescription())
        assert net.masker(torch.zeros(2, 2048, 7, 7)).shape == (2, 3, 14, 14)
        net = make(
            trunk=describe("resnet50"), pyramid=PyramidDescription(), regions=ALIGNED, masks=MaskDescription(convs=4)
        )
        assert net.masker(torch.zeros(2, 256, 14, 14)).shape == (2, 3, 28, 28)


def test_the_loss_is_torchvisions(make):
    torch.manual_seed(3)
    net = make(masks=MaskDescription(width=5))
    masks = torch.rand(3, 40, 40) > 0.5
    regions = torch.tensor([[0.0, 0.0, 30.0, 30.0], [5.0, 5.0, 33.0, 40.0], [2.0, 8.0, 12.0, 18.0]])
    which, labels = torch.tensor([2, 0, 1]), torch.tensor([0, 2, 1])
    logits = torch.randn(3, 3, 6, 6)
    wanted = project_masks_on_boxes(masks, regions, which, 6)  # theirs, half a pixel on
    ours = net.masker.loss(logits, labels[which], wanted)
    theirs = maskrcnn_loss(logits, [regions], [masks], [labels], [which])
    assert torch.allclose(ours, theirs)
    shifted = covered(masks, which, regions + 0.5, 6)
    assert torch.allclose(shifted, wanted, atol=1e-5)


def test_masks_of_other_classes_cost_nothing(make):
    net = make(masks=MaskDescription(width=5))
    logits = torch.randn(4, 3, 6, 6, requires_grad=True)
    labels = torch.tensor([0, 2, 2, 1])
    net.masker.loss(logits, labels, (torch.rand(4, 6, 6) > 0.5).float()).backward()
    reached = logits.grad.abs().sum((2, 3)) > 0
    assert torch.equal(reached, nn.functional.one_hot(labels, 3).bool())


@pytest.mark.parametrize("convs", [0, 2])
def test_a_detector_learns_the_outline_of_one_image(convs: int, make):
    changes = {"pyramid": PyramidDescription(width=6, hidden=8), "regions": ALIGNED} if convs else {}
    net = make(masks=MaskDescription(width=8, convs=convs, pooled=6), **changes)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[8.0, 8.0, 56.0, 56.0]])
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    triangle = ((columns >= 8) & (columns < rows) & (rows < 56))[None]
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    told = []
    for _ in range(40):
        torch.manual_seed(0)
        losses = net.losses(image, [(64, 64)], [box], [torch.tensor([1])], [triangle])
        optimizer.zero_grad()
        losses.masked.backward()
        optimizer.step()
        told.append(losses.masked.item())
    assert told[-1] < 0.5 * told[0]
