"""CIFAR as in section 4.2 of the paper.

    residual train --model resnet20 --data cifar10 --recipe paper

Expect    8.75 % test error with ResNet-20, 6.43 % (best of five) with ResNet-110 (table 6)
Cost      64k iterations of 128 images: 164 passes over CIFAR-10
Differs   one device: batch norm sees 128 images; the paper's two GPUs probably saw 64 each (docs/differences.md)
"""

from dataclasses import replace

from residual.data.transforms import Augmentation
from residual.recipes.recipe import Recipe
from residual.train.optimizer import Sgd
from residual.train.schedule import Schedule

WARMUP_FROM = 110  # layers; "we find that the initial learning rate of 0.1 is slightly too large" for this depth


def paper(depth: int = 20) -> Recipe:
    """All 50k training images, as for the errors of table 6."""
    return Recipe(
        name="paper",
        schedule=Schedule(
            shape="steps",
            rate=0.1,
            drops=(0.5, 0.75),  # of 64k: 32k and 48k
            warmup_rate=0.01,
            warmup_error=80.0 if depth >= WARMUP_FROM else None,
        ),
        iterations=64_000,
        batch=128,
        optimizer=Sgd(momentum=0.9, decay=1e-4),
        augmentation=Augmentation(crop="pad", pad=4, flip=True),
        mean="pixel",
        std=False,
        exact_statistics=10_000,
        precision="float32",
    )


def paper_choosing(depth: int = 20) -> Recipe:
    """The same on 45k images, with 5k held out: the split on which the paper chose its schedule."""
    return replace(paper(depth), name="paper-choosing", validation=0.1)
