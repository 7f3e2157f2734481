"""What a detector learns from: the objects that are to be found, and no others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from residual.data.load_objects import ObjectBatch, Picture, together
from residual.data.objects import objects
from residual.data.scenes import draw_scenes
from residual.detect.card import card_of
from residual.detect.catalog import describe_detector
from residual.detect.detector import network, normalized_images
from residual.detect.learner import Learner, localizer_costs, on_device
from residual.detect.phases import ALTERNATING
from residual.detect.procedure import Procedure

SIDE = 48


def learner(name: str, *, in_turn: bool = False) -> Learner:
    classes = draw_scenes(1).classes
    torch.manual_seed(0)
    described = describe_detector(name, classes, side=SIDE, anchors=(100.0, 200.0), norm="group")
    about = {"name": name, "classes": classes, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    card = card_of(described, procedure=Procedure(side=SIDE, longest=SIDE), **about)
    return Learner(network(described), card, in_turn=in_turn).train()


def batch(count: int = 3, *, masks: bool = False) -> ObjectBatch:
    from residual.data.objects import with_masks

    images = draw_scenes(count, size=SIDE)
    assert images.pixels is not None
    rows = [
        Picture(index=n, pixels=pixels, objects=with_masks(here, SIDE, SIDE) if masks else here)
        for n, (pixels, here) in enumerate(zip(images.pixels, images.objects, strict=True))
    ]
    return together(rows)


@pytest.mark.parametrize(
    "name, parts",
    [
        ("faster_rcnn_small_c4", {"proposed", "placed", "classed", "boxed"}),
        ("mask_rcnn_small_c4", {"proposed", "placed", "classed", "boxed", "masked"}),
        ("mnc_small", {"proposed", "placed", "masked", "classed", "outlined", "boxed"}),
        ("localizer_small", {"scored", "placed", "scored_again", "placed_again"}),
    ],
)
def test_the_loss_is_the_sum_of_its_parts_and_reaches_every_weight(name, parts):
    net = learner(name)
    loss, told = net(batch(masks=net.card.masks))
    assert set(told) == parts
    assert float(loss.detach()) == pytest.approx(float(sum(told.values())), rel=1e-6)
    loss.backward()
    without = [each for each, weight in net.net.named_parameters() if weight.grad is None]
    assert without == []


def test_an_object_set_aside_is_as_if_it_were_not_there():
    net, images = learner("faster_rcnn_small_c4"), batch(2)
    extra = objects([[1.0, 1.0, 30.0, 30.0]], [3], aside=[True])

    def joined(here):
        return objects(
            [*here.boxes.tolist(), *extra.boxes.tolist()],
            [*here.labels.tolist(), 3],
            aside=[*here.aside.tolist(), True],
        )

    with_it = replace(images, objects=tuple(joined(here) for here in images.objects))
    bare = replace(images, objects=tuple(objects(here.boxes.tolist(), here.labels.tolist()) for here in images.objects))
    losses = []
    for each in (with_it, bare):
        torch.manual_seed(1)
        losses.append(float(net(each)[0].detach()))
    assert losses[0] == losses[1]


def test_images_are_what_the_card_says():
    net = learner("faster_rcnn_small_c4")
    pixels = torch.randint(0, 256, (1, 4, 5, 3), dtype=torch.uint8)
    found = normalized_images(pixels, net.card, torch.device("cpu"))
    assert torch.allclose(found[0, 2, 3, 1], (pixels[0, 3, 1, 2].float() / 255 - 0.5) / 0.25)


def test_a_localizer_learns_the_boxes_of_the_images_own_class(monkeypatch):
    net, seen = learner("localizer_small"), {}

    def losses(images, sizes, boxes, labels):
        seen.update(boxes=boxes, labels=labels)
        return (torch.zeros(()),) * 4

    monkeypatch.setattr(net.net, "losses", losses)
    here = objects([[0, 0, 9, 9], [5, 5, 20, 20], [8, 8, 30, 30]], [4, 2, 4])
    boxes, labels, _ = on_device(here, torch.device("cpu"))
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    localizer_costs(
        net.net, torch.zeros(2, 3, SIDE, SIDE), [(SIDE, SIDE)] * 2, [boxes, nothing[0]], [labels, nothing[1]]
    )
    assert seen["labels"].tolist() == [4, 0]
    assert seen["boxes"][0].tolist() == [[0, 0, 9, 9], [8, 8, 30, 30]]
    assert len(seen["boxes"][1]) == 0


def test_each_of_the_four_steps_moves_its_own_parts_and_no_others():
    net, images = learner("faster_rcnn_small_c4", in_turn=True), batch()
    for number, phase in enumerate(ALTERNATING):
        net.begin(number)
        net.zero_grad(set_to_none=True)
        loss, _ = net(images)
        loss.backward()
        moved = {name.split(".")[0] for name, weight in net.net.named_parameters() if weight.grad is not None}
        assert moved == set(phase.learns) - {"masker"}
        with torch.no_grad():
            for weight in net.net.parameters():
                weight.sub_(0.01 * torch.ones_like(weight) if weight.grad is None else weight.grad)


def test_the_second_step_begins_with_the_first_stages_and_the_proposals_of_the_step_before():
    net = learner("faster_rcnn_small_c4", in_turn=True)
    beginning = {name: value.clone() for name, value in net.net.shared.state_dict().items()}
    with torch.no_grad():
        for weight in net.net.parameters():
            weight.add_(0.1)
    after_first = {name: value.clone() for name, value in net.net.state_dict().items()}
    net.begin(1)
    assert all(torch.equal(value, beginning[name]) for name, value in net.net.shared.state_dict().items())
    assert net.before is not None
    assert all(torch.equal(value, after_first[name]) for name, value in net.before.state_dict().items())


def test_a_batch_without_any_object_costs_something_finite():
    net, images = learner("faster_rcnn_small_c4"), batch(2)
    empty = replace(images, objects=(objects([], []),) * 2)
    loss, _ = net(empty)
    assert bool(torch.isfinite(loss))
    assert np.isfinite(float(loss.detach()))
