"""How ImageNet's images were fed, against torchvision's own transforms and table."""

import torch
from torchvision.models import ResNet50_Weights

from residual.weights import imagenet


def test_classes_are_imagenet_s_in_the_order_of_their_synsets():
    names = imagenet.classes(1000)
    assert (len(names), names[0], names[1], names[999]) == (1000, "tench", "goldfish", "toilet tissue")
    assert imagenet.classes(2) == ("class 0", "class 1")


def test_torchvision_s_two_ways_are_those_of_its_weights():
    for ours, theirs in (
        (imagenet.TORCHVISION, ResNet50_Weights.IMAGENET1K_V1.transforms()),
        (imagenet.TORCHVISION_V2, ResNet50_Weights.IMAGENET1K_V2.transforms()),
    ):
        assert ([ours.size], [ours.resize]) == (theirs.crop_size, theirs.resize_size)
        assert ours.interpolation == theirs.interpolation.value
        torch.testing.assert_close(torch.tensor(ours.mean), 255 * torch.tensor(theirs.mean))
        torch.testing.assert_close(torch.tensor(ours.std), 255 * torch.tensor(theirs.std))


def test_caffe_s_way_only_subtracts():
    ours = imagenet.mean_subtracted((103.939, 116.779, 123.68))
    assert (ours.channels, ours.mean, ours.std) == ("BGR", (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))
