"""Norms meet what they stored where they are shown it again; a fault puts it at the other end of the line."""

import torch
from torch import Tensor, nn

from residual.evaluate.norms import Seen, lean, misfit, observe
from residual.models.description import Description
from residual.models.resnet import ResNet


def test_norms_that_are_shown_what_they_stored_miss_nothing():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"depths": (1, 2, 2, 1), "widths": (8, 8, 16, 16), "stem": "imagenet", "stem_width": 16}
        model = ResNet(Description(block="bottleneck", **shape, classes=8, image=40))
        coarse = torch.randn(96, 3, 10, 10) + torch.tensor([0.6, 0.0, -0.6])[:, None, None]
    images = nn.functional.interpolate(coarse, size=40, mode="bilinear")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average of all batches, here of one
    with torch.no_grad():
        model.train()(images)
    assert misfit(observe(model.eval(), images)) < 0.01  # the stored variance divides by n - 1
    assert misfit(observe(model, images.flip(1))) > 0.1
    assert misfit(observe(model, images, stem_only=True)) < 1e-3


def of_stem(values: Tensor) -> Seen:
    """As if these were the statistics of one norm."""
    return Seen(values=values, depth=torch.zeros(values.shape[1]), logits=torch.empty(len(values), 0))


def test_the_stored_statistics_lie_at_either_end_of_the_line():
    rng = torch.Generator().manual_seed(0)
    shift = torch.randn(300, generator=rng) / 10

    def seen(off: Tensor, count: int) -> Seen:
        # A few large directions that images share, and small noise: of 300 statistics, as of a network's.
        common = torch.randn(count, 3, generator=rng) @ torch.randn(3, 300, generator=rng)
        return of_stem(common + torch.randn(count, 300, generator=rng) / 5 + off)

    for count in (32, 128):
        images = seen(torch.zeros(300), count)
        away = of_stem(images.values + shift)
        here, there = lean(images, away), lean(of_stem(images.values - shift), images)
        assert here is not None
        assert there is not None
        assert abs(here.place) < 4 * here.spread < 0.5
        assert abs(there.place - 1) < 4 * there.spread < 0.5
        assert here.excludes
        assert there.convinces
    assert lean(images, images) is None
