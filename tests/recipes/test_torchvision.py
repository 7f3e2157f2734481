import math

import pytest

from residual.recipes.torchvision import torchvision_v1, torchvision_v2
from residual.train.schedule import Pace


def test_the_first_weights_in_numbers():
    recipe = torchvision_v1()
    assert (recipe.epochs, recipe.batch, recipe.batch_norm_group) == (90, 8 * 32, 32)
    assert (recipe.optimizer.momentum, recipe.optimizer.decay, recipe.optimizer.nesterov) == (0.9, 1e-4, False)
    assert [recipe.schedule.at(epoch / 90) for epoch in (0, 29.9, 30, 60)] == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_the_second_weights_in_numbers():
    recipe = torchvision_v2()
    assert (recipe.epochs, recipe.batch, recipe.batch_norm_group) == (600, 8 * 128, 128)
    assert (recipe.optimizer.decay, recipe.optimizer.decay_all, recipe.label_smoothing) == (2e-5, False, 0.1)
    varied = recipe.augmentation
    assert (varied.policy, varied.erase, varied.mixup, varied.cutmix) == ("trivialaugment", 0.1, 0.2, 1.0)
    assert (varied.size, varied.repeats, varied.interpolation) == (176, 4, "bilinear")


@pytest.mark.parametrize("epoch", [0, 1, 2.5, 5, 100, 302.5, 599, 600])
def test_the_rate_climbs_for_5_passes_from_a_hundredth_and_falls_as_a_cosine(epoch):
    recipe = torchvision_v2()
    pace = Pace(recipe.schedule, 600_000)
    climbing = 0.5 * (0.01 + 0.99 * epoch / 5)
    falling = 0.5 * (1 + math.cos(math.pi * (epoch - 5) / 595)) / 2
    assert pace.rate(round(epoch * 1000)) == pytest.approx(climbing if epoch < 5 else falling, abs=1e-12)


def test_the_average_forgets_as_theirs_does():
    """Their program raises 1 - 0.99998 by batch times iterations between updates over passes."""
    recipe = torchvision_v2()
    assert recipe.average_every == 32
    assert 1 - recipe.average == pytest.approx((1 - 0.99998) * 1024 * 32 / 600, rel=1e-6)
    assert recipe.average == pytest.approx(0.998908, abs=1e-6)
