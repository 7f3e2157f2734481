"""What a network and its images could be instead of what they are said to be: one setting changed, as people do.

Every function takes a description, of a network or of the preparation of its images, and yields the others.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Literal

import torch

from residual.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from residual.models.description import Description

SHORTER = (256, 232, 224)  # sides that people resize to before a crop of 224


def strides(model: Description) -> Iterator[Description]:
    """The other convolution of a bottleneck that may stride."""
    if model.block == "bottleneck":
        other: Literal["first", "middle"] = "first" if model.stride_in == "middle" else "middle"
        yield replace(model, stride_in=other)


def stem_pools(model: Description) -> Iterator[Description]:
    """The other border of the stem's pooling."""
    if model.stem == "imagenet":
        other: Literal["padded", "ceil"] = "ceil" if model.stem_pool == "padded" else "padded"
        yield replace(model, stem_pool=other)


def filters(images: Preprocessing) -> Iterator[Preprocessing]:
    """The other filter that resizes."""
    if images.resize is not None:  # else the training images had this size already, and were not resized
        other: Literal["bilinear", "bicubic"] = "bicubic" if images.interpolation == "bilinear" else "bilinear"
        yield replace(images, interpolation=other)


def shorter_sides(images: Preprocessing) -> Iterator[Preprocessing]:
    """Other shorter sides before the crop, the longest first; last, images squeezed."""
    sides: set[int | None] = {round(side * images.size / SHORTER[-1]) for side in SHORTER} | {None}
    for side in sorted(sides - {images.resize}, key=lambda side: -(side or 0)):
        yield replace(images, resize=side)


def orders_of_colours(images: Preprocessing) -> Iterator[Preprocessing]:
    """The other order of the colours, with the mean of each colour kept, and with the mean as it is written."""
    if images.channels != "L":
        other: Literal["RGB", "BGR"] = "BGR" if images.channels == "RGB" else "RGB"
        turned = replace(images, channels=other, mean=backwards(images.mean), std=backwards(images.std))
        yield turned
        if not alike(as_written := replace(images, channels=other), turned):
            yield as_written


def means_and_scales(images: Preprocessing) -> Iterator[Preprocessing]:
    """What people subtract and divide by, in this order of the colours."""
    return (one for one in colourings(images) if one.channels == images.channels)


def colourings(images: Preprocessing) -> Iterator[Preprocessing]:
    """Either order of the colours, with what people subtract and divide by; what is claimed is not among them."""
    if images.channels == "L":
        pairs = [((0.0,), (255.0,)), ((127.5,), (127.5,)), ((0.0,), (1.0,)), (images.mean, (1.0,))]
        tried = [replace(images, mean=mean, std=std) for mean, std in pairs]
    else:
        tried = []
        for channels in ("RGB", "BGR"):
            usual = [one if channels == "RGB" else backwards(one) for one in (IMAGENET_MEAN, IMAGENET_STD)]
            for mean, std in (
                (images.mean, images.std),
                (backwards(images.mean), backwards(images.std)),
                (usual[0], usual[1]),
                (usual[0], (1.0,) * 3),
                (usual[0], (255.0,) * 3),
                ((127.5,) * 3, (127.5,) * 3),
                ((0.0,) * 3, (255.0,) * 3),
                ((0.0,) * 3, (1.0,) * 3),
                (images.mean, (1.0,) * 3),
                ((0.0,) * 3, images.std),
            ):
                tried.append(replace(images, channels=channels, mean=mean, std=std))
    different = [images]
    for one in tried:
        if not any(alike(one, other) for other in different):
            different.append(one)
            yield one


def backwards(values: tuple[float, ...]) -> tuple[float, ...]:
    """The values of three channels, or of their pixels, for the other order of the channels."""
    third = len(values) // 3
    return values[2 * third :] + values[third : 2 * third] + values[:third]


def alike(one: Preprocessing, other: Preprocessing) -> bool:
    """Whether no image would look different enough to matter: 2 of 255 in the mean, 2 % of the standard deviation."""
    if one.channels != other.channels:
        return False
    count = 1 if one.channels == "L" else 3
    means, scales = (
        [torch.tensor(values, dtype=torch.float64).view(count, -1) for values in pair]
        for pair in ((one.mean, other.mean), (one.std, other.std))
    )
    return bool(((means[0] - means[1]).abs() < 2).all() and ((scales[0] / scales[1]).log().abs() < 0.02).all())


# By the name of the setting.
OF_NETWORKS: Mapping[str, Callable[[Description], Iterator[Description]]] = {
    "stride": strides,
    "stem pooling": stem_pools,
}
OF_IMAGES: Mapping[str, Callable[[Preprocessing], Iterator[Preprocessing]]] = {
    "channels": orders_of_colours,
    "mean and scale": means_and_scales,
    "resize filter": filters,
    "shorter side": shorter_sides,
}
