"""What is made ready for inference answers as before."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from residual.detect import inference
from residual.detect.cascade import Cascade, CascadeDescription
from residual.detect.faster_rcnn import DetectorDescription, FasterRCNN
from residual.detect.inference import Fused, ready
from residual.detect.localize import LocalizerDescription, Localizers
from residual.detect.masks import MaskDescription
from residual.detect.pyramid import PyramidDescription
from residual.detect.regions import RegionDescription
from residual.detect.trunk import Convolutions, Trunk
from residual.models.description import Description

BOTTLENECK = Description(block="bottleneck", depths=(1, 1, 2, 1), widths=(4, 6, 8, 10), stem="imagenet", stem_width=4)
PYRAMID = {"pyramid": PyramidDescription(width=6, hidden=8), "regions": RegionDescription(cut="align", score=0.01)}
POOLED = RegionDescription(pooled=14, score=0.01)
VARIANTS = {
    "C4": {"regions": POOLED},
    "C4 with fixed norms": {"regions": POOLED, "frozen": True},
    "C4 with bottlenecks and context": {"regions": replace(POOLED, context=True), "trunk": BOTTLENECK},
    "C4 with masks": {"masks": MaskDescription(width=5)},
    "C4 with group norm": {"norm": "group"},
    "of another order": {"trunk": replace(BOTTLENECK, order="bn-after-add")},
    "with stochastic depth": {"trunk": replace(BOTTLENECK, stochastic_depth=0.5)},
    "option A": {"trunk": replace(BOTTLENECK, block="basic", shortcut="A")},
    "a plain network": {"trunk": replace(BOTTLENECK, shortcut="none")},
    "a pyramid": PYRAMID,
    "a pyramid with masks": {**PYRAMID, "masks": MaskDescription(width=5, convs=2, pooled=4)},
}


def trained(net: nn.Module) -> nn.Module:
    """As if: norms, scores and boxes of all sizes."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if "norm" in name and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=draw)
            elif name.endswith(("score.weight", "box.weight", "outlined.weight")):
                tensor.normal_(std=0.3, generator=draw)
    return net.eval()


def agree(found, expected, size: float) -> None:
    assert len(found) == len(expected) > 3
    assert torch.equal(found.labels, expected.labels)
    assert torch.allclose(found.scores, expected.scores, atol=1e-4)
    assert torch.allclose(found.boxes, expected.boxes, atol=1e-4 * size)
    if expected.masks is not None:
        assert (found.masks != expected.masks).float().mean() < 1e-3


@pytest.fixture(params=[True, False], ids=["in one step", "step by step"])
def steps(request, monkeypatch) -> bool:
    """With oneDNN's layers, and where there are none."""
    if request.param and not inference.in_one_step():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(inference, "in_one_step", lambda: request.param)
    return request.param


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_detector_answers_as_before_and_stays_as_it_was(variant: str, steps: bool, make):
    net = trained(make(**VARIANTS[variant]))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    for found, expected in zip(ready(net)(images, [(96, 128)] * 2), net(images, [(96, 128)] * 2), strict=True):
        agree(found, expected, 128)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_chain_of_layers_like_vgg16_answers_as_before(steps: bool):
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(True),
        nn.MaxPool2d(8),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.ReLU(True),
    ]
    stage = [nn.Flatten(), nn.Linear(6 * 9, 20), nn.ReLU(True), nn.Dropout(), nn.Linear(20, 12), nn.ReLU(True)]
    trunk = Trunk(
        shared=Convolutions(nn.Sequential(*layers)),
        channels=6,
        strides=(8,),
        stage=nn.Sequential(*stage, nn.Unflatten(1, (12, 1, 1))),
        width=12,
        pooled=3,
    )
    told = DetectorDescription(trunk="vgg16", classes=("cat", "dog"), regions=RegionDescription(score=0.01))
    net, image = trained(FasterRCNN(told, trunk)), torch.randn(1, 3, 96, 128)
    agree(ready(net)(image, [(96, 128)])[0], net(image, [(96, 128)])[0], 128)


def test_a_cascade_answers_as_before(steps: bool):
    torch.manual_seed(0)
    small = {"warped": 14, "pooled": 7, "hidden": 12, "mask": 5, "regions": RegionDescription(score=0.01)}
    net = trained(Cascade(CascadeDescription(trunk=BOTTLENECK, classes=("cat", "dog"), stages=5, **small)))
    image = torch.randn(1, 3, 96, 128)
    agree(ready(net)(image, [(96, 128)])[0], net(image, [(96, 128)])[0], 128)


def test_localizers_answer_as_before(steps: bool):
    torch.manual_seed(0)
    trunk = replace(BOTTLENECK, classes=5)
    net = trained(Localizers(LocalizerDescription(trunk=trunk, sizes=(16.0, 32.0), width=12, candidates=20, side=32)))
    image = torch.randn(3, 96, 128)
    agree(ready(net).guess(image, 5, (64,)), net.guess(image, 5, (64,)), 128)


def test_nothing_is_left_of_batch_norms_and_of_relus_behind_convolutions(make):
    for changes in ({}, {"frozen": True}, PYRAMID):
        net = ready(make(**changes))
        assert not [m for m in net.modules() if isinstance(m, (*inference.NORMS, nn.ReLU))]
        assert all(not p.requires_grad for p in net.parameters())
        assert not net.training
    counts = [sum(isinstance(m, Fused) for m in ready(make(norm=norm)).modules()) for norm in ("batch", "group")]
    assert counts[0] == counts[1]


def test_under_autocast_it_is_autocast(make):
    net, image = trained(make(**PYRAMID)), torch.randn(1, 3, 96, 128)
    with torch.autocast("cpu", torch.bfloat16):
        seen = [each.shared(image)[0] for each in (net, ready(net))]
    assert seen[0].dtype == seen[1].dtype == torch.bfloat16


def test_what_is_ready_stays_ready(make):
    net, image = ready(trained(make(**PYRAMID))), torch.randn(1, 3, 96, 128)
    again = ready(net)
    assert again.state_dict().keys() == net.state_dict().keys()
    assert torch.equal(again(image, [(96, 128)])[0].boxes, net(image, [(96, 128)])[0].boxes)
