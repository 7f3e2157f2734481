"""Parameters and multiply-adds of detectors, by arithmetic, against the built network and what torch counts in it."""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from residual.detect.catalog import NAMES, describe_detector
from residual.detect.cost import Part, parts, regions_of, side_of
from residual.detect.detector import network

CLASSES = ("cat", "dog", "tree")
SMALL = [name for name in NAMES if "small" in name]


def built(name: str) -> nn.Module:
    with torch.device("meta"):
        return network(describe_detector(name, CLASSES))


def size(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def learned(net: nn.Module) -> list[int]:
    """Parameters of the built network, in the order of the rows."""
    if hasattr(net, "first"):
        first, second = net.first, net.second
        return [
            *(size(each) for each in (first.body.stem, *first.body.stages, first.conv)),
            size(first.score, first.box),
            *(size(each) for each in (second.body.stem, *second.body.stages)),
            size(second.score, second.box),
        ]
    shared = getattr(net.shared, "body", net.shared)
    if hasattr(shared, "stages"):
        rows = [size(shared.stem), *map(size, shared.stages)]
    else:  # VGG-16, between its poolings
        groups = [[]]
        for layer in shared.layers:
            groups.append([]) if isinstance(layer, nn.MaxPool2d) else groups[-1].append(layer)
        rows = [size(*group) for group in groups]
    if hasattr(net.shared, "fpn"):
        rows.append(size(net.shared.fpn))
    rows.append(size(net.proposer))
    if hasattr(net, "outliner"):
        stages = [size(net.outliner), size(net.head.stage), size(net.masked_stage)]
        return [*rows, *stages, size(net.head.score, net.head.box), size(net.outlined)]
    rows += [size(net.head.stage), size(net.head.score, net.head.box)]
    if net.masker is not None:
        rows += [0] * (net.masker.convs is None) + [size(net.masker)]
    return rows


@pytest.mark.parametrize("name", [*NAMES, "faster_rcnn_resnet18_fpn_context", "mask_rcnn_vgg16", "localizer_resnet20"])
def test_the_parameters_of_each_part_are_those_of_the_built_network(name: str):
    described = describe_detector(name, CLASSES)
    rows, net = parts(described, side_of(described), regions_of(described)), built(name)
    assert [row.parameters for row in rows] == learned(net)
    assert sum(row.parameters for row in rows) == size(net)


def some_regions(count: int, side: int) -> Tensor:
    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) * side / 2
    return torch.cat([corners, corners + side / 3], dim=1)


def counted(name: str, side: int, regions: int) -> tuple[Counter[str], list[Part]]:
    """Multiply-adds that torch counts in each module while one image is looked at, and our rows."""
    described = describe_detector(name, CLASSES, side=side)
    torch.manual_seed(0)
    net = network(described).eval()
    image, chosen = torch.randn(1, 3, side, side), some_regions(regions, side)
    with FlopCounterMode(display=False, depth=9) as counter, torch.no_grad():
        if name.startswith("localizer"):
            features, anchors = net.first(image)
            net.first.answers(features[0], anchors, 1)
            net.second(image, [chosen])
        else:
            maps = net.shared(image)
            net.proposer(maps)
            if name.startswith("mnc"):
                net.look(maps[0], [chosen])
            else:
                net.head(maps, [chosen], [(side, side)])
            if getattr(net, "masker", None) is not None:
                boxes = some_regions(described.regions.most, side)
                net.masker(net.masker.see(maps, [boxes], net.head))
    found: Counter[str] = Counter()
    for module, operations in counter.get_flop_counts().items():
        found[module] = sum(operations.values()) // 2
    return found, parts(described, side, regions)


@pytest.mark.parametrize("name", [*SMALL, "faster_rcnn_small_c4_context"])
@pytest.mark.parametrize("side", [64, 81])  # an odd side, so that halves are rounded
def test_multiply_adds_are_those_that_torch_counts(name: str, side: int):
    found, rows = counted(name, side, 7)
    macs = {row.name: row.macs for row in rows}
    assert found["Global"] == sum(macs.values())
    for ours, theirs in {
        "stem": ".stem",
        "pyramid": "Pyramid.fpn",
        "proposal network": "ProposalNetwork",
        "masks: head": "MaskHead",
    }.items():
        if ours in macs:
            assert [value for module, value in found.items() if module.endswith(theirs)] == [macs[ours]], ours


def test_the_papers_detector_looks_at_600_pixels_and_300_regions():
    """Five times as much for the regions as for the image: conv5 on each of them (appendix A)."""
    described = describe_detector("faster_rcnn_resnet101_c4", CLASSES)
    assert (side_of(described), regions_of(described)) == (600, 300)
    rows = {row.name: row for row in parts(described, 600, 300)}
    assert rows["stage 3"].output == (38, 38, 1024)
    assert rows["head: stage 4"].output == (7, 7, 2048)
    shared = sum(row.macs for row in rows.values() if row.times == 1)
    assert 3 < rows["head: stage 4"].macs / shared < 5
    assert side_of(describe_detector("mask_rcnn_small_c4", CLASSES)) == 96


def test_the_five_stage_cascade_looks_at_regions_twice():
    three, five = (
        {row.name: row for row in parts(describe_detector(name, CLASSES), 600, 300)}
        for name in ("mnc_resnet101", "mnc5_resnet101")
    )
    assert [row.parameters for row in three.values()] == [row.parameters for row in five.values()]
    for name, row in three.items():
        assert five[name].macs == row.macs * (1 if row.times == 1 else 2)
    assert math.prod(three["mask: two layers"].output) == 21 * 21
