import math
from dataclasses import FrozenInstanceError, asdict

import msgspec
import pytest

from residual.recipes.demo import demo
from residual.recipes.finetune import finetune
from residual.recipes.modern import modern_photos, modern_small
from residual.recipes.paper import paper, paper_choosing
from residual.recipes.recipe import Recipe
from residual.train.schedule import Schedule

STEPS = Schedule(shape="steps", rate=0.1)
ALL = [demo(), finetune(), modern_photos(), modern_small(), paper(20), paper(110), paper_choosing()]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "and not both"),
        ({"iterations": 10, "epochs": 1}, "and not both"),
        ({"iterations": 0}, "longer than 0"),
        ({"epochs": -1}, "longer than -1"),
        ({"epochs": math.nan}, "longer than nan"),
        ({"epochs": math.inf}, "longer than inf"),
        ({"epochs": 1, "batch": 1}, "no batch-norm statistics"),
        ({"epochs": 1, "label_smoothing": 1.0}, "label_smoothing"),
        ({"epochs": 1, "validation": -0.1}, "validation"),
        ({"epochs": 1, "validation": 1.0}, "validation"),
        ({"epochs": 1, "average": 1.0}, "average"),
        ({"epochs": 1, "average": 0.0}, "average"),
        ({"epochs": 1, "exact_statistics": -1}, "exact_statistics"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Recipe(name="odd", schedule=STEPS, **wrong)


@pytest.mark.parametrize(
    ("epochs", "images", "batch", "iterations"),
    [(40, 50_000, 128, 15_625), (1, 1438, 128, 11), (0.5, 100, 64, 1), (1, 3, 64, 1), (15, 1438, 64, 337)],
)
def test_epochs_become_the_nearest_number_of_batches_and_at_least_one(epochs, images, batch, iterations):
    assert Recipe(name="r", schedule=STEPS, epochs=epochs, batch=batch).length(images) == iterations


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_a_recipe_comes_back_from_json(recipe):
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(asdict(recipe))), Recipe) == recipe


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_a_recipe_is_frozen(recipe):
    with pytest.raises(FrozenInstanceError):
        recipe.batch = 1
