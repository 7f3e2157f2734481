"""The two looks agree with torchvision's own modules given equal weights; odd images pass through without NaN."""

import pytest
import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import RoIAlign

from residual.detect.faster_rcnn import DetectorDescription, FasterRCNN
from residual.detect.proposals import ProposalDescription, ProposalNetwork
from residual.detect.regions import RegionDescription
from residual.models.catalog import describe
from residual.models.description import Description

TRUNK = Description(block="basic", depths=(1, 1, 1, 1), widths=(4, 6, 8, 10), stem="imagenet", stem_width=4)
CLASSES = ("cat", "dog", "tree")
PROPOSALS = ProposalDescription(sizes=(16.0, 32.0), width=12, before=(300, 200), after=(60, 40), batch=32)


def detector(**changes) -> FasterRCNN:
    torch.manual_seed(0)
    regions = RegionDescription(pooled=6, align=True, batch=16, score=0.01)
    told = {"trunk": TRUNK, "classes": CLASSES, "proposals": PROPOSALS, "regions": regions} | changes
    return FasterRCNN(DetectorDescription(**told))


def test_proposals_are_those_of_torchvision():
    torch.manual_seed(1)
    ours = ProposalNetwork(PROPOSALS, 8, 16).eval()
    for layer in (ours.conv, ours.score, ours.box):
        nn.init.normal_(layer.weight, std=0.2)
    head = RPNHead(8, 6)  # as wide as the map: torchvision's first convolution cannot differ
    head.conv = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU())
    head.cls_logits, head.bbox_pred = ours.score, ours.box
    head.conv[0].load_state_dict(ours.conv.state_dict())

    class Shifted(AnchorGenerator):  # ours stand half a stride on, unrounded
        def forward(self, images, maps):
            return [ours(maps[0])[2] for _ in images.image_sizes]

    keep = {"pre_nms_top_n": {"training": 300, "testing": 200}, "post_nms_top_n": {"training": 60, "testing": 40}}
    theirs = RegionProposalNetwork(
        Shifted(((16, 32),), ((0.5, 1.0, 2.0),)), head, 0.7, 0.3, 32, 0.5, nms_thresh=0.7, **keep
    )
    theirs.min_size = 1.0
    theirs.eval()
    features = torch.randn(2, 8, 5, 7)
    sizes = [(80, 112), (70, 100)]
    expected, _ = theirs(ImageList(torch.zeros(2, 3, 80, 112), sizes), {"0": features})
    logits, codes, references = ours(features)
    for n, size in enumerate(sizes):
        found = ours.propose(logits[n], codes[n], references, size)
        assert torch.allclose(found, expected[n], atol=1e-3)
        assert len(found) > 10


def test_answers_are_those_of_torchvision():
    net = detector().eval()
    nn.init.normal_(net.head.score.weight, std=0.5)
    nn.init.normal_(net.head.box.weight, std=0.3)
    features, sizes = torch.randn(2, 8, 6, 6), [(90.0, 96.0), (96.0, 80.0)]
    generator = torch.Generator().manual_seed(2)
    corners = [60 * torch.rand(20, 2, generator=generator) for _ in sizes]
    regions = [torch.cat([each, each + 4 + 25 * torch.rand(20, 2, generator=generator)], 1) for each in corners]

    class Pooler(nn.Module):
        def forward(self, maps, boxes, _):
            return RoIAlign(6, 1 / 16, 2, aligned=True)(maps["0"], boxes)

    class Predictor(nn.Module):  # torchvision has a box for "nothing" too
        def forward(self, x):
            codes = net.head.box(x)
            return net.head.score(x), torch.cat([torch.zeros_like(codes[:, :4]), codes], 1)

    class Head(nn.Module):
        def forward(self, x):
            return net.head.stage(x).mean((2, 3))

    weights = (10.0, 10.0, 5.0, 5.0)
    theirs = RoIHeads(Pooler(), Head(), Predictor(), 0.5, 0.5, 16, 0.25, weights, 0.01, 0.3, 100).eval()
    expected, _ = theirs({"0": features}, regions, [(90, 96), (96, 80)])
    scores, codes = net.head(features, regions)
    for n, size in enumerate(sizes):
        found, labels, sure = net.head.answer(scores.split(20)[n], codes.split(20)[n], regions[n], size)
        kept = ((found[:, 2:] - found[:, :2]) >= 1e-2).all(1)  # torchvision drops these before the suppression
        assert torch.allclose(found[kept], expected[n]["boxes"], atol=1e-3)
        assert torch.equal(labels[kept] + 1, expected[n]["labels"])
        assert torch.allclose(sure[kept], expected[n]["scores"], atol=1e-4)


@pytest.mark.parametrize(
    ("size", "objects"),
    [
        ((64, 64), []),
        ((64, 64), [[10.0, 10.0, 11.0, 11.0]]),
        ((64, 64), [[3.0 * (i % 20), 3.0 * (i // 20), 3.0 * (i % 20) + 4, 3.0 * (i // 20) + 4] for i in range(400)]),
        ((50, 2000), [[5.0, 5.0, 1900.0, 45.0]]),
    ],
    ids=["no object", "one pixel", "400 objects", "a panorama"],
)  # fmt: skip
def test_odd_images_train_and_are_looked_at_without_nan(size: tuple[int, int], objects: list[list[float]]):
    net = detector()
    images, truth = torch.randn(2, 3, *size), torch.tensor(objects).view(-1, 4)
    labels = torch.arange(len(truth)) % 3
    found = net.train().losses(images, [size, size], [truth, truth], [labels, labels])
    assert found.total.isfinite()
    found.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    for boxes, _, sure in net.eval()(images, [size, size]):
        assert boxes.isfinite().all()
        assert ((sure > 0) & (sure <= 1)).all()


def test_a_frozen_detector_trains_neither_statistics_nor_the_first_stage():
    net = detector(frozen=True).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    truth = torch.tensor([[10.0, 10.0, 40.0, 40.0]])
    net.losses(torch.randn(1, 3, 64, 64), [(64, 64)], [truth], [torch.tensor([1])]).total.backward()
    optimizer.step()
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in changed if "norm" in name or name.startswith(("stem", "stages.0"))]
    assert any(name.startswith("stages.1") for name in changed)
    assert any(name.startswith("head.stage") for name in changed)


def test_the_trunk_of_resnet101_stands_at_stride_16_and_hands_its_last_stage_to_the_head():
    with torch.device("meta"):
        net = FasterRCNN(DetectorDescription(trunk=describe("resnet101"), classes=CLASSES))
        assert net.features(torch.zeros(1, 3, 160, 320)).shape == (1, 1024, 10, 20)
    assert net.head.score.in_features == 2048
    convolutions = [m for m in (*net.stem.modules(), *net.stages.modules()) if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 91 + 3  # "91 conv layers" from conv1 to conv4 (appendix A), and the projections


def test_a_pre_activation_trunk_is_refused():
    with pytest.raises(ValueError, match="pre-activation"):
        detector(trunk=describe("preresnet164"))
