"""Images with objects, decoded by the pool, resized, varied and padded to batches: what a detector learns from.

Which image comes when and what is done to it is a pure function of (seed, step): workers and resuming change nothing.
Shapes: B images of a batch, H x W pixels of the largest, uint8 RGB.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from residual.data.ahead import ahead
from residual.data.batches import Order
from residual.data.decode import BadImage, Pixels, View
from residual.data.loader import CHUNK, File, Pool
from residual.data.objects import ObjectImages, Objects
from residual.data.transforms import key, permutation
from residual.data.vary_objects import ObjectAugmentation, vary, windows_in

COLOUR = (124, 116, 104)  # ImageNet's mean, which padding has: next to 0 once it is subtracted
COLOURS = 256  # images whose colours are measured
GROUPED = 8  # batches among which images are sorted into wide and high ones


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """One image as a detector sees it.

    pixels: (H, W, 3).  objects: on these pixels.  index: its place in the set; sizes[index] is how large it was.
    """

    index: int
    pixels: Pixels
    objects: Objects


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectBatch:
    """Images padded to one size, to the right and below.

    images: (B, H, W, 3) uint8.  sizes: (height, width) of each without its padding; masks are of that size.
    """

    images: Tensor
    sizes: tuple[tuple[int, int], ...]
    objects: tuple[Objects, ...]
    indices: Tensor  # (B,) places in the set


class GroupedOrder:
    """Which images a batch has: wide ones or high ones as far as possible, so that little is padded.

    The endless order of `batches.Order` is cut into stretches of GROUPED batches; in each, wide images come before
    high ones, and the batches are then shuffled.  Every image still comes once per epoch; one of which windows are cut
    comes once for every window that it holds, so that no part of any image is seen more often than another.
    """

    def __init__(
        self, sizes: Sequence[tuple[int, int]], augmentation: ObjectAugmentation, *, batch: int, seed: int
    ) -> None:
        times = torch.tensor([windows_in(height, width, augmentation) for height, width in sizes])
        self.image = torch.arange(len(sizes)).repeat_interleave(times)  # of each window
        self.window = torch.arange(len(self.image)) - (times.cumsum(0) - times)[self.image]  # among those of its image
        self.times, self.order, self.batch, self.seed = times, Order(len(self.image), seed), batch, key(seed, -4)
        self.high = torch.tensor([height > width for height, width in sizes], dtype=torch.int8)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """(B,) visits and (B,) image indices of an iteration, counted from 0."""
        stretch, place = divmod(step, GROUPED)
        length = GROUPED * self.batch
        passes, windows = self.order.at(torch.arange(stretch * length, (stretch + 1) * length))
        indices = self.image[windows]
        visits = passes * self.times[indices] + self.window[windows]
        ranked = torch.argsort(self.high[indices], stable=True)
        first = int(permutation(GROUPED, self.seed, stretch)[place]) * self.batch
        chosen = ranked[first : first + self.batch]
        return visits[chosen], indices[chosen]


def object_batches(
    images: ObjectImages,
    augmentation: ObjectAugmentation,
    *,
    batch: int,
    seed: int,
    start: int = 0,
    workers: int = 0,
    masks: bool = False,
    shard: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> Iterator[ObjectBatch]:
    """Training batches from iteration `start` (counted from 0) on, without end.

    masks: draw outlines as masks; refused where an object has none.
    batch: images per iteration over all processes; shard: this process's share of its rows (B,).
    """
    order, draws = GroupedOrder(images.sizes, augmentation, batch=batch, seed=seed), key(seed, -3)
    planned: deque[tuple[int, int]] = deque()  # visit and index of the images that are being decoded
    counts: deque[int] = deque()

    def plan() -> Iterator[int]:
        step = start
        while True:
            visits, indices = (shard(rows).tolist() for rows in order.at(step))
            counts.append(len(indices))
            planned.extend(zip(visits, indices, strict=True))
            yield from indices
            step += 1

    def made(pool: Pool) -> Iterator[ObjectBatch]:
        row: list[Picture] = []
        for pixels in decoded(images, plan(), pool):
            visit, index = planned.popleft()
            pixels, here = vary(pixels, images.objects[index], augmentation, draws, visit, index, masks=masks)
            row.append(Picture(index=index, pixels=pixels, objects=here))
            if len(row) == counts[0]:
                counts.popleft()
                yield together(row)
                row = []

    with Pool(workers=workers) as pool:
        yield from ahead(made(pool), depth=2)


def colours(images: ObjectImages, *, workers: int = 0) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of RGB values in 0 to 1, of up to COLOURS images spread over the set."""
    count = min(COLOURS, len(images))
    chosen = [number * len(images) // count for number in range(count)]
    sums, squares, seen = np.zeros(3), np.zeros(3), 0
    with Pool(workers=workers) as pool:
        for pixels in decoded(images, iter(chosen), pool):
            values = pixels.reshape(-1, 3).astype(np.float64) / 255
            sums += values.mean(axis=0)  # an image counts once, however large it is
            squares += np.square(values).mean(axis=0)
            seen += 1
    mean = sums / seen
    std = np.sqrt(np.maximum(squares / seen - mean**2, 1 / 255**2))  # at least one grey level
    first, second = ([round(float(value), 4) for value in each] for each in (mean, std))
    return (first[0], first[1], first[2]), (second[0], second[1], second[2])


def together(row: Sequence[Picture]) -> ObjectBatch:
    """Pictures as one batch, padded to the right and below."""
    sizes = [(picture.pixels.shape[0], picture.pixels.shape[1]) for picture in row]
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    images = np.empty((len(row), height, width, 3), np.uint8)
    images[:] = COLOUR
    for place, picture in zip(images, row, strict=True):
        high, wide = picture.pixels.shape[:2]
        place[:high, :wide] = picture.pixels
    return ObjectBatch(
        images=torch.from_numpy(images),
        sizes=tuple(sizes),
        objects=tuple(picture.objects for picture in row),
        indices=torch.tensor([picture.index for picture in row]),
    )


def decoded(images: ObjectImages, indices: Iterator[int], pool: Pool) -> Iterator[Pixels]:
    """The whole images (H, W, 3), in order.  Raises ValueError for one that is not as its annotation says."""
    if images.pixels is not None:
        yield from (images.pixels[index] for index in indices)
        return
    asked: deque[int] = deque()

    def files() -> Iterator[File]:
        for index in indices:
            asked.append(index)
            digest = images.digests[index] if images.digests else None
            yield File(name=images.names[index], path=os.fsencode(images.paths[index]), digest=digest)

    window = 2 * CHUNK * max(1, pool.workers)
    for result in pool.decode(files(), View(strips=True), window=window):
        index = asked.popleft()
        if isinstance(result.pixels, BadImage):
            raise ValueError(f"{result.file.name}: {result.pixels}; repair the image or take it out of the data")
        height, width = images.sizes[index]
        if result.pixels.shape[:2] != (height, width):
            found = f"{result.pixels.shape[1]}x{result.pixels.shape[0]}"
            raise ValueError(
                f"{result.file.name} has {found} pixels, but its boxes are told for {width}x{height}; correct the "
                "annotation or take the image out of the data"
            )
        yield result.pixels
