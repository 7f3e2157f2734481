"""Outlines of objects, small enough to keep for a whole data set, and the masks they stand for.

An outline is polygons or runs, as in COCO.  Polygons become pixels as the official tools do it, by faster-coco-eval
(the extra `detect`); runs need nothing.  What a file says of either is checked before it is believed.
Shapes: H x W pixels of the image, P corners of a polygon, R runs.
"""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residual.data.decode import MAX_PIXELS

LONGEST = 250_000  # pixels of the way round all polygons of an object; what draws them takes 40 bytes for each
MOST_RUNS = 200_000  # of one object
LETTERS = 7  # of one number in compressed runs: 35 bits


@dataclass(frozen=True, slots=True, eq=False)
class Polygons:
    """The union of polygons, each (P, 2): across and down, pixels, continuous."""

    corners: tuple[NDArray[np.float64], ...]

    @property
    def parts(self) -> tuple[NDArray[np.float64], ...]:
        """All that tells this outline from another."""
        return self.corners


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Lengths (R,) of runs down the columns, from left to right: outside, inside, outside, ..."""

    lengths: NDArray[np.uint32]

    @property
    def parts(self) -> tuple[NDArray[np.uint32], ...]:
        """All that tells this outline from another."""
        return (self.lengths,)


Outline = Polygons | Runs


def read_outline(told: Any, height: int, width: int) -> Outline | None:
    """COCO's `segmentation` for an image of that size; None where it is empty.

    A list of polygons, or {"size": [height, width], "counts": runs, compressed or not}.  Raises ValueError, saying why.
    """
    if told is None or told == []:
        return None
    if height * width > MAX_PIXELS:
        raise ValueError(f"an outline on an image of more than {MAX_PIXELS // 1_000_000} megapixels is not read")
    if isinstance(told, dict):
        if told.get("size") != [height, width]:
            raise ValueError(f"its runs are for a size of {short(told.get('size'))}, the image has {[height, width]}")
        return runs(_lengths(told.get("counts")), height, width)
    if not isinstance(told, list):
        raise ValueError(f"its segmentation is {short(told)}, neither polygons nor runs")
    return polygons([_corners(each) for each in told], height, width)


def polygons(corners: Sequence[NDArray[np.float64]], height: int, width: int) -> Polygons:
    """Polygons (P, 2) on an image.  Refuses, as ValueError, corners far outside and outlines that are too long."""
    way = 0.0
    for each in corners:
        reach = np.abs(each - [width / 2, height / 2])
        if not (reach <= [1.5 * width, 1.5 * height]).all():  # not finite, or further out than the image is wide
            raise ValueError(f"a polygon has a corner far from the image of {width}x{height} pixels")
        way += float(np.abs(each - np.roll(each, 1, axis=0)).max(axis=1).sum())
    if way > LONGEST:
        raise ValueError(f"its polygons are {way:,.0f} pixels around; an outline has at most {LONGEST:,}")
    return Polygons(tuple(corners))


def runs(lengths: NDArray[np.int64], height: int, width: int) -> Runs:
    """Runs that cover an image of that size exactly; others are refused, as ValueError."""
    if len(lengths) and int(lengths.min()) < 0:
        raise ValueError("a run has a length below 0")
    if len(lengths) > MOST_RUNS or int(lengths.max(initial=0)) > height * width or lengths.sum() != height * width:
        raise ValueError(
            f"its {len(lengths)} runs do not add up to the {height * width} pixels of the image of {width}x{height}"
        )
    return Runs(lengths.astype(np.uint32))


def as_runs(mask: NDArray[np.bool_]) -> Runs:
    """The outline of a mask (H, W); `mask_of` undoes it."""
    columns = np.flatnonzero(mask.any(0))
    left, right = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)
    line = np.concatenate([[False], mask[:, left:right].ravel(order="F"), [False]])
    changes = left * len(mask) + np.flatnonzero(line[1:] != line[:-1])
    return Runs(np.diff(np.concatenate([[0], changes, [mask.size]])).astype(np.uint32))


def mask_of(outline: Outline, height: int, width: int) -> NDArray[np.bool_]:
    """(H, W) bool: the pixels inside."""
    left, columns = columns_of(outline, height, width)
    mask = np.zeros((width, height), np.bool_).T
    mask[:, left : left + columns.shape[1]] = columns
    return mask


def columns_of(outline: Outline, height: int, width: int) -> tuple[int, NDArray[np.bool_]]:
    """The pixels inside, in the columns that have any: the first of them, and (H, C) bool."""
    if isinstance(outline, Runs):
        ends = np.cumsum(outline.lengths, dtype=np.int64)
        if len(ends) < 2:
            return 0, np.zeros((height, 0), np.bool_)
        left, right = int(ends[0]) // height, -(-int(ends[(len(ends) - 2) | 1]) // height)
        ends = np.clip(ends, left * height, right * height)
        inside = np.arange(len(ends)) % 2 == 1
        return left, np.repeat(inside, np.diff(ends, prepend=left * height)).reshape(right - left, height).T
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise ValueError("masks of polygons need the extra `detect`: pip install 'residual[detect]'") from error
    union = mask.merge(mask.frPyObjects([each.ravel().tolist() for each in outline.corners], height, width))
    left, _, across, _ = mask.toBbox(union).astype(int).tolist()
    return left, np.asarray(mask.decode(union)[:, left : left + across], np.bool_)


def spread(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """The box of a mask (H, W): left, top, right, bottom; None of an empty one."""
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def short(value: Any) -> str:
    """What a file said, short enough for an error."""
    told = reprlib.repr(value)
    return told if len(told) <= 60 else told[:57] + "..."


def _corners(told: Any) -> NDArray[np.float64]:
    if not isinstance(told, list) or len(told) < 6 or len(told) % 2:
        raise ValueError(f"its polygon {short(told)} is no list of three corners or more, two numbers each")
    if not all(type(value) in (int, float) for value in told):
        raise ValueError("a polygon has a corner that is no number")
    try:
        return np.array(told, np.float64).reshape(-1, 2)
    except OverflowError:
        raise ValueError("a polygon has a corner beyond all numbers") from None


def _lengths(counts: Any) -> NDArray[np.int64]:
    """Runs from COCO's list of numbers, or from its letters."""
    if isinstance(counts, str):
        return _from_letters(counts)
    if not isinstance(counts, list) or not all(type(value) is int for value in counts):
        raise ValueError(f"its runs are {short(counts)}, neither whole numbers nor their letters")
    if any(not 0 <= value <= MAX_PIXELS for value in counts):
        raise ValueError("a run has a length below 0 or beyond any image")
    return np.array(counts, np.int64)


def _from_letters(text: str) -> NDArray[np.int64]:
    """COCO's compressed runs: five bits per letter from chr(48) on, a sixth says that more follow, the lowest first.

    The last letter's fifth bit is the sign; from the fourth number on, each is the difference to the last but one.
    """
    if len(text) > 2 * MOST_RUNS or not text.isascii():
        raise ValueError("its runs are letters, but not those of COCO, or too many")
    values = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if not len(values) or values.min() < 0 or values.max() > 63 or values[-1] & 32:
        raise ValueError("its runs are letters, but not those of COCO, or end in the middle of a number")
    ends = np.flatnonzero(values < 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    count = ends - starts + 1
    if int(count.max()) > LETTERS:
        raise ValueError(f"its runs have a number of more than {LETTERS} letters")
    place = np.arange(len(values)) - np.repeat(starts, count)
    numbers = np.add.reduceat((values & 31) << (5 * place), starts)
    numbers -= np.where(values[ends] & 16, np.int64(1) << (5 * count), 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers
