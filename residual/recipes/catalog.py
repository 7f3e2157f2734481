"""The recipes by name."""

from collections.abc import Callable

from residual.models.cost import layers
from residual.models.description import Description
from residual.recipes import facebook, identity, strikes_back, torchvision
from residual.recipes.finetune import finetune
from residual.recipes.imagenet import paper_photos
from residual.recipes.modern import modern_photos, modern_small
from residual.recipes.paper import paper, paper_choosing
from residual.recipes.recipe import Recipe
from residual.recipes.stochastic_depth import stochastic_depth
from residual.recipes.wide import wide

SMALL: dict[str, Callable[[], Recipe]] = {  # for images of CIFAR's kind
    "identity": identity.identity,
    "identity-64": identity.identity_64,
    "wide": wide,
    "stochastic-depth": stochastic_depth,
}
PHOTOS: dict[str, Callable[[], Recipe]] = {  # for photographs
    "facebook": facebook.facebook,
    "torchvision-v1": torchvision.torchvision_v1,
    "torchvision-v2": torchvision.torchvision_v2,
    "rsb-a1": strikes_back.a1,
    "rsb-a2": strikes_back.a2,
    "rsb-a3": strikes_back.a3,
}
RECIPES = ("modern", "paper", "paper-choosing", "finetune", *SMALL, *PHOTOS)


def recipe_named(name: str, network: Description) -> Recipe:
    """The recipe `name` for a network of this description; refuses one that was made for other networks."""
    photos = network.stem == "imagenet"
    if photos and (name == "paper-choosing" or name in SMALL):
        raise ValueError(
            f"recipe {name!r} is for CIFAR networks and images of 32 pixels; for networks of photographs use "
            "--recipe modern, or paper, or one of: " + ", ".join(PHOTOS)
        )
    if not photos and name in PHOTOS:
        raise ValueError(
            f"recipe {name!r} is for networks of photographs, and this is a CIFAR network; use --recipe modern, or "
            "paper, or one of: " + ", ".join(SMALL)
        )
    match name:
        case "paper":
            return paper_photos() if photos else paper(layers(network))
        case "paper-choosing":
            return paper_choosing(layers(network))
        case "modern":
            return modern_photos() if photos else modern_small()
        case "finetune":
            return finetune()
    made = SMALL | PHOTOS
    if name not in made:
        raise ValueError(f"there is no recipe {name!r}; choose one of: {', '.join(RECIPES)}")
    return made[name]()
