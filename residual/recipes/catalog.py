"""The recipes by name."""

from residual.models.description import Description
from residual.recipes.finetune import finetune
from residual.recipes.modern import modern_photos, modern_small
from residual.recipes.paper import paper, paper_choosing
from residual.recipes.recipe import Recipe

RECIPES = ("modern", "paper", "paper-choosing", "finetune")


def recipe_named(name: str, network: Description) -> Recipe:
    """The recipe `name` for a network of this description."""
    layers = (2 if network.block == "basic" else 3) * sum(network.depths) + 2  # wide nets are named two higher, 6n + 4
    match name:
        case "paper" | "paper-choosing" if network.stem == "imagenet":
            raise ValueError(
                f"recipe {name!r} is that of the CIFAR networks (section 4.2); for networks of photographs use "
                "--recipe modern"
            )
        case "paper":
            return paper(layers)
        case "paper-choosing":
            return paper_choosing(layers)
        case "modern":
            return modern_photos() if network.stem == "imagenet" else modern_small()
        case "finetune":
            return finetune()
    raise ValueError(f"there is no recipe {name!r}; choose one of: {', '.join(RECIPES)}")
