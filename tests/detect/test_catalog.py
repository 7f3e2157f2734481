"""Detectors by name: the paper's settings, whatever trunk they stand on."""

from dataclasses import replace

import pytest
import torch

from residual.detect.card import card_of, from_json, to_json
from residual.detect.catalog import NAMES, describe_detector, named
from residual.detect.detector import network
from residual.detect.procedure import Procedure
from residual.models.catalog import describe
from residual.recipes.detection import RECIPES

CLASSES = tuple(f"class {number}" for number in range(20))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_a_network_whose_card_can_be_told_and_read(name):
    described = describe_detector(name, CLASSES)
    with torch.device("meta"):
        net = network(described)
    assert sum(p.numel() for p in net.parameters()) > 100_000
    rgb = (0.5, 0.5, 0.5)
    card = card_of(described, name=name, classes=CLASSES, mean=rgb, std=rgb, procedure=Procedure())
    assert from_json(to_json(card)) == card
    assert card.masks == name.startswith(("mask", "mnc"))


def test_the_papers_detector_has_its_numbers():
    """Section 5 of the Faster R-CNN paper; appendix A of ours."""
    described = describe_detector("faster_rcnn_resnet101_c4", CLASSES)
    assert described.trunk == describe("resnet101")
    assert described.proposals.sizes == (128.0, 256.0, 512.0)
    assert described.proposals.shapes == (0.5, 1.0, 2.0)
    assert described.proposals.anchors == 9
    assert described.proposals.after[1] == 300
    assert described.regions.cut == "pool"
    assert not described.regions.context
    assert describe_detector("faster_rcnn_resnet101_c4_context", CLASSES).regions.context


def test_cocos_scales_make_twelve_anchors():
    described = describe_detector("faster_rcnn_resnet101_c4", CLASSES, anchors=(64.0, 128.0, 256.0, 512.0))
    assert described.proposals.anchors == 12


@pytest.mark.parametrize(
    "name", ["faster_rcnn_resnet50_c4", "mnc_resnet50", "localizer_resnet50", "mask_rcnn_small_c4"]
)
def test_anchors_shrink_with_the_images(name):
    whole, half = (describe_detector(name, CLASSES, side=side) for side in (600, 300))
    sizes = [getattr(each, "proposals", each).sizes for each in (whole, half)]
    assert sizes[1] == pytest.approx([size / 2 for size in sizes[0]])


def test_a_pyramids_anchors_begin_at_32_pixels_as_its_authors_have_them():
    described = describe_detector("faster_rcnn_resnet50_fpn", CLASSES)
    assert described.proposals.sizes == (32.0,)
    assert described.pyramid is not None


def test_the_small_pyramid_has_anchors_of_12_pixels_in_windows():
    recipe = RECIPES["windows"]()
    described = describe_detector("mask_rcnn_small_fpn", ("nucleus",), side=recipe.side, anchors=recipe.anchors)
    assert described.proposals.sizes == pytest.approx((12.0,))
    assert (described.trunk.depths, described.regions.most, described.masks.convs) == ((1, 1, 1, 1), 400, 2)
    with torch.device("meta"):
        assert sum(p.numel() for p in network(described).parameters()) == 2_407_606
    assert describe_detector("mask_rcnn_small_c4", CLASSES).trunk.depths == (2, 2)


@pytest.mark.parametrize(
    "name, words",
    [
        ("resnet50", "no detector is called"),
        ("faster_rcnn_resnet50", "faster_rcnn_resnet50_c4 or faster_rcnn_resnet50_fpn"),
        ("faster_rcnn_resnet21_c4", "depth 21 does not exist"),
        ("localizer_resnet50_c4", "localizer_resnet50"),
        ("mnc_resnet50_context", "mnc_resnet50"),
        ("faster_rcnn_vgg16_fpn", "take a ResNet"),
    ],
)
def test_a_name_that_says_too_little_or_too_much_is_refused_with_the_right_one(name, words):
    with pytest.raises(ValueError, match=words):
        named(name)


@pytest.mark.parametrize("name", ["resnet50", "wide_resnet50_2", "preresnet110", "plain20"])
def test_a_classifiers_name_is_no_detectors(name):
    with pytest.raises(ValueError, match="no detector is called"):
        named(name)


def test_a_trained_small_trunk_carries_what_was_made_for_it():
    trained = replace(named("faster_rcnn_small_c4").trunk, classes=7, image=64)
    assert describe_detector("faster_rcnn_small_c4", CLASSES, trunk=trained).proposals.width == 64


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_localizer_has_the_norm_that_was_asked_for(norm):
    with torch.device("meta"):
        net = network(describe_detector("localizer_small", CLASSES, norm=norm))
    kinds = {type(module).__name__ for module in net.modules() if "Norm" in type(module).__name__}
    assert kinds == {"BatchNorm2d" if norm == "batch" else "GroupNorm"}
