"""What a detector says stands on an image, and how far boxes overlap.  Boxes as in residual/data/objects.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from residual.data.objects import Flags, Floats, Integers
from residual.data.outlines import Runs, as_runs, mask_of


@dataclass(frozen=True, eq=False)
class Outlines(Sequence[Flags]):
    """M masks on an image of `size` (height, width), each held as its runs of pixels: kilobytes, not megabytes.

    outlines[3] is one of them drawn, (H, W) bool; outlines[chosen], by an array, are some of them, not drawn.
    """

    size: tuple[int, int]
    runs: tuple[Runs, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, H, W), as of the array of all masks."""
        return (len(self), *self.size)

    def __len__(self) -> int:
        return len(self.runs)

    @overload
    def __getitem__(self, which: int) -> Flags: ...
    @overload
    def __getitem__(self, which: "slice | Flags | Integers") -> "Outlines": ...
    def __getitem__(self, which: "int | slice | Flags | Integers") -> "Flags | Outlines":
        if isinstance(which, int | np.integer):
            return mask_of(self.runs[which], *self.size)
        return Outlines(self.size, tuple(self.runs[number] for number in np.arange(len(self))[which].tolist()))

    def drawn(self) -> Flags:
        """(M, H, W) bool: all masks whole, which of a large image are gigabytes."""
        masks = np.zeros(self.shape, np.bool_)
        for number, mask in enumerate(self):
            masks[number] = mask
        return masks


def outlines_of(masks: Flags) -> Outlines:
    """Of masks (M, H, W) the outlines; `drawn` undoes it."""
    return Outlines((masks.shape[1], masks.shape[2]), tuple(map(as_runs, masks)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """A detector's answer for one image.  scores: (M,), higher is surer; the rest as in `Objects`."""

    boxes: Floats
    labels: Integers
    scores: Floats
    masks: Flags | Outlines | None = None

    def __len__(self) -> int:
        return len(self.labels)


def area(boxes: Floats) -> Floats:
    """(M, 4) -> (M,), 0 for a box that is inside out."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    return sides[:, 0] * sides[:, 1]


def intersection(first: Floats, second: Floats) -> Floats:
    """(M, 4), (N, 4) -> (M, N) areas that two boxes share."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.maximum(high - low, 0.0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def overlap(first: Floats, second: Floats) -> Floats:
    """Intersection over union: (M, 4), (N, 4) -> (M, N), 0 where both boxes are empty."""
    shared = intersection(first, second)
    union = area(first)[:, None] + area(second)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
