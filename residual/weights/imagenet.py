"""ImageNet's 1,000 classes, and how its images were fed: what other people's files take for granted."""

from dataclasses import replace

from residual.data.synsets import synsets
from residual.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

TORCHVISION = Preprocessing(size=224, resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD)
TORCHVISION_V2 = replace(TORCHVISION, resize=232)  # the second weights of 2021
TIMM = replace(TORCHVISION, resize=235, interpolation="bicubic")  # a crop of 95 %


def mean_subtracted(mean: tuple[float, float, float]) -> Preprocessing:
    """Caffe's way: blue, green, red in 0..255, less a mean for each (in this order), divided by nothing."""
    return replace(TORCHVISION, channels="BGR", mean=mean, std=(1.0, 1.0, 1.0))


def classes(count: int) -> tuple[str, ...]:
    """Names for `count` outputs: ImageNet's in the order of their synsets if there are 1,000, else numbers."""
    if count != 1000:
        return tuple(f"class {place}" for place in range(count))
    return tuple(synsets().values())
