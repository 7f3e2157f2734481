"""The endless stream of training batches: which images, in which order, varied how.  A pure function of the step.

The stream runs through one shuffled epoch after the other without a break, so every batch is full, every image
comes once per epoch, and iteration k sees the images at positions k B to (k + 1) B - 1 whatever came before.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from residual.data.images import ImageFiles, Images
from residual.data.transforms import Augmentation, Normalize, crop_and_flip, key, mix, permutation


@dataclass(frozen=True)
class Batch:
    """images (B, C, H, W) float, labels (B,); row i is mixed with row B-1-i: `share` of its own label remains."""

    images: Tensor
    labels: Tensor
    share: float
    indices: Tensor  # (B,) positions in the set, on the CPU: to name files with


class Order:
    """Which image comes at which position of the endless stream."""

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise ValueError("there is no image to train on")
        self.count, self.seed = count, seed
        self._epochs: dict[int, Tensor] = {}  # the one or two epochs in use

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) positions -> (B,) epochs and (B,) image indices."""
        epochs, ranks = positions // self.count, positions % self.count
        needed = sorted(set(epochs.tolist()))
        self._epochs = {
            epoch: self._epochs[epoch] if epoch in self._epochs else permutation(self.count, self.seed, epoch)
            for epoch in needed
        }
        indices = torch.empty_like(positions)
        for epoch, order in self._epochs.items():
            here = epochs == epoch
            indices[here] = order[ranks[here]]
        return epochs, indices


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
) -> Iterator[Batch]:
    """Batches from iteration `start` (counted from 0) on, without end.

    batch: images per iteration over all processes; shard: this process's share of them.
    A set in memory is kept whole on the device; files are decoded by workers ahead of time.
    """
    order, size = Order(len(images), seed), normalize.preprocessing.size
    labels = images.labels.to(device)
    draws = key(seed, -3)

    def plan() -> Iterator[tuple[int, Tensor, Tensor]]:
        step = start
        while True:
            positions = shard(torch.arange(step * batch, (step + 1) * batch))
            yield step, *order.at(positions)
            step += 1

    if isinstance(images, Images):
        images = replace(images, pixels=images.pixels.to(device))
    planned: deque[tuple[int, Tensor, Tensor]] = deque()

    def wanted() -> Iterator[Tensor]:
        for step, epochs, indices in plan():
            planned.append((step, epochs, indices))
            yield indices

    for pixels in images.stream(wanted()):
        step, epochs, indices = planned.popleft()
        here = indices.to(device)
        floats = normalize.floats(pixels.to(device, non_blocking=True))
        pictures = crop_and_flip(floats, augmentation, draws, epochs.to(device), here, size)
        pictures, share = mix(pictures, augmentation, draws, step)
        yield Batch(pictures, labels[here], share, indices)
