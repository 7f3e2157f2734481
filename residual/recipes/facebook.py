"""ImageNet as fb.resnet.torch trained it: the first published training of residual networks that others could run.

    residual train --model resnet50_v1_5 --data imagenet/ --recipe facebook

Expect    24.01 % top-1 and 7.02 % top-5 validation error with ResNet-50, one crop; 22.24 and 6.08 %, ten crops
Cost      90 passes over 1.28 million images
Source    github.com/facebook/fb.resnet.torch: README and datasets/imagenet.lua
Differs   batch norm sees the whole batch, theirs the share of each GPU: set batch_norm_group for that
"""

from residual.data.transforms import Augmentation
from residual.recipes.recipe import Recipe
from residual.train.optimizer import Sgd
from residual.train.schedule import Schedule


def facebook() -> Recipe:
    """Photographs of 1,000 classes, for networks with an ImageNet stem."""
    return Recipe(
        name="facebook",
        schedule=Schedule(shape="steps", rate=0.1, drops=(1 / 3, 2 / 3)),  # after 30 and 60 passes
        epochs=90,
        batch=256,
        optimizer=Sgd(momentum=0.9, nesterov=True, decay=1e-4),
        augmentation=Augmentation(
            crop="resized", least_area=0.08, flip=True, interpolation="bicubic", jitter=0.4, lighting=0.1
        ),
    )
