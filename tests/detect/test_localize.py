from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from residual.data.objects import objects as made_objects
from residual.detect import boxes
from residual.detect.imagenet import localization_error
from residual.detect.localize import Localizer, LocalizerDescription, RegionLocalizer, locate, per_class_losses
from residual.detect.sampling import UNUSED, assign
from residual.models.catalog import describe
from residual.models.description import Description

TRUNK = Description(
    block="basic", depths=(1, 1, 1), widths=(4, 6, 8), stem="cifar", stem_width=4, classes=5, image=64, shortcut="A"
)
SMALL = LocalizerDescription(trunk=TRUNK, sizes=(16.0, 32.0), width=12, candidates=20, side=16)


def made(kind=Localizer, **changes):
    torch.manual_seed(0)
    net = kind(replace(SMALL, **changes))
    torch.nn.init.normal_(net.score.weight, std=0.5)
    torch.nn.init.normal_(net.box.weight, std=0.2)
    return net.eval()


def image(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(seed))


def test_of_all_classes_one_answers_as_the_whole_layer_does():
    net = made()
    features, references = net(image(32, 48)[None])
    assert features.shape == (1, 8, 12, 12)
    assert references.shape == (8 * 12 * 6, 4)
    logits = net.score(features[0]).view(-1, 5)  # place by place, anchor by anchor
    codes = net.box(features[0]).view(-1, 5, 4)
    for label in range(5):
        sure, places = net.answers(features[0], references, label)
        assert torch.allclose(sure, logits[:, label].sigmoid(), atol=1e-6)
        assert torch.allclose(places, boxes.decode(codes[:, label], references), atol=1e-3)


def test_the_losses_of_all_anchors_are_those_of_the_dense_layers():
    net = made(batch=10_000)
    images, labels = torch.stack([image(32, 32), image(32, 32, seed=1)]), torch.tensor([2, 4])
    objects = [torch.tensor([[4.0, 6.0, 20.0, 22.0]]), torch.zeros(0, 4)]
    scored, placed = net.losses(images, objects, labels)
    features, references = net(images)
    total, count, far = 0.0, 0, 0.0
    for n in range(2):
        assigned = assign(references, objects[n], positive=0.7, negative=0.3, best=True)
        logits = net.score(features[n]).view(-1, 5)
        codes = net.box(features[n]).view(-1, 5, 4)
        for r in (assigned != UNUSED).nonzero().flatten().tolist():
            truth = torch.zeros(5)
            if assigned[r] >= 0:
                truth[labels[n]] = 1
                wanted = boxes.encode(objects[n][assigned[r]][None], references[r : r + 1])[0]
                far += functional.smooth_l1_loss(codes[r, labels[n]], wanted, beta=1 / 9, reduction="sum").item()
            total += functional.binary_cross_entropy_with_logits(logits[r], truth, reduction="sum").item()
            count += 1
    assert scored.item() == pytest.approx(total / count, rel=1e-4)
    assert placed.item() == pytest.approx(far / count, rel=1e-4)
    assert far > 0


def test_of_each_image_eight_anchors_are_trained_on_half_of_them_on_the_object():
    net, drawn = made(sizes=(8.0, 16.0), positive=0.5), []
    handle = net.score.register_forward_hook(lambda _, given, __: drawn.append(given[0]))
    net.losses(image(64, 64)[None], [torch.tensor([[10.0, 10.0, 34.0, 34.0]])], torch.tensor([1]))
    handle.remove()
    assert [len(each) for each in drawn] == [8]


def test_the_whole_image_is_looked_at_at_every_scale_and_boxes_are_told_in_its_pixels():
    net, given = made(), image(48, 64)
    (plain, sure), *_ = net.candidates(given, [3])
    assert len(plain) == len(sure) <= 20
    assert (sure.diff() <= 0).all()
    ((again, _),) = net.candidates(given, [3], sides=(48,))
    assert torch.allclose(plain, again, atol=1e-3)
    ((several, both),) = net.candidates(given, [3], sides=(24, 48, 96))
    assert both[0] >= sure[0]
    for found in (plain, several):
        assert (found >= 0).all()
        assert (found[:, 2] <= 64).all()
        assert (found[:, 3] <= 48).all()


def test_the_second_step_tells_what_the_network_says_of_each_cut_alone():
    net, given = made(RegionLocalizer), image(40, 40)
    regions = torch.tensor([[0.0, 0.0, 16.0, 16.0], [8.0, 16.0, 24.0, 32.0], [3.0, 4.0, 40.0, 40.0]])
    found, sure = net.again(given, regions, 2)
    logits, codes = net(given[None], [regions])
    alone = net.body(given[None, :, 16:32, 8:24])[0].mean((2, 3))
    assert torch.allclose(net.score(alone)[0], logits[1], atol=1e-4)  # 16 x 16: cut out and not resized
    order = logits[:, 2].sigmoid().argsort(descending=True)
    assert torch.equal(sure, logits[order, 2].sigmoid())
    expected = boxes.clip(boxes.decode(codes[order, 2], regions[order]), 40, 40)
    assert torch.allclose(found, expected)


def test_each_asked_class_gets_its_surest_box_of_either_step():
    first, second, given = made(), made(RegionLocalizer), image(40, 40)
    found = first.candidates(given, [4, 1])
    alone, both = locate(first, given, [4, 1]), locate(first, given, [4, 1], second=second)
    assert alone.labels.tolist() == both.labels.tolist() == [4, 1]
    assert torch.equal(alone.boxes, torch.stack([places[0] for places, _ in found]))
    for n, label in enumerate((4, 1)):
        again, sure = second.again(given, found[n][0], label)
        assert torch.equal(both.boxes[n], again[sure.argmax()])
        assert both.scores[n] == sure.max()
    truth = made_objects([alone.boxes[1].tolist()], [1])
    assert localization_error([alone.detections()], [truth]) == 0
    assert localization_error([alone.detections()], [truth], k=1) == 100


def test_only_the_images_own_class_is_taught_where_a_box_is():
    logits, codes = torch.zeros(3, 5), torch.zeros(3, 5, 4, requires_grad=True)
    held, labels = torch.tensor([True, False, True]), torch.tensor([1, 1, 4])
    scored, placed = per_class_losses(logits, codes, labels, held, torch.ones(2, 4))
    placed.backward()
    assert codes.grad.abs().sum(2).nonzero().tolist() == [[0, 1], [2, 4]]
    assert scored.item() == pytest.approx(5 * 0.693147, rel=1e-4)


@pytest.mark.parametrize("kind", [Localizer, RegionLocalizer])
def test_both_steps_learn_one_image(kind):
    net = made(kind).train()
    given, truth, label = image(32, 32)[None], [torch.tensor([[6.0, 5.0, 22.0, 25.0]])], torch.tensor([3])
    around = truth[0] + 3 * torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    optimizer, told = torch.optim.Adam(net.parameters(), lr=0.01), []
    for _ in range(30):
        torch.manual_seed(0)
        parts = net.losses(given, truth, label) if kind is Localizer else net.losses(given, [around], truth, label)
        optimizer.zero_grad()
        sum(parts).backward()
        optimizer.step()
        told.append(sum(parts).item())
    assert told[-1] < 0.5 * told[0]


@pytest.mark.parametrize("size", [(8, 1600), (5, 5), (64, 64)])
@pytest.mark.parametrize("count", [0, 1, 400])
def test_odd_images_are_learned_and_looked_at_without_nan(size: tuple[int, int], count: int):
    net, second = made().train(), made(RegionLocalizer).train()
    given = image(*size)[None]
    truth = [torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(count, 1)]
    label = torch.tensor([0])
    sum(net.losses(given, truth, label)).backward()
    ((found, _),) = net.eval().candidates(given[0], [0], sides=(16, 32), longest=300)
    sum(second.losses(given, [found], truth, label)).backward()
    again, sure = second.eval().again(given[0], found, 0)
    assert again.isfinite().all()
    assert sure.isfinite().all()
    for each in (net, second):
        assert all(p.grad is None or p.grad.isfinite().all() for p in each.parameters())


def test_for_imagenet_it_has_a_thousand_scores_and_boxes_at_nine_anchors():
    with torch.device("meta"):
        net = Localizer(LocalizerDescription(trunk=describe("resnet101"), frozen=True))
    assert (net.score.out_features, net.box.out_features) == (9 * 1000, 9 * 4000)
    assert net.stride == 32
    assert not net.body.stem.conv.weight.requires_grad
    with pytest.raises(ValueError, match="pre-activation"):
        Localizer(LocalizerDescription(trunk=describe("preresnet164")))
