import pytest

from residual.recipes.facebook import facebook
from residual.train.schedule import Pace


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0.1), (29, 0.1), (30, 0.01), (59, 0.01), (60, 0.001), (89, 0.001)])
def test_the_rate_falls_to_a_tenth_every_30_passes(epoch, rate):
    recipe, images = facebook(), 256 * 1000
    pace = Pace(recipe.schedule, recipe.length(images))
    assert pace.iterations == 90 * 1000
    assert pace.rate(epoch * 1000) == pytest.approx(rate)
    assert pace.rate(epoch * 1000 + 999) == pytest.approx(rate)


def test_images_are_cut_from_8_percent_on_jittered_and_lit():
    varied = facebook().augmentation
    assert (varied.crop, varied.least_area, varied.interpolation) == ("resized", 0.08, "bicubic")
    assert (varied.jitter, varied.lighting) == (0.4, 0.1)
    assert facebook().optimizer.decay_all
