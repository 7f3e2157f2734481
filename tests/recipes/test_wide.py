import pytest

from residual.recipes.wide import wide
from residual.train.schedule import Pace


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 0.1), (59, 0.1), (60, 0.02), (119, 0.02), (120, 0.004), (160, 0.0008), (199, 0.0008)]
)
def test_a_fifth_of_the_rate_is_left_after_60_120_and_160_passes(epoch, rate):
    pace = Pace(wide().schedule, 200 * 400)
    assert pace.rate(epoch * 400) == pytest.approx(rate)


def test_it_is_nesterov_s_momentum_with_five_times_the_paper_s_decay():
    recipe = wide()
    assert (recipe.optimizer.nesterov, recipe.optimizer.decay, recipe.optimizer.decay_all) == (True, 5e-4, True)
    assert (recipe.epochs, recipe.batch, recipe.mean, recipe.std) == (200, 128, "channel", True)
