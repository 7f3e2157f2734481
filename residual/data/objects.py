"""Images with objects on them: what the readers of boxes return and detection takes.

Boxes are (left, top, right, bottom) in pixels, continuous: the image is [0, width] x [0, height], and a box one pixel
wide has right = left + 1.  PASCAL VOC's inclusive corners become that on reading (left and top less one).
Shapes: N images, M objects on one.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from residual.data.decode import Pixels
from residual.data.images import Problem
from residual.data.outlines import Outline, as_runs, columns_of, spread

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
SMALLEST = 1.0  # area of a box on its image, square pixels
MOST_MASKED = 1 << 30  # pixels of all masks of an image
NAMED = 5  # faults that an error tells; the rest is counted
MARK = 12  # hexadecimal digits: of 100,000 images and 5,000 others, two agree by chance once in 500,000 times


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """The truth about one image.

    boxes: (M, 4).  labels: (M,), counted from 0.
    aside: (M,) neither to be found nor wrong to be found: VOC's difficult objects, COCO's crowds.
    areas: (M,) square pixels, of the outline where the annotation tells it (COCO), else of the box.
    masks: (M, H, W) bool, or None.
    outlines: what `with_masks` makes masks of: M of them, None for an object without; or None, where none has one.
    over: (M,) pixels by which each box, as it was told, reached over its image (`reach`); None where nobody looked.
    left_out: objects that were told of besides these, and cannot be used.
    """

    boxes: Floats
    labels: Integers
    aside: Flags
    areas: Floats
    masks: Flags | None = None
    outlines: tuple[Outline | None, ...] | None = None
    over: Floats | None = None
    left_out: int = 0

    def __post_init__(self) -> None:
        parts = (self.boxes, self.labels, self.aside, self.areas, self.masks, self.outlines, self.over)
        assert len({len(part) for part in parts if part is not None}) == 1, "every object needs one of each"

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, chosen: Flags | Integers) -> "Objects":
        """Some of the objects."""
        numbers = np.arange(len(self))[chosen].tolist()
        return Objects(
            boxes=self.boxes[chosen],
            labels=self.labels[chosen],
            aside=self.aside[chosen],
            areas=self.areas[chosen],
            masks=None if self.masks is None else self.masks[chosen],
            outlines=None if self.outlines is None else tuple(self.outlines[number] for number in numbers),
            over=None if self.over is None else self.over[chosen],
            left_out=self.left_out,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectImages:
    """Image files and what stands on each.

    paths: empty where the pixels are in memory: `pixels`, each (H, W, 3) uint8.
    sizes: (height, width) of each image as its annotation says.  names: paths relative to the data.
    digests: SHA-256 of the bytes of each file; empty for pixels in memory, and before the files were read.
    problems: annotations and boxes that were left out, each with its reason.
    faults: what no training would begin with, where somebody asked to see all of it (`lenient`); else it is refused.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    objects: tuple[Objects, ...]
    classes: tuple[str, ...]
    origin: str
    problems: tuple[Problem, ...] = ()
    faults: tuple[Problem, ...] = ()
    pixels: tuple[Pixels, ...] | None = None
    digests: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def outlined(self) -> bool:
        """Whether every object that is to be found has an outline, so that masks can be learned."""
        return any(map(len, self.objects)) and all(
            here.outlines is not None and all(outline is not None for outline in here.outlines)
            for here in self.objects
            if len(here)
        )

    @property
    def emptied(self) -> tuple[str, ...]:
        """Names of the images that are background only because every object that was told of them was left out."""
        return tuple(
            name for name, here in zip(self.names, self.objects, strict=True) if here.left_out and not len(here)
        )

    def select(self, chosen: Sequence[int]) -> "ObjectImages":
        """Some of the images, in that order; problems and faults stay with all."""
        return replace(
            self,
            paths=tuple(self.paths[number] for number in chosen) if self.paths else (),
            names=tuple(self.names[number] for number in chosen),
            sizes=tuple(self.sizes[number] for number in chosen),
            objects=tuple(self.objects[number] for number in chosen),
            pixels=None if self.pixels is None else tuple(self.pixels[number] for number in chosen),
            digests=tuple(self.digests[number] for number in chosen) if self.digests else (),
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, classes, objects and pixels, in their order; of files that were read, their bytes."""
        digest = hashlib.sha256(repr((self.classes, self.names, self.sizes)).encode("utf-8", "surrogateescape"))
        for here in self.objects:
            for values in (here.boxes, here.labels, here.aside, here.areas):
                digest.update(np.ascontiguousarray(values).tobytes())
            for outline in here.outlines or ():
                for part in () if outline is None else outline.parts:
                    digest.update(np.ascontiguousarray(part).tobytes())
        for picture in self.pixels or ():
            digest.update(picture.tobytes())
        digest.update(b"".join(self.digests))
        return digest.hexdigest()

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """What each image is known by under any name: the first MARK digits of the SHA-256 of its file, or pixels."""
        digests = self.digests
        if self.pixels is not None:
            seen = (repr(picture.shape).encode() + picture.tobytes() for picture in self.pixels)
            digests = tuple(hashlib.sha256(each).digest() for each in seen)
        assert len(digests) == len(self), "the files have not been read"
        return tuple(each.hex()[:MARK] for each in digests)


def objects(
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    aside: Sequence[bool] | None = None,
    areas: Sequence[float] | None = None,
    outlines: Sequence[Outline | None] = (),
    over: Sequence[float] | None = None,
    left_out: int = 0,
) -> Objects:
    """Lists become arrays, also where they are empty.  Without `areas`, those of the boxes."""
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    sides = corners[:, 2:] - corners[:, :2]
    return Objects(
        boxes=corners,
        labels=np.array(labels, np.int64),
        aside=np.array([False] * len(corners) if aside is None else aside, np.bool_),
        areas=sides[:, 0] * sides[:, 1] if areas is None else np.array(areas, np.float64),
        outlines=tuple(outlines) if any(outline is not None for outline in outlines) else None,
        over=None if over is None else np.array(over, np.float64),
        left_out=left_out,
    )


def from_masks(masks: Iterable[Flags], labels: Sequence[int] | None = None) -> Objects:
    """Objects told by masks (H, W), each with a pixel at least; labels are 0 where none are given."""
    boxes, areas, outlines = [], [], []
    for mask in masks:
        box = spread(mask)
        assert box is not None
        boxes.append(box)
        areas.append(float(np.count_nonzero(mask)))
        outlines.append(as_runs(mask))
    return objects(boxes, [0] * len(boxes) if labels is None else labels, areas=areas, outlines=outlines)


def with_masks(here: Objects, height: int, width: int) -> Objects:
    """The same, its outlines drawn as masks (M, H, W).  Refuses an object without an outline, and a gigabyte."""
    if here.masks is not None:
        return here
    return replace(here, masks=masks_in(here, height, width, (0, 0, width, height))[0])


def masks_in(here: Objects, height: int, width: int, window: tuple[int, int, int, int]) -> tuple[Flags, Floats]:
    """Masks (M, h, w) of a window (left, top, right, bottom) of the image, and how many pixels each object has on the
    whole image, (M,).  Refuses as `with_masks` does, but an image of any size has windows.
    """
    left, top, right, bottom = window
    high, wide = bottom - top, right - left
    if len(here) * high * wide > MOST_MASKED:
        raise ValueError(
            f"{len(here)} masks of {wide}x{high} pixels take {len(here) * high * wide / 1e9:.1f} GB; cut the "
            "image into smaller ones"
        )
    masks, pixels = np.zeros((len(here), high, wide), np.bool_), np.zeros(len(here))
    for number, outline in enumerate(here.outlines or (None,) * len(here)):
        if outline is None:
            raise ValueError(
                f"object {number + 1} has a box but no outline, so masks cannot be learned from this data; outline "
                "every object, or detect boxes alone"
            )
        start, columns = columns_of(outline, height, width)
        first, last = max(start, left), min(start + columns.shape[1], right)
        if first < last:
            masks[number, :, first - left : last - left] = columns[top:bottom, first - start : last - start]
        pixels[number] = np.count_nonzero(columns)
    return masks, pixels


def joined(first: ObjectImages, second: ObjectImages) -> ObjectImages:
    """Two parts of one set as one, by name."""
    pixels = None if first.pixels is None else (*first.pixels, *(second.pixels or ()))
    both = replace(
        first,
        paths=(*first.paths, *second.paths),
        names=(*first.names, *second.names),
        sizes=(*first.sizes, *second.sizes),
        objects=(*first.objects, *second.objects),
        problems=tuple(dict.fromkeys((*first.problems, *second.problems))),
        faults=tuple(dict.fromkeys((*first.faults, *second.faults))),
        pixels=pixels,
        digests=(*first.digests, *second.digests),
    )
    return both.select(sorted(range(len(both)), key=lambda number: both.names[number]))


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


def reach(box: tuple[float, float, float, float], height: int, width: int) -> float:
    """By how many pixels a box reaches over the border of its image, where it does most; 0 for one that lies on it."""
    left, top, right, bottom = box
    return max(-left, -top, right - width, bottom - height, 0.0)


def refusal(where: Path, faults: Sequence[Problem], way_out: str, *, listed: bool) -> ValueError:
    """The first NAMED faults of data and the number of the others, as one error.

    listed: whether somebody who looks at the data (`lenient`) is told all of them, and not refused as well.
    """
    told = "; ".join(f"{fault.path}: {fault.reason}" for fault in faults[:NAMED])
    more = f"; and {len(faults) - NAMED:,} more" if len(faults) > NAMED else ""
    more += ", which `residual data check --json` lists" if more and listed else ""
    return ValueError(f"{where} cannot be used as it is: {told}{more}; {way_out}")


def is_file(path: Path) -> bool:
    """Whether a regular file is there, also where a name from a file cannot be one at all."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
