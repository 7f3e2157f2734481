import pytest

from residual.recipes.stochastic_depth import stochastic_depth
from residual.train.schedule import Pace


def test_half_of_the_last_block_s_steps_are_dropped_and_a_tenth_of_the_images_held_out():
    recipe = stochastic_depth()
    assert (recipe.stochastic_depth, recipe.validation, recipe.batch) == (0.5, 0.1, 128)
    assert (recipe.optimizer.nesterov, recipe.optimizer.decay) == (True, 1e-4)


@pytest.mark.parametrize(("step", "rate"), [(87_889, 0.1), (87_891, 0.01), (131_834, 0.01), (131_836, 0.001)])
def test_the_rate_drops_after_a_half_and_three_quarters_of_500_passes(step, rate):
    recipe = stochastic_depth()
    assert recipe.length(45_000) == 175_781
    assert Pace(recipe.schedule, recipe.length(45_000)).rate(step) == pytest.approx(rate)
