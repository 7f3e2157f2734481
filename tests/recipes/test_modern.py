import pytest

from residual.recipes.modern import modern_photos, modern_small


@pytest.mark.parametrize("recipe", [modern_small(), modern_photos()])
def test_the_rate_ends_at_zero(recipe):
    assert recipe.schedule.at(1.0) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("recipe", [modern_small(), modern_photos()])
def test_scales_and_biases_are_spared_and_weights_averaged(recipe):
    assert not recipe.optimizer.decay_all
    assert recipe.average is not None
