from residual.recipes.demo import demo


def test_the_demo_is_section_4_2_in_small():
    recipe = demo()
    assert recipe.schedule.drops == (0.5, 0.75)
    assert (recipe.optimizer.momentum, recipe.optimizer.decay) == (0.9, 1e-4)
    assert not recipe.augmentation.flip  # a mirrored digit is none
