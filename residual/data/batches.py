"""The endless stream of training batches: which images, in which order, varied how.  A pure function of the step.

The stream runs through one shuffled epoch after the other without a break, so every batch is full, every image
comes once per epoch, and iteration k sees the images at positions k B to (k + 1) B - 1 whatever came before.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from residual.data.images import ImageFiles, Images
from residual.data.recolour import erase, recolour
from residual.data.transforms import Augmentation, Normalize, crop_and_flip, key, mix, permutation


@dataclass(frozen=True)
class Batch:
    """images (B, C, H, W) float, labels (B,); row i is mixed with row B-1-i: `share` of its own label remains."""

    images: Tensor
    labels: Tensor
    share: float
    indices: Tensor  # (B,) positions in the set, on the CPU: to name files with


class Order:
    """Which image comes at which position of the endless stream.

    repeats: how many times in a row each image comes, varied differently each time (Hoffer et al. 2019); a pass
        through all images is so many times as long.
    """

    def __init__(self, count: int, seed: int, repeats: int = 1) -> None:
        if count < 1:
            raise ValueError("there is no image to train on")
        self.count, self.seed, self.repeats = count, seed, repeats
        self._epochs: dict[int, Tensor] = {}  # the one or two epochs in use

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) positions -> (B,) visits and (B,) image indices; without repeats, a visit is an epoch.

        Of one image no two visits have the same number: visit and index decide how it is varied.
        """
        places = positions // self.repeats
        epochs, ranks = places // self.count, places % self.count
        indices = torch.empty_like(positions)
        for epoch, order in self.of_epochs(sorted(set(epochs.tolist()))).items():
            here = epochs == epoch
            indices[here] = order[ranks[here]]
        return epochs * self.repeats + positions % self.repeats, indices

    def of_epochs(self, epochs: Iterable[int]) -> dict[int, Tensor]:
        """(count,) image indices of each epoch asked for; one that was asked for last time is not shuffled again."""
        self._epochs = {
            epoch: self._epochs[epoch] if epoch in self._epochs else permutation(self.count, self.seed, epoch)
            for epoch in epochs
        }
        return self._epochs


def training_batches(
    images: Images | ImageFiles,
    augmentation: Augmentation,
    normalize: Normalize,
    *,
    batch: int,
    seed: int,
    start: int,
    device: torch.device,
    shard: Callable[[Tensor], Tensor] = lambda positions: positions,
    size_at: Callable[[int], int] | None = None,
) -> Iterator[Batch]:
    """Batches from iteration `start` (counted from 0) on, without end.

    batch: images per iteration over all processes; shard: this process's share of them.
    size_at: side of the images of an iteration, where it changes; otherwise the augmentation's or the network's.
    A set in memory is kept whole on the device; files are decoded by workers ahead of time, and where the
    augmentation cuts windows only those are decoded.
    """
    order, draws = Order(len(images), seed, augmentation.repeats), key(seed, -3)
    size_at = size_at or (lambda step: augmentation.size or normalize.preprocessing.size)
    labels = images.labels.to(device)
    cut = isinstance(images, ImageFiles) and augmentation.cuts
    planned: deque[_Planned] = deque()

    def plan() -> Iterator[_Planned]:
        step = start
        while True:
            positions = shard(torch.arange(step * batch, (step + 1) * batch))
            size = size_at(step)
            augmentation.check_size(size)
            normalize.check_size(size)
            planned.append(_Planned(step, size, *order.at(positions)))
            yield planned[-1]
            step += 1

    if isinstance(images, ImageFiles) and augmentation.cuts:
        stream = images.windows((augmentation.window(now.size), draws, now.visits, now.indices) for now in plan())
    else:
        if isinstance(images, Images):
            images = replace(images, pixels=images.pixels.to(device))
        stream = images.stream(now.indices for now in plan())
    for pixels in stream:
        now = planned.popleft()
        pixels, visits, indices = (one.to(device, non_blocking=True) for one in (pixels, now.visits, now.indices))
        pictures = varied(pixels, augmentation, normalize, draws, visits, indices, now.size, cut=cut)
        pictures, share = mix(pictures, augmentation, draws, now.step)
        yield Batch(pictures, labels[indices], share, now.indices)


@dataclass(frozen=True)
class _Planned:
    """A batch that is being decoded."""

    step: int
    size: int
    visits: Tensor
    indices: Tensor


def varied(
    pixels: Tensor,
    augmentation: Augmentation,
    normalize: Normalize,
    seed: int,
    visits: Tensor,
    indices: Tensor,
    size: int,
    *,
    cut: bool,
) -> Tensor:
    """(B, H, W, C) uint8 -> (B, C, size, size) float32, cut, mirrored, recoloured, normalised, erased; not mixed.

    cut: the pixels are windows of that size already, mirrored or not.
    """
    if augmentation.recolours:
        if not cut:  # around the mean colour, which is what the border shall have
            moved = crop_and_flip(pixels - normalize.colour, augmentation, seed, visits, indices, size)
            pixels = (moved.permute(0, 2, 3, 1) + normalize.colour).round().clamp(0, 255).to(torch.uint8)
        recoloured = recolour(pixels, augmentation, seed, visits, indices)
        pictures = normalize.floats(recoloured).permute(0, 3, 1, 2)
    elif cut:
        pictures = normalize.floats(pixels).permute(0, 3, 1, 2)
    else:
        pictures = crop_and_flip(normalize.floats(pixels), augmentation, seed, visits, indices, size)
    return erase(pictures, augmentation, seed, visits, indices)
