"""CIFAR as in "Deep Networks with Stochastic Depth" (Huang et al. 2016).

    residual train --model resnet110 --data cifar10 --recipe stochastic-depth

Expect    5.23 % CIFAR-10 test error with 110 layers, 4.91 % with 1,202; 6.41 % with 110 of constant depth
Cost      500 passes over 45,000 images, each about a quarter cheaper than at constant depth
Source    the authors' published program; the errors as later papers quote them
"""

from residual.data.transforms import Augmentation
from residual.recipes.recipe import Recipe
from residual.train.optimizer import Sgd
from residual.train.schedule import Schedule


def stochastic_depth() -> Recipe:
    """The last block is dropped half of the time, the first hardly ever; 5,000 images are held out for choosing."""
    return Recipe(
        name="stochastic-depth",
        schedule=Schedule(shape="steps", rate=0.1, drops=(0.5, 0.75)),
        epochs=500,
        batch=128,
        optimizer=Sgd(momentum=0.9, nesterov=True, decay=1e-4),
        augmentation=Augmentation(crop="pad", pad=4, flip=True),
        stochastic_depth=0.5,
        validation=0.1,
        precision="float32",
    )
