import pytest

from residual.models.catalog import describe
from residual.recipes.catalog import RECIPES, recipe_named


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_the_name_it_is_asked_for_by(name):
    assert recipe_named(name, describe("resnet20")).name == name


@pytest.mark.parametrize(
    ("network", "warm"),
    [
        ("resnet20", False),
        ("plain56", False),
        ("wide_resnet40_4", False),
        ("wide_resnet112_1", True),
        ("resnet110", True),
        ("preresnet164", True),
        ("resnet1202", True),
    ],
)
def test_the_paper_s_warm_up_goes_by_the_depth_of_the_network(network, warm):
    assert (recipe_named("paper", describe(network)).schedule.warmup_error is not None) == warm


@pytest.mark.parametrize("name", ["paper", "paper-choosing"])
def test_the_paper_s_recipe_for_cifar_is_refused_to_networks_of_photographs(name):
    with pytest.raises(ValueError, match="--recipe modern"):
        recipe_named(name, describe("resnet50"))


def test_modern_goes_by_the_stem():
    assert recipe_named("modern", describe("resnet20")).augmentation.crop == "pad"
    photos = recipe_named("modern", describe("resnet18"))
    assert photos.augmentation.crop == "resized"
    assert photos.validation == 0.1


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(ValueError, match="modern, paper, paper-choosing, finetune"):
        recipe_named("papper", describe("resnet20"))
