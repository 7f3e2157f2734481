from residual.recipes.finetune import finetune
from residual.recipes.modern import modern_photos


def test_fine_tuning_goes_at_a_tenth_of_the_rate_for_fewer_passes():
    recipe, anew = finetune(), modern_photos()
    assert recipe.schedule.rate == anew.schedule.rate / 10
    assert recipe.epochs < anew.epochs
    assert recipe.optimizer == anew.optimizer
