"""The whole detector is torchvision's `fasterrcnn_resnet50_fpn`, with masks, given its weights and its conventions."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

from residual.detect.faster_rcnn import DetectorDescription, FasterRCNN
from residual.detect.masks import MaskDescription
from residual.detect.proposals import ProposalDescription
from residual.detect.pyramid import PyramidDescription
from residual.detect.regions import RegionDescription
from residual.models.catalog import describe
from residual.weights import torchvision as layout

SIZE = (256, 320)  # whole numbers of the largest stride: torchvision pads others
CLASSES = tuple("abcdefg")


def given(theirs: nn.Module) -> dict[str, Tensor]:
    """Its tensors by our names."""
    found = {}
    for name, tensor in theirs.state_dict().items():
        part, _, rest = name.partition(".")
        if name.startswith("backbone.body."):
            found["shared.body." + layout.ours(name.removeprefix("backbone.body."))] = tensor
        elif part == "backbone":
            found["shared." + rest] = tensor
        elif part == "rpn":
            swaps = {"conv.0.0": "conv", "cls_logits": "score", "bbox_pred": "box"}
            which, field = rest.removeprefix("head.").rsplit(".", 1)
            found[f"proposer.{swaps[which]}.{field}"] = tensor
        elif ".mask_" in name:
            which, field = rest.rsplit(".", 1)
            swaps = {"mask_predictor.conv5_mask": "up", "mask_predictor.mask_fcn_logits": "mask"}
            swaps |= {f"mask_head.{n}.0": f"convs.{2 * n}" for n in range(4)}
            found[f"masker.{swaps[which]}.{field}"] = tensor[1:] if "logits" in name else tensor  # no mask of nothing
        else:
            swaps = {"fc6": "stage.1", "fc7": "stage.3", "cls_score": "score", "bbox_pred": "box"}
            _, which, field = rest.rsplit(".", 2)
            found[f"head.{swaps[which]}.{field}"] = tensor[4:] if which == "bbox_pred" else tensor  # no box of nothing
    return found


@pytest.fixture(scope="module")
def both() -> tuple[nn.Module, FasterRCNN]:
    torch.manual_seed(0)
    theirs = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=len(CLASSES) + 1,
        min_size=SIZE[0],
        max_size=SIZE[1],
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=100,
        box_score_thresh=0.1,
    ).eval()
    for name, tensor in theirs.named_parameters():  # wide enough for boxes and scores to differ
        if "bbox_pred" in name or "cls_" in name:
            nn.init.normal_(tensor, std=0.5 if "predictor" in name else 0.1)
    for name, tensor in theirs.named_buffers():  # random blocks add up: keep the maps near one
        if "running_var" in name:
            tensor.fill_(4.0)
    description = DetectorDescription(
        trunk=describe("resnet50_v1_5"),
        classes=CLASSES,
        pyramid=PyramidDescription(),
        proposals=ProposalDescription(
            sizes=(32.0,), stand="corner", width=256, before=(2000, 300), after=(2000, 100), smallest=1e-3
        ),
        regions=RegionDescription(cut="corner-align", score=0.1, overlap=0.5),
        masks=MaskDescription(convs=4),
    )
    ours = FasterRCNN(description).eval()
    ours.load_state_dict(given(theirs))
    return theirs, ours


def test_boxes_and_scores_are_those_of_torchvision(both):
    theirs, ours = both
    image = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (expected,) = theirs([image])
    (found,) = ours(image[None], [SIZE])
    assert len(found) > 20
    assert torch.allclose(found.boxes, expected["boxes"], atol=1e-3)
    assert torch.allclose(found.scores, expected["scores"], atol=1e-3)
    assert torch.equal(found.labels + 1, expected["labels"])


def test_masks_are_those_of_torchvision(both):
    theirs, ours = both
    image = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    boxes = [torch.tensor([[10.0, 20.0, 200.0, 230.0], [30.0, 40.0, 70.0, 70.0], [250.0, 5.0, 258.0, 33.0]])]
    with torch.no_grad():
        maps = ours.shared(image)
        mine = ours.masker(ours.masker.see(maps, boxes, ours.head))
        heads, features = theirs.roi_heads, dict(zip(["0", "1", "2", "3", "pool"], maps, strict=True))
        yours = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, boxes, [SIZE])))
    assert mine.shape == (3, len(CLASSES), 28, 28)
    assert torch.allclose(mine, yours[:, 1:], atol=1e-3)


def test_every_map_is_that_of_torchvision(both):
    theirs, ours = both
    images = torch.randn(1, 3, 128, 192, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        maps, expected = ours.shared(images), theirs.backbone(images).values()
    for mine, yours in zip(maps, expected, strict=True):
        assert torch.allclose(mine, yours, atol=1e-4)


def test_odd_sizes_have_five_maps_too(make):
    net = make(pyramid=PyramidDescription(width=6, hidden=8), regions=RegionDescription())
    maps = net.shared(torch.randn(1, 3, 50, 333))
    assert [tuple(x.shape[1:]) for x in maps] == [(6, 13, 84), (6, 7, 42), (6, 4, 21), (6, 2, 11), (6, 1, 6)]
    sides = (net.proposer(maps).references[:, 2:] - net.proposer(maps).references[:, :2]).prod(1).sqrt()
    assert sides.round().unique().tolist() == [16.0 * 2**k for k in range(6)]  # 16 and 32 on the finest
