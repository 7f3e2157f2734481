"""What stands on an image, and what a detector says stands there.

Boxes are (left, top, right, bottom) in pixels, continuous: the image is [0, width] x [0, height], and a box one pixel
wide has right = left + 1.  PASCAL VOC's inclusive corners become that on reading (left and top less one).
Shapes: M objects or detections on one image.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """The truth about one image.

    boxes: (M, 4).  labels: (M,), counted from 0.
    aside: (M,) neither to be found nor wrong to be found: VOC's difficult objects, COCO's crowds.
    masks: (M, H, W) bool, or None.
    """

    boxes: Floats
    labels: Integers
    aside: Flags
    masks: Flags | None = None

    def __len__(self) -> int:
        return len(self.labels)


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
