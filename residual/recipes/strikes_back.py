"""ImageNet as in "ResNet strikes back" (Wightman, Touvron, Jégou 2021): three trainings of three lengths.

    residual train --model resnet50_v1_5 --data imagenet/ --recipe rsb-a2

Expect    ResNet-50, top-1 validation error at 224 pixels: 19.6 % (A1), 20.2 % (A2), 21.9 % (A3)
Cost      600, 300 and 100 passes over 1.28 million images; A3 sees them at 160 pixels
Source    the paper's table of ingredients; timm's results-imagenet.csv; timm's commands for these recipes for the start
          of the warm-up and for when a mixed image is of a class (train/loss.py)
Differs   the cosine begins when the warm-up ends, theirs with the training; tests are at 224 of 256 pixels where theirs
          are of 236; label smoothing also softens the targets of mixed images
"""

from dataclasses import replace

from residual.data.transforms import Augmentation
from residual.recipes.recipe import Recipe
from residual.train.optimizer import Lamb
from residual.train.schedule import Schedule

WARMUP = 5  # passes


def a1() -> Recipe:
    """The longest: the best ResNet-50."""
    return _trained(
        name="rsb-a1",
        epochs=600,
        rate=5e-3,
        decay=0.01,
        smoothing=0.1,
        augmentation=_varied(magnitude=7.0, mixup=0.2, repeats=3),
    )


def a2() -> Recipe:
    """As long as other trainings of its time."""
    return _trained(
        name="rsb-a2",
        epochs=300,
        rate=5e-3,
        decay=0.02,
        smoothing=0.0,
        augmentation=_varied(magnitude=7.0, mixup=0.1, repeats=3),
    )


def a3() -> Recipe:
    """Short, and at a low resolution."""
    recipe = _trained(
        name="rsb-a3",
        epochs=100,
        rate=8e-3,
        decay=0.02,
        smoothing=0.0,
        augmentation=replace(_varied(magnitude=6.0, mixup=0.1, repeats=1), size=160),
    )
    return replace(recipe, stochastic_depth=None)


def _trained(
    *, name: str, epochs: int, rate: float, decay: float, smoothing: float, augmentation: Augmentation
) -> Recipe:
    return Recipe(
        name=name,
        schedule=Schedule(shape="cosine", rate=rate, warmup=WARMUP / epochs, warmup_from=1e-4),
        epochs=epochs,
        batch=2048,
        batch_norm_group=512,  # four GPUs, each with its own statistics
        lamb=Lamb(decay=decay),
        clip=1.0,  # which timm's LAMB does unless told otherwise
        augmentation=augmentation,
        loss="binary",
        label_smoothing=smoothing,
        stochastic_depth=0.05,
    )


def _varied(*, magnitude: float, mixup: float, repeats: int) -> Augmentation:
    return Augmentation(
        crop="resized",
        least_area=0.08,
        flip=True,
        interpolation="bicubic",
        policy="randaugment",
        magnitude=magnitude,
        mixup=mixup,
        cutmix=1.0,
        repeats=repeats,
    )
