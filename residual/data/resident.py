"""The training stream of a set that lives on a GPU, made so that a whole iteration can be captured as a graph.

A captured graph repeats the same operations on the same memory: what changes from one iteration to the next must itself
be on the device.  Here that is the position in the stream, which every `draw` moves on by one batch, and the shuffled
order of two epochs, which `at` renews when an epoch has passed.  The batches are those of `training_batches`, exactly.
"""

import torch

from residual.data.batches import Batch, Order
from residual.data.images import ImageFiles, Images
from residual.data.transforms import Augmentation, Normalize, crop_and_flip, key


def can_be_resident(images: Images | ImageFiles, augmentation: Augmentation) -> bool:
    """Whether the device can make the batches alone: images in memory, at most shifted and mirrored."""
    return isinstance(images, Images) and is_simple(augmentation)


def is_simple(augmentation: Augmentation) -> bool:
    """Whether images are at most shifted and mirrored."""
    simple = Augmentation(crop=augmentation.crop, pad=augmentation.pad, flip=augmentation.flip)
    return augmentation == simple and augmentation.crop in ("none", "pad")


class ResidentBatches:
    """Batches of a set in the device's memory.  `at(step)` on the host, then `draw()` for that step on the device."""

    def __init__(
        self,
        images: Images,
        augmentation: Augmentation,
        normalize: Normalize,
        *,
        batch: int,
        seed: int,
        device: torch.device,
    ) -> None:
        if not can_be_resident(images, augmentation):
            raise ValueError(f"images in memory that are shifted and mirrored can be resident, not {augmentation}")
        self.pixels, self.labels = images.pixels.to(device), images.labels.to(device)
        self.augmentation, self.normalize = augmentation, normalize
        self.batch, self.seed, self.shuffled = batch, seed, Order(len(images), seed)
        self.count, self.span = len(images), -(-batch // len(images)) + 1  # epochs that one batch can touch
        self.ahead = torch.arange(batch, device=device)
        self.position = torch.zeros((), dtype=torch.int64, device=device)  # of the next batch's first image
        self.first = torch.zeros((), dtype=torch.int64, device=device)  # the first epoch in `order`
        self.order = torch.zeros(self.span * self.count, dtype=torch.int64, device=device)
        self._step, self._epoch = 0, -1  # what the device holds, known to the host

    def at(self, step: int) -> None:
        """Be ready to draw the batch of iteration `step`, counted from 0.  Copies to the device once an epoch."""
        epoch = step * self.batch // self.count
        if step != self._step:
            self.position.fill_(step * self.batch)
        if epoch != self._epoch:
            orders = self.shuffled.of_epochs(range(epoch, epoch + self.span))
            self.order.copy_(torch.cat(list(orders.values())), non_blocking=True)
            self.first.fill_(epoch)
        self._step, self._epoch = step + 1, epoch  # drawing moves the position on

    def draw(self) -> Batch:
        """The batch at the position, which moves on.  Only operations of the device, so it can be captured."""
        positions = self.position + self.ahead
        epochs = positions // self.count
        indices = self.order[positions - self.first * self.count]
        self.position += self.batch
        floats = self.normalize.floats(self.pixels[indices])
        draws, size = key(self.seed, -3), self.normalize.preprocessing.size
        pictures = crop_and_flip(floats, self.augmentation, draws, epochs, indices, size)
        return Batch(pictures, self.labels[indices], 1.0, indices)
