from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from residual.detect.cascade import Cascade, CascadeDescription, Pass
from residual.detect.proposals import ProposalDescription
from residual.detect.pyramid import PyramidDescription, pyramid
from residual.detect.raster import covered, paste
from residual.detect.regions import RegionDescription
from residual.detect.sampling import NOTHING
from residual.models.description import Description
from residual.models.resnet import ResNet

TRUNK = Description(block="basic", depths=(1, 1, 1, 1), widths=(4, 6, 8, 10), stem="imagenet", stem_width=4)
PROPOSALS = ProposalDescription(sizes=(16.0, 32.0), width=12, before=(300, 200), after=(60, 40), batch=32)


def cascade(**changes) -> Cascade:
    torch.manual_seed(0)
    told = {
        "trunk": TRUNK,
        "classes": ("cat", "dog", "tree"),
        "proposals": PROPOSALS,
        "regions": RegionDescription(pooled=4, batch=16, score=0.01),
        "warped": 8,
        "pooled": 4,
        "hidden": 12,
        "mask": 5,
    }
    return Cascade(CascadeDescription(**(told | changes)))


@pytest.mark.parametrize("stages", [3, 5])
def test_odd_images_train_and_are_looked_at_without_nan(stages: int, odd):
    net, (images, sizes, objects, labels, masks) = cascade(stages=stages), odd
    losses = net.train().losses(images, sizes, objects, labels, masks)
    assert losses.total.isfinite()
    losses.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    for found in net.eval()(images, sizes):
        assert found.boxes.isfinite().all()
        assert ((found.scores > 0) & (found.scores <= 1)).all()
        assert found.masks.shape == (len(found), *sizes[0])


def truth() -> tuple[torch.Tensor, ...]:
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 62.0, 60.0]])
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 8:40, 8:24] = True
    masks[1, 20:60, 30:62] = True
    return image, boxes, torch.tensor([0, 2]), masks


def test_the_masks_alone_teach_the_proposals_where_boxes_should_be():
    net = cascade()
    image, boxes, labels, masks = truth()
    net.losses(image, [(64, 64)], [boxes], [labels], [masks]).masked.backward()
    reached = net.proposer.box.weight.grad
    assert reached is not None
    assert reached.abs().sum() > 0
    assert not net.proposer.score.weight.grad  # which anchors propose is no smooth function


def test_later_stages_pull_at_a_box_by_no_more_than_described():
    image, boxes, labels, masks = truth()
    pulls = []
    for pull in (0.0, 1e-5, 1e9):
        net, kept = cascade(stages=5, pull=pull, masking=1e4), []
        forward = net.proposer.forward

        def watched(maps, forward=forward, kept=kept):
            look = forward(maps)
            look.codes.retain_grad()
            kept.append(look.codes)
            return look

        net.proposer.forward = watched
        net.losses(image, [(64, 64)], [boxes], [labels], [masks]).masked.backward()
        pulls.append(kept[0].grad.abs().max().item())
    assert pulls[0] == 0
    assert pulls[1] == pytest.approx(1e-5)
    assert pulls[2] > 1e-3


def test_in_five_stages_the_second_masks_teach_the_first_boxes():
    image, boxes, labels, masks = truth()
    for stages, taught in ((3, False), (5, True)):
        net = cascade(stages=stages)
        net.losses(image, [(64, 64)], [boxes], [labels], [masks]).masked.backward()
        assert bool(net.head.box.weight.grad.any()) == taught


def test_a_mask_hides_what_it_does_not_cover():
    net = cascade().eval()
    features, regions = torch.randn(1, 8, 8, 8), [torch.tensor([[0.0, 0.0, 100.0, 100.0]])]
    for layer in net.outliner:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.weight)
    nn.init.constant_(net.outliner[3].bias, -100.0)  # a mask of nothing
    seen = net.look(features, regions)
    other = net.look(features + 1.0, regions)
    nn.init.zeros_(net.head.score.weight[:, :10])  # leaves the mask's path alone
    assert not torch.equal(seen.scores, other.scores)
    assert torch.equal(net.look(features, regions).scores, net.look(features + 1.0, regions).scores)


def test_a_mask_has_its_objects_class_if_it_covers_half_of_it():
    net = cascade()
    masks = torch.zeros(1, 30, 30, dtype=torch.bool)
    masks[0, 10:20, 10:20] = True
    regions = [torch.tensor([[10.0, 10.0, 20.0, 20.0]] * 3 + [[5.0, 5.0, 25.0, 25.0]] * 2)]
    outlines = torch.full((5, 5, 5), 50.0)
    outlines[1, :, 3:] = -50.0  # three columns of five
    outlines[2, :, 2:] = -50.0  # two
    outlines[4, :1] = outlines[4, -1:] = outlines[4, :, :1] = outlines[4, :, -1:] = -50.0  # the middle of a large box
    found = Pass(outlines, torch.zeros(5, 4), torch.zeros(5, 4), torch.zeros(5, 3, 4))
    assigned = [torch.tensor([0, 0, 0, 0, 0])]
    cover = covered(masks, assigned[0], regions[0], 5)
    areas = [masks.flatten(1).sum(1)]
    classes = net.mask_classes(found, regions, assigned, cover, areas, [torch.tensor([2])])
    assert classes.tolist() == [3, 3, 0, 0, 3]  # overlaps 1, .6, .4, 100/400 and 100/144
    nobody = [torch.full((5,), NOTHING)]
    none = net.mask_classes(found, regions, nobody, torch.zeros_like(cover), areas, [torch.tensor([2])])
    assert none.tolist() == [0] * 5


def test_a_cascade_learns_the_masks_and_classes_of_one_image():
    net = cascade(stages=5)
    image, boxes, labels, masks = truth()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    told = []
    for _ in range(40):
        torch.manual_seed(0)
        losses = net.losses(image, [(64, 64)], [boxes], [labels], [masks])
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        told.append([float(each.detach()) for each in (losses.masked, losses.classed, losses.outlined)])
    assert all(last < 0.6 * first for first, last in zip(told[0], told[-1], strict=True))


def test_with_one_region_of_each_class_the_masks_are_pasted_and_nobody_votes():
    net = cascade()
    boxes = torch.tensor([[3.0, 4.0, 20.0, 22.0], [30.0, 30.0, 60.0, 50.0]])
    probabilities = torch.tensor([[0.9, 0.0, 0.0], [0.0, 0.0, 0.7]])
    outlines = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0))
    found = net.answer(boxes, probabilities, outlines, (64, 64))
    assert found.labels.tolist() == [0, 2]
    assert np.array_equal(found.masks, paste(outlines, boxes, (64, 64), threshold=0.4).drawn())


@pytest.mark.parametrize("stages", [3, 5])
def test_an_image_of_which_nothing_is_proposed_or_found_has_no_answer(stages: int):
    for changes in (
        {"proposals": replace(PROPOSALS, smallest=1e9)},
        {"regions": RegionDescription(pooled=4, score=1.0)},
    ):
        (found,) = cascade(stages=stages, **changes).eval()(torch.randn(1, 3, 64, 64), [(64, 64)])
        assert found.boxes.shape == (0, 4)
        assert found.masks.shape == (0, 64, 64)


def test_the_weights_are_those_of_the_paper():
    image, boxes, labels, masks = truth()
    losses = []
    for masking in (1.0, 2.0):
        net = cascade(masking=masking)
        torch.manual_seed(1)
        losses.append(net.losses(image, [(64, 64)], [boxes], [labels], [masks]))
    assert torch.allclose(2 * losses[0].masked, losses[1].masked)
    assert CascadeDescription(trunk=TRUNK, classes=("cat",)).masking == 2
    parts = losses[1]
    summed = parts.proposed + parts.placed + parts.masked + parts.classed + parts.outlined + parts.boxed
    assert torch.allclose(parts.total, summed)


def test_on_vgg16_both_paths_are_fully_connected_as_in_the_paper():
    with torch.device("meta"):
        net = Cascade(CascadeDescription(trunk="vgg16", classes=tuple("abcdefghijklmnopqrst")))
        assert net.outliner(torch.zeros(2, 512, 14, 14)).shape == (2, 21, 21)
    assert net.head.score.in_features == 2 * 4096
    assert [layer.out_features for layer in net.masked_stage.modules() if isinstance(layer, nn.Linear)] == [4096, 4096]
    assert net.masked_stage is not net.head.stage


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"stages": 4}, "stages is 4"),
        ({"warped": 9}, "must divide"),
        ({"regions": RegionDescription(context=True)}, "set context=False"),
        ({"frozen": True, "norm": "sync"}, "set frozen=False"),
    ],
)
def test_what_no_cascade_is_is_refused(changes: dict, match: str):
    with pytest.raises(ValueError, match=match):
        cascade(**changes)


def test_a_pyramid_is_refused_and_a_frozen_cascade_rests():
    description = CascadeDescription(trunk=TRUNK, classes=("cat",))
    with pytest.raises(ValueError, match="one map"):
        Cascade(description, pyramid(ResNet(TRUNK), PyramidDescription(width=4, hidden=4)))
    net = cascade(frozen=True).train()
    assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
