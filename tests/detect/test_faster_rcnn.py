"""The two looks agree with torchvision's own modules given equal weights; odd images pass through without NaN."""

from dataclasses import replace

import msgspec
import pytest
import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import RoIAlign

from residual.detect.faster_rcnn import DetectorDescription, FasterRCNN
from residual.detect.masks import MaskDescription
from residual.detect.proposals import ProposalDescription, ProposalNetwork
from residual.detect.pyramid import PyramidDescription
from residual.detect.regions import RegionDescription, answer
from residual.models.catalog import describe

PROPOSALS = ProposalDescription(sizes=(16.0, 32.0), width=12, before=(300, 200), after=(60, 40), batch=32)


def test_proposals_are_those_of_torchvision():
    torch.manual_seed(1)
    ours = ProposalNetwork(PROPOSALS, 8, (16,)).eval()
    for layer in (ours.conv, ours.score, ours.box):
        nn.init.normal_(layer.weight, std=0.2)
    head = RPNHead(8, 6)  # as wide as the map: torchvision's first convolution cannot differ
    head.conv = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU())
    head.cls_logits, head.bbox_pred = ours.score, ours.box
    head.conv[0].load_state_dict(ours.conv.state_dict())

    class Shifted(AnchorGenerator):  # ours stand half a stride on, unrounded
        def forward(self, images, maps):
            return [ours(maps).references for _ in images.image_sizes]

    keep = {"pre_nms_top_n": {"training": 300, "testing": 200}, "post_nms_top_n": {"training": 60, "testing": 40}}
    theirs = RegionProposalNetwork(
        Shifted(((16, 32),), ((0.5, 1.0, 2.0),)), head, 0.7, 0.3, 32, 0.5, nms_thresh=0.7, **keep
    )
    theirs.min_size = 1.0
    theirs.eval()
    features = torch.randn(2, 8, 5, 7)
    sizes = [(80, 112), (70, 100)]
    expected, _ = theirs(ImageList(torch.zeros(2, 3, 80, 112), sizes), {"0": features})
    look = ours([features])
    for n, size in enumerate(sizes):
        found = ours.propose(look, n, size)
        assert torch.allclose(found, expected[n], atol=1e-3)
        assert len(found) > 10


def test_answers_are_those_of_torchvision(make):
    net = make().eval()
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
    scores, codes, _ = net.head([features], regions, sizes)
    for n, size in enumerate(sizes):
        judged = net.head.judged(scores.split(20)[n], codes.split(20)[n], regions[n], size)
        found = answer(*judged, net.head.description)
        assert torch.allclose(found.boxes, expected[n]["boxes"], atol=1e-3)
        assert torch.equal(found.labels + 1, expected[n]["labels"])
        assert torch.allclose(found.scores, expected[n]["scores"], atol=1e-4)
        assert len(found) > 10


PYRAMID = PyramidDescription(width=6, hidden=8)
ON_PYRAMID = RegionDescription(cut="align", batch=16, score=0.01)
VARIANTS = {
    "C4": {},
    "C4 with masks": {"masks": MaskDescription(width=5)},
    "C4 with context": {"regions": RegionDescription(pooled=6, context=True, batch=16, score=0.01)},
    "C4 with group norm": {"norm": "group"},
    "a pyramid": {"pyramid": PYRAMID, "regions": ON_PYRAMID},
    "a pyramid with masks": {
        "pyramid": PYRAMID,
        "regions": ON_PYRAMID,
        "masks": MaskDescription(width=5, convs=2, pooled=4),
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_odd_images_train_and_are_looked_at_without_nan(variant: str, make, odd):
    net, (images, sizes, objects, labels, masks) = make(**VARIANTS[variant]), odd
    losses = net.train().losses(images, sizes, objects, labels, masks)
    assert losses.total.isfinite()
    assert (losses.masked is None) == (net.masker is None)
    losses.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    for found in net.eval()(images, sizes):
        assert found.boxes.isfinite().all()
        assert ((found.scores > 0) & (found.scores <= 1)).all()
        if net.masker is not None:
            assert found.masks.shape == (len(found), *sizes[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_costs_nearly_the_same(variant: str, make):
    truth = ([(64, 64)], [torch.tensor([[8.0, 8.0, 40.0, 44.0]])], [torch.tensor([1])], [torch.ones(1, 64, 64).bool()])
    image, totals = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), []
    for half in (False, True):
        net = make(**VARIANTS[variant]).train()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = net.losses(image, *truth)
            net.eval()(image, [(64, 64)])
        losses.total.backward()
        totals.append(losses.total.item())
    assert totals[1] == pytest.approx(totals[0], rel=0.05)


def test_a_batch_without_any_region_costs_nothing_instead_of_nan(make):
    net = make(masks=MaskDescription(width=5))
    maps, none = net.shared(torch.randn(1, 3, 64, 64)), torch.zeros(0, 4)
    nothing = torch.zeros(0, dtype=torch.int64)
    found = net.eval().region_losses(maps, [none], [(64, 64)], [none], [nothing], [torch.zeros(0, 64, 64).bool()])
    assert [each.item() for each in found] == [0, 0, 0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_image_of_which_nothing_is_proposed_or_found_has_no_answer(variant: str, make):
    image = torch.randn(1, 3, 64, 64)
    for changes in ({"proposals": replace(PROPOSALS, smallest=1e9)}, {"regions": RegionDescription(score=1.0)}):
        net = make(**(VARIANTS[variant] | changes)).eval()
        (found,) = net(image, [(64, 64)])
        assert found.boxes.shape == (0, 4)
        assert found.masks is None or found.masks.shape == (0, 64, 64)


def test_answers_are_told_on_the_image_as_it_is_shown(make):
    net = make(masks=MaskDescription(width=5)).eval()
    nn.init.normal_(net.head.score.weight, std=0.5)
    image = torch.randn(1, 3, 64, 96)
    (as_given,), (as_shown,) = net(image, [(64, 96)]), net(image, [(64, 96)], shown=[(128, 192)])
    assert torch.allclose(2 * as_given.boxes, as_shown.boxes)
    assert as_given.masks.any()
    assert as_shown.masks.shape[1:] == (128, 192)
    halved = nn.functional.avg_pool2d(as_shown.masks.float(), 2) >= 0.5
    assert (halved == as_given.masks).float().mean() > 0.98


def test_a_frozen_detector_trains_neither_statistics_nor_the_first_stage(make):
    net = make(frozen=True).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    truth = torch.tensor([[10.0, 10.0, 40.0, 40.0]])
    net.losses(torch.randn(1, 3, 64, 64), [(64, 64)], [truth], [torch.tensor([1])]).total.backward()
    optimizer.step()
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in changed if "norm" in name or name.startswith(("shared.stem", "shared.stages.0"))]
    assert any(name.startswith("shared.stages.1") for name in changed)
    assert any(name.startswith("head.stage") for name in changed)


def test_a_frozen_detector_sees_what_the_trained_one_saw_in_evaluation(make):
    free, frozen = make(), make(frozen=True)
    with torch.no_grad():
        for module in free.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.uniform_(0.5, 2)
    frozen.load_state_dict(free.state_dict())
    image = torch.randn(1, 3, 64, 96)
    assert torch.allclose(free.eval().shared(image)[0], frozen.train().shared(image)[0], atol=1e-5)


def test_the_trunk_of_resnet101_stands_at_stride_16_and_hands_its_last_stage_to_the_head():
    with torch.device("meta"):
        net = FasterRCNN(DetectorDescription(trunk=describe("resnet101"), classes=("cat",)))
        assert [x.shape for x in net.shared(torch.zeros(1, 3, 160, 320))] == [(1, 1024, 10, 20)]
    assert net.head.score.in_features == 2048
    convolutions = [m for m in net.shared.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 91 + 3  # "91 conv layers" from conv1 to conv4 (appendix A), and the projections


def test_vgg16_is_assembled_by_the_same_words():
    with torch.device("meta"):
        net = FasterRCNN(DetectorDescription(trunk="vgg16", classes=("cat",), frozen=True))
        assert [x.shape for x in net.shared(torch.zeros(1, 3, 160, 320))] == [(1, 512, 10, 20)]
    still = [m for m in net.modules() if isinstance(m, nn.Conv2d) and not m.weight.requires_grad]
    assert len(still) == 4  # conv1_1 to conv2_2
    fully_connected = [m for m in net.head.stage.modules() if isinstance(m, nn.Linear)]
    assert [layer.in_features for layer in fully_connected] == [512 * 7 * 7, 4096]
    assert net.head.pooled == 7


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"trunk": describe("preresnet164")}, 'order is "full"'),
        ({"trunk": replace(describe("resnet18"), order="relu-only")}, 'order is "relu-only"'),
        ({"trunk": "vgg16", "pyramid": PYRAMID}, "set pyramid=None"),
        ({"pyramid": PYRAMID}, "set pooled=None"),
        ({"frozen": True, "norm": "group"}, "set frozen=False"),
    ],
)
def test_what_cannot_be_assembled_is_refused(changes: dict, match: str, make):
    with pytest.raises(ValueError, match=match):
        make(**changes)


@pytest.mark.parametrize("variant", [*VARIANTS, "VGG-16"])
def test_a_description_survives_being_written_down(variant: str, make):
    description = make(**VARIANTS.get(variant, {})).description
    if variant == "VGG-16":
        description = DetectorDescription(trunk="vgg16", classes=("cat",))
    assert msgspec.json.decode(msgspec.json.encode(description), type=DetectorDescription) == description


def test_a_detector_of_masks_is_not_trained_without_them(make, odd):
    images, sizes, objects, labels, _ = odd
    with pytest.raises(ValueError, match="give `masks`"):
        make(masks=MaskDescription(width=5)).losses(images, sizes, objects, labels)


def test_no_batch_norm_is_left_by_group_norm_and_none_is_shared_between_images(make):
    net = make(norm="group").eval()
    assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in net.head.stage.modules() if isinstance(m, nn.GroupNorm)]
    synced = replace(net.description, norm="sync")
    assert [m for m in FasterRCNN(synced).modules() if isinstance(m, nn.SyncBatchNorm)]
    images = torch.randn(2, 3, 64, 64)
    together, alone = net.train().shared(images), net.shared(images[:1])
    assert torch.allclose(together[0][:1], alone[0], atol=1e-5)
