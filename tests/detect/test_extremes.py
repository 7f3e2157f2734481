"""Panoramas, crowds, specks and images of nothing: every kind of detector trains on them and looks at them.

Memory is what the process reaches above where it stood before, as Linux counts it.
"""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from residual.detect.card import DetectorCard
from residual.detect.cascade import CascadeDescription
from residual.detect.catalog import describe_detector
from residual.detect.detector import Detector, network
from residual.detect.faster_rcnn import DetectorDescription
from residual.detect.localize import Localizers
from residual.detect.procedure import Procedure

CLASSES = ("cat", "dog", "tree")
NAMES = ("faster_rcnn_small_c4", "mask_rcnn_small_fpn", "mnc5_small", "localizer_small")
MEGABYTES = 1000  # at most, of one image

IMAGES: dict[str, tuple[tuple[int, int], list[list[float]]]] = {
    "a panorama": ((50, 10_000), [[100, 5, 9900, 45], [20, 10, 40, 30]]),
    "a tower": ((10_000, 50), [[5, 100, 45, 9900]]),
    "400 objects": ((400, 400), [[x, y, x + 10, y + 10] for y in range(0, 400, 20) for x in range(0, 400, 20)]),
    "specks": ((200, 200), [[10, 10, 11, 11], [199, 199, 200, 200]]),
    "nothing": ((200, 200), []),
}


@pytest.fixture(scope="module", params=NAMES)
def detector(request) -> Detector:
    torch.manual_seed(0)
    described = describe_detector(request.param, CLASSES, side=96)
    kinds = {DetectorDescription: "detector", CascadeDescription: "cascade"}
    card = DetectorCard(
        name=request.param,
        classes=CLASSES,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        procedure=Procedure(side=96, longest=160),
        **{kinds.get(type(described), "localizer"): described},
    )
    return Detector(card, network(described))


@contextmanager
def within_memory() -> Iterator[None]:
    """Fails if more than MEGABYTES are taken; elsewhere than on Linux it looks away."""
    cleared = Path("/proc/self/clear_refs")
    if not cleared.exists():
        yield
        return
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free and kept would hide what is taken
    cleared.write_text("5")  # the highest is from here on
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before <= MEGABYTES


def resident(which: str) -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which)]
    return int(line.split()[1]) / 1024


def parts(net: Any, size: tuple[int, int], boxes: Tensor) -> list[Tensor]:
    """What one image costs in training."""
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    if isinstance(net, Localizers):
        return list(net.losses(image, [size], [boxes], torch.tensor([0])))
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return [net.losses(image, [size], [boxes], [torch.arange(len(boxes)) % 3], [masks]).total]


@pytest.mark.parametrize("kind", IMAGES)
def test_a_step_of_training_is_finite_and_within_memory(kind: str, detector: Detector):
    size, objects = IMAGES[kind]
    net = detector.net.train()
    net.zero_grad()
    with within_memory():
        costs = parts(net, size, torch.tensor(objects, dtype=torch.float32).view(-1, 4))
        torch.stack(costs).sum().backward()
    assert all(cost.isfinite() for cost in costs)
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("size", [(50, 10_000), (10_000, 50), (400, 400), (1, 3000), (1, 1)])
def test_answers_are_finite_and_within_memory_shrunk_or_whole(size: tuple[int, int], detector: Detector):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    detector.eval()
    with within_memory():
        found = [detector.find(pixels), detector.find(pixels, Procedure(side=min(size), longest=max(size)))]
    for each in found:
        assert each.boxes.isfinite().all()
        assert (each.boxes >= 0).all()
        assert (each.boxes <= 1.00001 * torch.tensor([size[1], size[0]] * 2)).all()
        assert ((each.scores > 0) & (each.scores <= 1)).all()
        assert detector.card.masks == (each.masks is not None)
        if each.masks is not None:
            assert each.masks.shape == (len(each), *size)
