"""The digits of the demo: section 4.2 in small, so that a laptop needs minutes.

    residual demo

Digits are not mirrored, and the rate is a fifth of the paper's: at 0.1 the deep residual network of these
8-pixel images had not recovered after 10 passes.  The rate was chosen because the effect shows at it, on other
seeds than the demo's (docs/lab_book.md).
"""

from residual.data.transforms import Augmentation
from residual.recipes.recipe import Recipe
from residual.train.optimizer import Sgd
from residual.train.schedule import Schedule


def demo() -> Recipe:
    """Section 4.2's steps, for few and small images."""
    return Recipe(
        name="demo",
        schedule=Schedule(shape="steps", rate=0.02, drops=(0.5, 0.75)),
        epochs=15,
        batch=64,
        optimizer=Sgd(momentum=0.9, decay=1e-4),
        augmentation=Augmentation(crop="pad", pad=1, flip=False),
        precision="float32",
    )
