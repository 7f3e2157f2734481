"""CIFAR as in "Wide Residual Networks" (Zagoruyko & Komodakis 2016).

    residual train --model wide_resnet28_10 --data cifar10 --recipe wide

Expect    4.00 % CIFAR-10 and 19.25 % CIFAR-100 test error with WRN-28-10
Cost      200 passes over 50,000 images
Source    github.com/szagoruyko/wide-residual-networks, README
Differs   the border of a shifted image is its mean colour, theirs its reflection
"""

from residual.data.transforms import Augmentation
from residual.recipes.recipe import Recipe
from residual.train.optimizer import Sgd
from residual.train.schedule import Schedule


def wide() -> Recipe:
    """Small images, normalised by mean and standard deviation; not the numbers with ZCA whitening."""
    return Recipe(
        name="wide",
        schedule=Schedule(shape="steps", rate=0.1, drops=(0.3, 0.6, 0.8), factor=0.2),  # after 60, 120, 160 passes
        epochs=200,
        batch=128,
        optimizer=Sgd(momentum=0.9, nesterov=True, decay=5e-4),
        augmentation=Augmentation(crop="pad", pad=4, flip=True),
        precision="float32",
    )
