"""What a detector says stands on an image, and how far boxes overlap.  Boxes as in residual/data/objects.py."""

from dataclasses import dataclass

import numpy as np

from residual.data.objects import Flags, Floats, Integers


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """A detector's answer for one image.  scores: (M,), higher is surer; the rest as in `Objects`."""

    boxes: Floats
    labels: Integers
    scores: Floats
    masks: Flags | None = None

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
