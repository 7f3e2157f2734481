import math
from dataclasses import FrozenInstanceError, asdict, replace

import msgspec
import pytest

from residual.recipes.demo import demo
from residual.recipes.facebook import facebook
from residual.recipes.finetune import finetune
from residual.recipes.identity import identity, identity_64
from residual.recipes.imagenet import paper_photos
from residual.recipes.modern import modern_photos, modern_small
from residual.recipes.paper import paper, paper_choosing
from residual.recipes.recipe import Recipe
from residual.recipes.stochastic_depth import stochastic_depth
from residual.recipes.strikes_back import a1, a2, a3
from residual.recipes.torchvision import torchvision_v1, torchvision_v2
from residual.recipes.wide import wide
from residual.train.optimizer import Lamb, Sgd
from residual.train.schedule import Schedule

STEPS = Schedule(shape="steps", rate=0.1)
ALL = [
    demo(), finetune(), modern_photos(), modern_small(), paper(20), paper(110), paper_choosing(), paper_photos(),
    facebook(), identity(), identity_64(), stochastic_depth(), wide(), torchvision_v1(), torchvision_v2(), a1(), a2(),
    a3(),
]  # fmt: skip


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
        ({"epochs": 1, "accumulate": 0}, "accumulate counts"),
        ({"epochs": 1, "average_every": 0}, "average_every counts"),
        ({"epochs": 1, "accumulate": 3}, "multiple of 6"),
        ({"epochs": 1, "batch_norm_group": 3}, "even number"),
        ({"epochs": 1, "batch_norm_group": 48}, "even number"),
        ({"epochs": 1, "batch_norm_group": 64, "accumulate": 4}, "128 images in 4 parts"),
        ({"epochs": 1, "clip": 0.0}, "clip"),
        ({"epochs": 1, "stochastic_depth": 1.0}, "stochastic_depth"),
        ({"epochs": 1, "lamb": Lamb(), "optimizer": Sgd(nesterov=True)}, "two optimizers"),
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


@pytest.mark.parametrize(
    ("batch", "images", "expected"),
    [(128, 50_000, 128), (128, 512, 128), (128, 511, 64), (128, 30, 8), (8, 9, 8), (128, 7, 7), (2048, 1000, 128)],
)
def test_few_images_make_small_batches(batch, images, expected):
    recipe = replace(paper(), batch=batch)
    assert recipe.for_few(images).batch == expected
    assert (recipe.for_few(images) is recipe) == (batch == expected)


def test_small_batches_are_not_parted_and_keep_the_groups_they_are_multiples_of():
    recipe = replace(paper(), batch=256, accumulate=2, batch_norm_group=32)
    assert [recipe.for_few(images).batch_norm_group for images in (2000, 300, 100, 7)] == [32, 32, None, None]
    assert [recipe.for_few(images).accumulate for images in (2000, 300)] == [2, 1]
