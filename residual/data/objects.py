"""Images with objects on them: what the readers of boxes return and detection takes.

Boxes are (left, top, right, bottom) in pixels, continuous: the image is [0, width] x [0, height], and a box one pixel
wide has right = left + 1.  PASCAL VOC's inclusive corners become that on reading (left and top less one).
Shapes: N images, M objects on one.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from residual.data.images import Problem

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
SMALLEST = 1.0  # area of a box on its image, square pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """The truth about one image.

    boxes: (M, 4).  labels: (M,), counted from 0.
    aside: (M,) neither to be found nor wrong to be found: VOC's difficult objects, COCO's crowds.
    areas: (M,) square pixels, of the outline where the annotation tells it (COCO), else of the box.
    masks: (M, H, W) bool, or None.
    """

    boxes: Floats
    labels: Integers
    aside: Flags
    areas: Floats
    masks: Flags | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectImages:
    """Image files and what stands on each.

    sizes: (height, width) of each image as its annotation says.  names: paths relative to the data.
    problems: annotations and boxes that were left out, each with its reason.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    objects: tuple[Objects, ...]
    classes: tuple[str, ...]
    origin: str
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, classes and objects, in their order; of the files' bytes the readers know nothing yet."""
        digest = hashlib.sha256(repr((self.classes, self.names, self.sizes)).encode("utf-8", "surrogateescape"))
        for here in self.objects:
            for values in (here.boxes, here.labels, here.aside, here.areas):
                digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def objects(
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    aside: Sequence[bool] | None = None,
    areas: Sequence[float] | None = None,
) -> Objects:
    """Lists become arrays, also where they are empty.  Without `areas`, those of the boxes."""
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    sides = corners[:, 2:] - corners[:, :2]
    return Objects(
        boxes=corners,
        labels=np.array(labels, np.int64),
        aside=np.array([False] * len(corners) if aside is None else aside, np.bool_),
        areas=sides[:, 0] * sides[:, 1] if areas is None else np.array(areas, np.float64),
    )


def on_image(box: tuple[float, float, float, float], height: int, width: int) -> tuple[float, float, float, float]:
    """What of a box lies on its image: the one rule for boxes that reach over the border.

    Raises ValueError, saying why, for numbers that are not finite, corners in the wrong order, and a box of which less
    than a square pixel is on the image.
    """
    if not all(math.isfinite(value) for value in box):
        raise ValueError(f"box {box} is not finite")
    left, top, right, bottom = box
    if right < left or bottom < top:
        raise ValueError(f"box {box} ends before it begins; it must be left, top, right, bottom")
    clipped = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    across, down = clipped[2] - clipped[0], clipped[3] - clipped[1]
    if min(across, down) <= 0 or across * down < SMALLEST:
        raise ValueError(f"of box {box} less than a square pixel lies on the image of {width}x{height} pixels")
    return clipped
