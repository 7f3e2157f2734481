from dataclasses import replace

import pytest

from residual.recipes.identity import identity, identity_64
from residual.recipes.paper import paper
from residual.train.schedule import Pace


@pytest.mark.parametrize("recipe", [identity(), identity_64()], ids=lambda recipe: recipe.name)
def test_the_first_400_iterations_go_at_a_tenth_of_the_rate(recipe):
    pace = Pace(recipe.schedule, recipe.iterations)
    assert [pace.rate(step) for step in (0, 399, 400, 401)] == pytest.approx([0.01, 0.01, 0.1, 0.1])
    half = recipe.iterations // 2
    assert [pace.rate(step) for step in (half - 1, half)] == pytest.approx([0.1, 0.01])


def test_all_else_is_section_4_2():
    assert replace(identity(), name="paper", schedule=paper().schedule) == paper()


def test_batches_of_64_for_200_passes():
    recipe = identity_64()
    assert (recipe.batch, recipe.iterations) == (64, 156_250)
    assert recipe.iterations * recipe.batch == 200 * 50_000
