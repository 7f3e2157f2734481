import pytest

from residual.recipes.imagenet import paper_photos
from residual.train.schedule import Pace


def test_section_3_4_in_numbers():
    recipe = paper_photos()
    assert (recipe.batch, recipe.iterations, recipe.batch_norm_group) == (256, 600_000, 256 // 8)
    assert recipe.batch * recipe.iterations / 1_281_167 == pytest.approx(120, abs=0.2)  # passes
    assert (recipe.optimizer.momentum, recipe.optimizer.decay, recipe.optimizer.nesterov) == (0.9, 1e-4, False)
    crop = recipe.augmentation
    assert (crop.crop, crop.shorter, crop.flip, crop.lighting) == ("scaled", (256, 480), True, 0.1)
    assert (crop.jitter, crop.mixup, crop.cutmix, crop.erase, crop.policy) == (0, 0, 0, 0, "none")
    assert not recipe.std


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.1), (149_999, 0.1), (150_000, 0.01), (300_000, 0.001), (599_999, 0.001)]
)
def test_the_drops_are_where_figure_4_shows_them(step, rate):
    recipe = paper_photos()
    assert Pace(recipe.schedule, 600_000).rate(step) == pytest.approx(rate)
