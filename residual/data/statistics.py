"""What the training images look like on average: the numbers that normalise them."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from residual.data.assemble import SIZE, SMALL, stored_side
from residual.data.images import ImageFiles, Images
from residual.data.transforms import Preprocessing, centre

SAMPLE = 2048  # images of a set on disk; a set in memory is read whole
CHUNK = 1000  # images


def network_size(images: Images | ImageFiles, asked: int | None) -> int:
    """The side that the network will see of these images, which are stored a little larger, or as they are.

    Refuses a size that was asked for where the images have one of their own.
    """
    side = images.shape[0]
    if asked is None:
        return side if side <= SMALL else SIZE
    if side not in (asked, stored_side(asked)):
        raise ValueError(
            f"--size {asked} is for photographs; these images all are {images.shape[1]}x{side} pixels and are used as "
            "they are: leave --size out"
        )
    return asked


def measure_preprocessing(images: Images | ImageFiles, *, size: int, per_pixel: bool, divide: bool) -> Preprocessing:
    """Mean, and if `divide` standard deviation, of the training images' centres; in pixel units, two decimals.

    size: side that the network sees; larger stored images are cropped to it.  per_pixel: section 4.2's mean
    image instead of one number per channel; only for images that are stored at `size`.
    """
    height, width, channels = images.shape
    resize = None if (height, width) == (size, size) else min(height, width)
    if per_pixel and resize is not None:
        raise ValueError(
            f"the per-pixel mean of recipe 'paper' is for images of one size, such as CIFAR's; these are "
            f"{width}x{height} and the network sees {size}x{size}: use --recipe modern"
        )
    total = torch.zeros((size, size, channels), dtype=torch.float64)
    squares = torch.zeros(channels, dtype=torch.float64)
    count = 0
    for pixels in _chunks(images):
        values = centre(pixels, size).double()
        total += values.sum(0)
        squares += values.square().sum((0, 1, 2))
        count += len(values)
    mean = total.sum((0, 1)) / (count * size * size)
    std = (squares / (count * size * size) - mean.square()).clamp(min=1.0).sqrt()  # at least one grey level
    picture = (total / count).permute(2, 0, 1).flatten()
    return Preprocessing(
        size=size,
        resize=resize,
        channels="L" if channels == 1 else "RGB",
        mean=tuple(round(value, 2) for value in (picture if per_pixel else mean).tolist()),
        std=tuple(round(value, 2) for value in std.tolist()) if divide else (1.0,) * channels,
    )


def adapted(theirs: Preprocessing, measured: Preprocessing) -> Preprocessing:
    """What a network that was trained with `theirs` is given of other images: its colours, and their size.

    A mean per pixel becomes one per channel, unless the images are stored at exactly its size: larger ones are
    cropped at random, and no pixel keeps its place.  Of another number of channels the network knows nothing yet,
    so they are normalised as measured.
    """
    if (theirs.channels == "L") != (measured.channels == "L"):
        return measured
    count = 1 if theirs.channels == "L" else 3

    def resized(values: tuple[float, ...]) -> tuple[float, ...]:
        if len(values) == count or (theirs.size == measured.size and measured.resize is None):
            return values
        return tuple(torch.tensor(values, dtype=torch.float64).view(count, -1).mean(1).tolist())

    return replace(measured, channels=theirs.channels, mean=resized(theirs.mean), std=resized(theirs.std))


def _chunks(images: Images | ImageFiles) -> Iterator[Tensor]:
    count = len(images)
    chosen = torch.arange(count)
    if isinstance(images, ImageFiles) and count > SAMPLE:
        chosen = torch.linspace(0, count - 1, SAMPLE).long()
    return images.stream(chosen[start : start + CHUNK] for start in range(0, len(chosen), CHUNK))
