"""ImageNet as torchvision trained its two generations of weights.

    residual train --model resnet50_v1_5 --data imagenet/ --recipe torchvision-v2

Expect    ResNet-50, top-1 validation error, one crop: 23.87 % (V1), 19.14 % (V2)
Cost      90 and 600 passes over 1.28 million images; V2 sees them at 176 pixels
Source    pytorch/vision, references/classification: README and train.py
Differs   the rate follows the iteration, theirs the pass; V2 tests at 224 of 232 pixels where ours are 224 of 256, and
          its average is restarted all through the warm-up, ours forgets its beginning as averages do here
"""

from residual.data.transforms import Augmentation
from residual.recipes.recipe import Recipe
from residual.train.optimizer import Sgd
from residual.train.schedule import Schedule

EVERY = 32  # iterations between updates of the average


def torchvision_v1() -> Recipe:
    """Photographs of 1,000 classes, for networks with an ImageNet stem."""
    return Recipe(
        name="torchvision-v1",
        schedule=Schedule(shape="steps", rate=0.1, drops=(1 / 3, 2 / 3)),  # after 30 and 60 passes
        epochs=90,
        batch=256,
        batch_norm_group=32,  # eight GPUs, each with its own statistics
        optimizer=Sgd(momentum=0.9, decay=1e-4),
        augmentation=Augmentation(crop="resized", least_area=0.08, flip=True),
    )


def torchvision_v2() -> Recipe:
    """The same, with a dozen additions that their authors measured one by one: 4.7 points in all."""
    epochs, batch = 600, 1024
    return Recipe(
        name="torchvision-v2",
        schedule=Schedule(shape="cosine", rate=0.5, warmup=5 / epochs, warmup_from=0.005),
        epochs=epochs,
        batch=batch,
        batch_norm_group=128,
        optimizer=Sgd(momentum=0.9, decay=2e-5, decay_all=False),
        augmentation=Augmentation(
            crop="resized",
            least_area=0.08,
            flip=True,
            policy="trivialaugment",
            erase=0.1,
            mixup=0.2,
            cutmix=1.0,
            repeats=4,
            size=176,
        ),
        label_smoothing=0.1,
        average=1 - 2e-5 * batch * EVERY / epochs,  # what their 0.99998 becomes for this batch and this length
        average_every=EVERY,
    )
