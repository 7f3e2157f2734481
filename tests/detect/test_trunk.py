from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models import vgg16 as build_vgg16

from residual.detect.faster_rcnn import DetectorDescription, FasterRCNN
from residual.detect.pyramid import PyramidDescription
from residual.detect.regions import RegionDescription
from residual.detect.trunk import Trunk, c4, fixed, strides, vgg16
from residual.models.catalog import describe
from residual.models.description import Description
from residual.models.resnet import ResNet

SMALL = Description(block="basic", depths=(1, 2, 1), widths=(4, 6, 8), stem="cifar", stem_width=4)


def test_both_parts_together_are_the_network():
    torch.manual_seed(0)
    net = ResNet(SMALL).eval()
    images = torch.randn(2, 3, 16, 24)
    expected = net.features(images)
    trunk = c4(net)
    (maps,) = trunk.shared(images)
    assert torch.equal(maps, expected[1])
    assert torch.equal(trunk.stage(maps), expected[2])
    assert (trunk.channels, trunk.width, trunk.strides) == (6, 8, (2,))


def test_a_place_on_the_map_is_as_many_pixels_as_told():
    for description in (SMALL, describe("resnet18"), describe("resnet50")):
        with torch.device("meta"):
            maps = ResNet(description).features(torch.zeros(1, 3, 128, 192))
        assert strides(description) == tuple(128 // x.shape[2] for x in maps)


def test_vggs_parts_together_are_the_network_up_to_its_last_layer():
    with torch.device("meta"):
        whole = build_vgg16()
        trunk = vgg16(whole)
        assert trunk.stage(torch.zeros(3, 512, 7, 7)).shape == (3, 4096, 1, 1)
    names = [type(m).__name__ for m in trunk.stage]
    assert names == ["Flatten", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Unflatten"]
    convolutions = [m for m in trunk.shared.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 13
    assert convolutions[0] is whole.features[0]
    assert trunk.stage[4] is whole.classifier[3]


def test_any_parts_that_fit_make_a_detector():
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3, stride=8, padding=1)

        def forward(self, images):
            return [self.conv(images)]

    trunk = Trunk(
        shared=Halves(), channels=5, strides=(8,), stage=nn.Conv2d(5, 7, 3), width=7, pooled=4, still=(nn.Identity(),)
    )
    description = DetectorDescription(trunk=SMALL, classes=("cat", "dog"), regions=RegionDescription(batch=8))
    net = FasterRCNN(description, trunk)
    truth = [torch.tensor([[3.0, 3.0, 40.0, 40.0]])]
    net.losses(torch.randn(1, 3, 64, 64), [(64, 64)], truth, [torch.tensor([1])]).total.backward()
    assert net.shared.conv.weight.grad.abs().sum() > 0
    assert len(net.eval()(torch.randn(1, 3, 64, 64), [(64, 64)])) == 1


def test_a_fixed_norm_scales_as_the_trained_one_did():
    norm = nn.BatchNorm2d(4, eps=1e-3)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 2)
    x = torch.randn(2, 4, 5, 5)
    still = fixed(norm)
    assert torch.allclose(still.train()(x), norm.eval()(x), atol=1e-6)
    assert not list(still.parameters())


@pytest.mark.parametrize("pyramid", [None, PyramidDescription(width=4, hidden=4)])
def test_activations_computed_again_change_no_gradient(pyramid):
    gradients = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        trunk = replace(SMALL, checkpoint=checkpoint)
        net = FasterRCNN(DetectorDescription(trunk=trunk, classes=("cat",), pyramid=pyramid))
        torch.manual_seed(1)
        truth = [torch.tensor([[3.0, 3.0, 40.0, 40.0]])]
        net.losses(torch.randn(1, 3, 48, 48), [(48, 48)], truth, [torch.tensor([0])]).total.backward()
        gradients.append({name: p.grad for name, p in net.named_parameters()})
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])
