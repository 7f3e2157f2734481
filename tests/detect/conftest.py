"""Small detectors, and the odd images that every one of them must bear."""

import pytest
import torch
from torch import Tensor

from residual.detect.faster_rcnn import DetectorDescription, FasterRCNN
from residual.detect.proposals import ProposalDescription
from residual.detect.regions import RegionDescription
from residual.models.description import Description

TRUNK = Description(block="basic", depths=(1, 1, 1, 1), widths=(4, 6, 8, 10), stem="imagenet", stem_width=4)
CLASSES = ("cat", "dog", "tree")
PROPOSALS = ProposalDescription(sizes=(16.0, 32.0), width=12, before=(300, 200), after=(60, 40), batch=32)
REGIONS = RegionDescription(pooled=6, cut="align", batch=16, score=0.01)

ODD = {
    "no object": ((64, 64), []),
    "one pixel": ((64, 64), [[10.0, 10.0, 11.0, 11.0]]),
    "400 objects": (
        (64, 64),
        [[3.0 * (i % 20), 3.0 * (i // 20), 3.0 * (i % 20) + 4, 3.0 * (i // 20) + 4] for i in range(400)],
    ),
    "a panorama": ((50, 10_000), [[5.0, 5.0, 9900.0, 45.0]]),
}


@pytest.fixture
def make():
    """A small detector, differently described where asked, always of the same random weights."""

    def made(**changes) -> FasterRCNN:
        torch.manual_seed(0)
        told = {"trunk": TRUNK, "classes": CLASSES, "proposals": PROPOSALS, "regions": REGIONS} | changes
        return FasterRCNN(DetectorDescription(**told))

    return made


@pytest.fixture(params=list(ODD.values()), ids=list(ODD))
def odd(request) -> tuple[Tensor, list[tuple[int, int]], list[Tensor], list[Tensor], list[Tensor]]:
    """Images, sizes, boxes, labels and masks, two images of the same kind."""
    size, objects = request.param
    truth = torch.tensor(objects).view(-1, 4)
    masks = torch.zeros(len(truth), *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, truth.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(len(truth)) % 3
    return images, [size] * 2, [truth] * 2, [labels] * 2, [masks] * 2
