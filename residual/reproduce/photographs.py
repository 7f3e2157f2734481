"""The trainings on photographs that several experiments share: section 3.4 on ImageNet, and in small on Tiny ImageNet.

Experiments never import each other; that equal trainings are one run is because they are told by one function.
"""

from residual.recipes.imagenet import paper_photos
from residual.recipes.tiny import SIDE, paper_tiny
from residual.reproduce.experiment import Setting


def on_imagenet(model: str, shortcut: str) -> Setting:
    """A network trained as in section 3.4."""
    return Setting(model=model, recipe=paper_photos(), data="imagenet", changes={"shortcut": shortcut})


def on_tiny_imagenet(model: str, shortcut: str) -> Setting:
    """The same network at a quarter of the size and length."""
    return Setting(model=model, recipe=paper_tiny(), data="tiny-imagenet", changes={"shortcut": shortcut}, size=SIDE)
