import pytest

from residual.recipes.strikes_back import a1, a2, a3

ALL = [a1(), a2(), a3()]


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_what_the_three_share(recipe):
    assert (recipe.batch, recipe.batch_norm_group, recipe.loss, recipe.average) == (2048, 512, "binary", None)
    varied = recipe.augmentation
    assert (varied.policy, varied.operations, varied.magnitude_std, varied.cutmix) == ("randaugment", 2, 0.5, 1.0)
    assert (varied.least_area, varied.interpolation, varied.flip) == (0.08, "bicubic", True)


@pytest.mark.parametrize(
    ("recipe", "epochs", "rate", "decay", "smoothing", "mixup", "magnitude", "repeats", "depth", "size"),
    [
        (a1(), 600, 5e-3, 0.01, 0.1, 0.2, 7, 3, 0.05, None),
        (a2(), 300, 5e-3, 0.02, 0.0, 0.1, 7, 3, 0.05, None),
        (a3(), 100, 8e-3, 0.02, 0.0, 0.1, 6, 1, None, 160),
    ],
)
def test_the_table_of_ingredients(recipe, epochs, rate, decay, smoothing, mixup, magnitude, repeats, depth, size):
    assert (recipe.epochs, recipe.schedule.rate, recipe.lamb.decay) == (epochs, rate, decay)
    assert (recipe.label_smoothing, recipe.stochastic_depth) == (smoothing, depth)
    varied = recipe.augmentation
    assert (varied.mixup, varied.magnitude, varied.repeats, varied.size) == (mixup, magnitude, repeats, size)


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_the_rate_climbs_for_5_passes_and_falls_to_zero(recipe):
    at = [recipe.schedule.at(epoch / recipe.epochs) for epoch in (0, 2.5, 5, recipe.epochs)]
    assert at == pytest.approx([1e-4, (1e-4 + recipe.schedule.rate) / 2, recipe.schedule.rate, 0], abs=1e-12)
