from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import nms

from residual.detect.masks import MaskDescription
from residual.detect.procedure import IMPROVED, Procedure, detect
from residual.detect.regions import answer
from residual.detect.voting import vote

SMALL = Procedure(side=64, longest=160)


def some(make, seed: int = 0, **changes):
    net = make(**changes).eval()
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(net.head.score.weight, std=0.5, generator=generator)
    nn.init.normal_(net.head.box.weight, std=0.2, generator=generator)
    nn.init.normal_(net.proposer.box.weight, std=0.2, generator=generator)
    return net


def image(height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(3))


def test_the_plain_procedure_is_the_detector_itself(make):
    net = some(make, masks=MaskDescription(width=5))
    found, (expected,) = detect([net], image(), SMALL), net(image()[None], [(64, 96)])
    assert len(found) > 5
    for name in ("boxes", "labels", "scores", "masks"):
        assert torch.allclose(getattr(found, name), getattr(expected, name)), name


def test_boxes_are_told_in_the_images_own_pixels(make):
    net, large = some(make), functional.interpolate(image()[None], scale_factor=2.0, mode="nearest")[0]
    small = functional.interpolate(large[None], (64, 96), mode="bilinear", antialias=True)
    found, (expected,) = detect([net], large, SMALL), net(small, [(64, 96)], shown=[(128, 192)])
    kept = expected.boxes.shape[0]
    assert torch.allclose(found.boxes[:kept], expected.boxes, atol=1e-3)


def test_a_network_agrees_with_itself_and_two_with_neither_alone(make):
    one, other = some(make, 1), some(make, 2)
    alone, twice = detect([one], image(), SMALL), detect([one, one], image(), SMALL)
    kept = nms(alone.boxes, alone.scores, 0.99)  # equal proposals go at the suppression
    assert torch.allclose(twice.boxes[: len(kept)], alone.boxes, atol=1e-4)
    assert torch.allclose(twice.scores, alone.scores)
    both = detect([one, other], image(), SMALL)
    assert not torch.equal(both.scores[:5], alone.scores[:5])


@torch.no_grad()
def test_an_ensemble_judges_the_union_of_proposals_by_the_mean_of_its_heads(make):
    nets, every, size = [some(make, 1), some(make, 2)], [], (64, 96)
    maps = [net.shared(image()[None]) for net in nets]
    regions = torch.cat([net.proposer.propose(net.proposer(m), 0, size) for net, m in zip(nets, maps, strict=True)])
    for net, mine in zip(nets, maps, strict=True):
        scores, codes, _ = net.head(mine, [regions], [size])
        every.append(net.head.judged(scores, codes, regions, size))
    expected = answer((every[0][0] + every[1][0]) / 2, (every[0][1] + every[1][1]) / 2, nets[0].description.regions)
    found = detect(nets, image(), SMALL)
    assert torch.allclose(found.boxes, expected.boxes, atol=1e-4)
    assert torch.allclose(found.scores, expected.scores)
    assert len(found) > 5


def test_refined_and_voted_it_is_the_direct_form_of_the_paper(make):
    """300 + 300 predictions, suppression at .3 and voting, written down once more for one network and one scale."""
    net = some(make)
    found = detect([net], image(), replace(SMALL, refined=True, voters=0.5))
    maps = net.shared(image()[None])
    with torch.no_grad():
        regions = net.proposer.propose(net.proposer(maps), 0, (64, 96))
        every = []
        for _ in range(2):
            scores, codes, _ = net.head(maps, [regions], [(64, 96)])
            sure, boxes = net.head.judged(scores, codes, regions, (64, 96))
            every.append((sure, boxes))
            regions = torch.stack([box[int(p.argmax())] for p, box in zip(sure, boxes, strict=True)])
        sure, boxes = (torch.cat(parts) for parts in zip(*every, strict=True))
        kept = [
            (box, label, probability)
            for of_region, told in zip(sure, boxes, strict=True)
            for label, (probability, box) in enumerate(zip(of_region, told, strict=True))
            if probability > 0.01 and (box[2:] - box[:2]).min() >= 0.01
        ]
        told = vote(
            torch.stack([b for b, _, _ in kept]),
            torch.tensor([k for _, k, _ in kept]),
            torch.stack([p for *_, p in kept]),
            overlap=0.3,
            voters=0.5,
        )
    for mine, yours in zip((found.boxes, found.labels, found.scores), told, strict=True):
        assert torch.allclose(mine, yours[:100], atol=1e-4)
    assert len(found) > 5


def test_of_one_scale_multi_scale_testing_is_the_plain_one(make):
    net = some(make)
    plain, same = detect([net], image(), SMALL), detect([net], image(), replace(SMALL, sides=(64,), widest=160))
    assert torch.equal(plain.boxes, same.boxes)
    several = detect([net], image(), replace(SMALL, sides=(32, 64, 128), widest=300))
    assert len(several)
    assert not torch.equal(plain.scores[:5], several.scores[:5])


@pytest.mark.parametrize("size", [(50, 2000), (1, 1), (64, 64)])
def test_odd_images_go_through_the_whole_procedure(size: tuple[int, int], make):
    context = replace(make().description.regions, context=True)
    nets = [some(make, seed, regions=context, masks=MaskDescription(width=5)) for seed in (0, 1)]
    procedure = replace(IMPROVED, side=60, longest=400, sides=(20, 40, 60), widest=500)
    found = detect(nets, image(*size), procedure)
    assert found.boxes.isfinite().all()
    assert found.masks.shape == (len(found), *size)
    arrays = found.detections()
    assert arrays.boxes.dtype == "float64"
    assert len(arrays) == len(found)


def test_what_is_not_to_be_shrunk_is_looked_at_as_it_is(make):
    net, large = some(make), image(90, 130)
    kept = replace(SMALL, shrink=False)
    assert told(detect([net], large, kept)) == told(detect([net], large, replace(SMALL, side=90)))
    assert told(detect([net], large, kept)) != told(detect([net], large, SMALL))
    assert told(detect([net], image(40, 50), kept)) == told(detect([net], image(40, 50), SMALL))
    assert told(detect([net], image(100, 400), kept)) == told(detect([net], image(100, 400), SMALL))  # longest


def test_scales_go_with_an_image_that_is_not_shrunk(make):
    net, kept = some(make), replace(SMALL, shrink=False, longest=1000, widest=1000)
    several = replace(kept, sides=(32, 64, 128))
    assert several.sides_of(60, 90) == (32, 64, 128)  # a smaller one is brought to 64
    assert several.sides_of(128, 200) == (64, 128, 256)
    assert replace(several, shrink=True).sides_of(128, 200) == (32, 64, 128)
    large = image(90, 130)
    one_scale = replace(kept, sides=(64,))  # of the image itself: the size at which regions were proposed
    assert told(detect([net], large, one_scale)) == told(detect([net], large, kept))
    own = replace(several, side=90, sides=(45, 90, 180))
    assert told(detect([net], large, several)) == told(detect([net], large, own))


def test_sides_that_no_image_has_are_refused():
    for wrong in ({"side": 10**9}, {"sides": (64, 10**9)}, {"longest": 10**9}, {"widest": 10**9}):
        with pytest.raises(ValueError, match="at most"):
            Procedure(**wrong)
    with pytest.raises(ValueError, match="20 scales at most"):
        Procedure(sides=tuple(range(1, 22)))


def told(found) -> list:
    return [found.boxes.tolist(), found.labels.tolist(), found.scores.tolist()]


def test_the_improved_procedure_is_the_papers_and_scales_must_grow():
    assert IMPROVED.sides == (200, 400, 600, 800, 1000)
    assert (IMPROVED.side, IMPROVED.refined) == (600, True)
    with pytest.raises(ValueError, match="must grow"):
        Procedure(sides=(400, 200))
    with pytest.raises(ValueError, match="at least 1"):
        Procedure(side=0)
