"""CIFAR as in "Identity Mappings in Deep Residual Networks" (He, Zhang, Ren, Sun 2016).

    residual train --model preresnet164 --data cifar10 --recipe identity
    residual train --model preresnet1001 --data cifar10 --recipe identity-64

Expect    5.46 % CIFAR-10 test error with PreResNet-164, 4.92 % with 1,001 layers, 4.62 % with batches of 64
Cost      64k iterations of 128 images; the smaller batches 200 passes over 50,000 images
Source    the paper's appendix; github.com/KaimingHe/resnet-1k-layers for the batches of 64
Differs   that program's drops are not in its documentation: they are left at a half and three quarters
"""

from dataclasses import replace

from residual.recipes.paper import paper
from residual.recipes.recipe import Recipe
from residual.train.schedule import Schedule

HELD = 400  # iterations at a tenth of the rate, whatever the error


def identity() -> Recipe:
    """Section 4.2 of the first paper, with another warm-up for every depth."""
    return replace(paper(), name="identity", schedule=_held(64_000))


def identity_64() -> Recipe:
    """Half the batch, for networks that do not fit into memory otherwise; "less expectedly" a little better."""
    iterations = 200 * 50_000 // 64
    return replace(paper(), name="identity-64", schedule=_held(iterations), iterations=iterations, batch=64)


def _held(iterations: int) -> Schedule:
    return Schedule(shape="steps", rate=0.1, drops=(0.5, 0.75), warmup_rate=0.01, hold=HELD / iterations)
