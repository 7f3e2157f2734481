"""What detectors multiply, against PyTorch's own count of the networks that are built."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from residual.detect.catalog import describe_detector
from residual.detect.detector import network
from residual.detect.faster_rcnn import FasterRCNN
from residual.detect.localize import Localizers
from residual.models.catalog import describe
from residual.models.cost import layers, macs
from residual.recipes.detection import at_side, detection_recipe, voc
from residual.recipes.paper import paper
from residual.reproduce.arithmetic import LABELS, learned, looked, placed, searched
from residual.reproduce.experiment import DetectionSetting, Setting


def square(model: str, side: int) -> DetectionSetting:
    """On square images."""
    recipe = detection_recipe("modern", model) if "small" in model else voc()
    augmentation = replace(at_side(recipe.augmentation, side), longer=side)
    return DetectionSetting(model=model, recipe=replace(recipe, augmentation=augmentation), data="scenes:16")


def counted(module: torch.nn.Module, *shape: int) -> float:
    """Multiply-adds of one passage, by PyTorch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(*shape, device="meta"))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("model", "side", "regions"),
    [
        ("faster_rcnn_small_c4", 96, 16),
        ("faster_rcnn_resnet18_c4", 192, 64),
        ("faster_rcnn_resnet50_c4", 192, 64),
        ("faster_rcnn_vgg16", 224, 64),
    ],
)
def test_a_detector_takes_the_image_through_all_but_the_last_stage_and_each_region_through_that(model, side, regions):
    setting = square(model, side)
    with torch.device("meta"):
        net = network(describe_detector(model, ("object",), side=side, anchors=setting.recipe.anchors))
    assert isinstance(net, FasterRCNN)
    net.eval()
    image = counted(net.shared, 1, 3, side, side)
    channels = net.proposer.conv.weight.shape[1]
    region = counted(net.head.stage, 1, channels, net.head.pooled, net.head.pooled)
    assert learned(setting).macs == pytest.approx(image + regions * region, rel=0.03)
    found = describe_detector(model, ("object",), side=side).proposals.after[1]
    assert looked(setting).macs == pytest.approx(image + found * region, rel=0.03)


def test_a_localizer_takes_each_region_through_the_whole_network():
    setting = square("localizer_small", 64)
    with torch.device("meta"):
        net = network(describe_detector("localizer_small", ("object",), side=64, anchors=setting.recipe.anchors))
    assert isinstance(net, Localizers)
    told = net.first.description
    image, region = counted(net.first.body, 1, 3, 64, 64), counted(net.second.body, 1, 3, told.side, told.side)
    assert learned(setting).macs == pytest.approx(image + told.roi_batch * region, rel=0.03)
    assert looked(setting).macs == pytest.approx(image + LABELS * told.candidates * region, rel=0.03)


def test_a_cascade_takes_each_region_and_its_mask_through_the_last_stage_once_or_twice():
    plain, three, five = (
        learned(square(model, 96)).macs for model in ("faster_rcnn_small_c4", "mnc_small", "mnc5_small")
    )
    assert five - three == pytest.approx(2 * (three - plain))
    assert plain < three < 2 * plain


def test_a_classifier_multiplies_what_its_description_says():
    setting = Setting(model="resnet20", recipe=paper(), data="cifar10")
    assert (learned(setting).macs, learned(setting).layers) == (macs(describe("resnet20"), 32), 20)
    assert looked(setting) == learned(setting)
    assert learned(setting).layers == layers(describe("resnet20"))


def test_boxes_that_are_refined_are_judged_twice_and_five_scales_are_seven_images():
    setting = square("faster_rcnn_small_c4", 96)
    plain, refined = searched(setting), searched(setting, refined=True)
    regions = refined.macs - plain.macs
    image = plain.macs - regions
    best = searched(setting, refined=True, scales=True)
    areas = 1 + sum((side / 600) ** 2 for side in (200, 400, 600, 800, 1000))
    assert best.macs == pytest.approx(areas * image + 4 * regions), "twice, at two scales each"
    assert (plain.layers, refined.layers, best.layers) == (1, 2, 4)
    assert searched(setting, networks=3).macs == pytest.approx(image + 3 * regions), "each judges the proposals of all"


def test_a_localizer_looks_at_five_scales_and_only_the_second_step_at_regions():
    setting = square("localizer_small", 64)
    once, dense = placed(setting, second=False, named=True), placed(setting, second=False, named=True, dense=True)
    assert dense.macs == pytest.approx(sum((side / 224) ** 2 for side in (224, 256, 384, 480, 640)) * once.macs)
    assert placed(setting, second=False).macs == pytest.approx(2 * once.macs), (
        "once for the classes, once for the place"
    )
    assert placed(setting).macs == looked(setting).macs > once.macs
