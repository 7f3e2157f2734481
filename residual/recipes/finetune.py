"""Go on from a network that is already trained, on other images.

    residual train --recipe finetune --model runs/resnet20 --data my_photos

A low rate, for few epochs; the classifier starts anew where the classes differ.
"""

from dataclasses import replace

from residual.recipes.modern import modern_photos
from residual.recipes.recipe import Recipe
from residual.train.schedule import Schedule


def finetune() -> Recipe:
    """Few passes at a low rate, whatever the network."""
    return replace(
        modern_photos(),
        name="finetune",
        schedule=Schedule(shape="cosine", rate=0.01, warmup=0.1),
        epochs=15,
    )
