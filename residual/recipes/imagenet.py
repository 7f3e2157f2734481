"""ImageNet as in section 3.4 of the paper.

    residual train --model resnet50 --data imagenet/ --recipe paper

Expect    24.7 % top-1 and 7.8 % top-5 validation error with ResNet-50, one crop; 22.85 and 6.71 %, ten crops (table 3)
Cost      600k iterations of 256 images: 120 passes over 1.28 million
Source    section 3.4; the authors' released models for the one-crop errors
Differs   "divided by 10 when the error plateaus": the drops are fixed at 150k and 300k iterations, where figure 4 shows
          them; the mean of each channel is subtracted instead of the mean image, since no pixel of a random crop keeps
          its place; the rate stands outside the velocity (docs/differences.md)
"""

from residual.data.transforms import Augmentation
from residual.recipes.recipe import Recipe
from residual.train.optimizer import Sgd
from residual.train.schedule import Schedule


def paper_photos() -> Recipe:
    """Photographs of 1,000 classes, for networks with an ImageNet stem."""
    return Recipe(
        name="paper",
        schedule=Schedule(shape="steps", rate=0.1, drops=(0.25, 0.5)),  # of 600k: 150k and 300k
        iterations=600_000,
        batch=256,
        batch_norm_group=32,  # eight GPUs, each with its own statistics
        optimizer=Sgd(momentum=0.9, decay=1e-4),
        augmentation=Augmentation(crop="scaled", shorter=(256, 480), flip=True, lighting=0.1),
        std=False,
        exact_statistics=10_000,
        precision="float32",
    )
