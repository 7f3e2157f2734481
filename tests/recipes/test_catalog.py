import pytest

from residual.models.catalog import describe
from residual.recipes.catalog import PHOTOS, RECIPES, SMALL, recipe_named


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_the_name_it_is_asked_for_by(name):
    assert recipe_named(name, describe("resnet50" if name in PHOTOS else "resnet20")).name == name


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


@pytest.mark.parametrize("name", ["paper-choosing", *SMALL])
def test_recipes_for_small_images_are_refused_to_networks_of_photographs(name):
    with pytest.raises(ValueError, match=r"CIFAR.*--recipe modern.*torchvision-v2"):
        recipe_named(name, describe("resnet50"))


@pytest.mark.parametrize("name", PHOTOS)
def test_recipes_for_photographs_are_refused_to_networks_of_small_images(name):
    with pytest.raises(ValueError, match=r"this is a CIFAR network.*wide"):
        recipe_named(name, describe("resnet20"))


@pytest.mark.parametrize(("name", "small", "photos"), [("paper", "pad", "scaled"), ("modern", "pad", "resized")])
def test_paper_and_modern_go_by_the_stem(name, small, photos):
    assert recipe_named(name, describe("resnet20")).augmentation.crop == small
    assert recipe_named(name, describe("resnet18")).augmentation.crop == photos


def test_modern_holds_photographs_out():
    assert recipe_named("modern", describe("resnet18")).validation == 0.1


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(ValueError, match="modern, paper, paper-choosing, finetune, identity"):
        recipe_named("papper", describe("resnet20"))
