import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from residual.detect.anchors import anchors

CPU = torch.device("cpu")


def test_nine_anchors_stand_at_every_place_with_the_areas_and_shapes_asked_for():
    found = anchors(2, 3, stride=16, sizes=(128.0, 256.0, 512.0), shapes=(0.5, 1.0, 2.0), device=CPU)
    assert found.shape == (2 * 3 * 9, 4)
    sides = found[:, 2:] - found[:, :2]
    assert torch.allclose(sides.prod(1).sqrt().view(6, 3, 3), torch.tensor([128.0, 256.0, 512.0])[None, :, None])
    assert torch.allclose((sides[:, 1] / sides[:, 0]).view(6, 3, 3), torch.tensor([0.5, 1.0, 2.0]))
    centres = ((found[:, :2] + found[:, 2:]) / 2).view(6, 9, 2)
    assert torch.allclose(centres[:, 0], torch.tensor([[8, 8], [24, 8], [40, 8], [8, 24], [24, 24], [40, 24]]).float())
    assert torch.allclose(centres, centres[:, :1].expand_as(centres), atol=1e-4)


def test_they_are_those_of_torchvision_half_a_stride_on_and_not_rounded():
    generator = AnchorGenerator(sizes=((64,),), aspect_ratios=((0.25, 1.0, 4.0),))  # sides that are whole numbers
    images = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
    (theirs,) = generator(images, [torch.zeros(1, 8, 4, 6)])
    ours = anchors(4, 6, stride=16, sizes=(64.0,), shapes=(0.25, 1.0, 4.0), device=CPU)
    assert torch.allclose(ours, theirs + 8, atol=1e-4)
