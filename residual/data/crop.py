"""One random window of an image file, for training: which one, and how to come by it quickly.

Shapes: W x H pixels of a file, upright; a window of w x h of them; size x size pixels out, uint8, C channels.

Which window is a pure function of (seed, visit, image index) and of the image's size.  Getting at it is fast where
the file is an ordinary JPEG: only the window is decoded, at 1/2, 1/4 or 1/8 of the size where it is at least
twice, four or eight times as large as need be.  That path is for training alone, and is an approximation:
validation, test and prediction decode by decode.decode and nothing else.  Whatever is not an ordinary JPEG is
decoded by it here too, then cut and resized by Pillow: the reference, which the fast path meets at 40 dB and more.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image

from residual.data import jpeg
from residual.data.decode import Mode, Pixels, decode

Interpolation = Literal["bilinear", "bicubic"]
Draw = tuple[int, int, int]  # seed, visit, image index

TRIES = 10  # at a window that fits, before the centre is taken
SHAPE = 4 / 3  # of a "resized" window: width / height is between 3/4 and this
KEPT = 2  # a reduced JPEG keeps at least so many pixels per pixel of the result


@dataclass(frozen=True, kw_only=True)
class Crop:
    """How a training window is cut from a file.

    kind: "resized" cuts least_area to all of the image, with a shape between 3/4 and 4/3 (Szegedy et al. 2014);
        "scaled" resizes the shorter side to `shorter` pixels, drawn uniformly, and cuts size x size (He et al. 2015).
    """

    size: int
    kind: Literal["resized", "scaled"] = "resized"
    least_area: float = 0.08
    shorter: tuple[int, int] = (256, 480)
    flip: bool = True
    interpolation: Interpolation = "bilinear"


@dataclass(frozen=True)
class Window:
    """Pixels of an upright image: left <= x < left + width, top <= y < top + height."""

    left: int
    top: int
    width: int
    height: int
    reduction: int  # it may be decoded at 1/reduction of its size; left and top are divisible by it

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom."""
        return self.left, self.top, self.left + self.width, self.top + self.height


# --- randomness: the integers of transforms.uniform, one at a time ------------------------------------------------

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = 0xFFFF_FFFF_FFFF_FFFF


def _hash(word: int) -> int:
    """The finaliser of splitmix64 (Steele et al. 2014), on 64 bits."""
    word = ((word ^ (word >> 30)) * _FIRST) & _WORD
    word = ((word ^ (word >> 27)) * _SECOND) & _WORD
    return word ^ (word >> 31)


@lru_cache(maxsize=1024)
def _key(*numbers: int) -> int:
    state = 0
    for number in numbers:
        state = _hash((state + (number + 1) * _GOLDEN) & _WORD)
    return state


def uniform(draw: Draw, number: int) -> float:
    """The same number in [0, 1) as `transforms.uniform` gives; without torch."""
    seed, visit, index = draw
    word = _hash((_hash((index * _GOLDEN + _key(seed, number)) & _WORD) + visit * _GOLDEN) & _WORD)
    return (word >> 40) / 2**24


def mirrored(crop: Crop, draw: Draw) -> bool:
    """Whether the window is turned left to right."""
    return crop.flip and uniform(draw, 2) < 0.5


def window(crop: Crop, draw: Draw, width: int, height: int) -> Window:
    """The window of an image of width x height pixels."""
    if crop.kind == "scaled":
        least, most = crop.shorter
        side = min(width, height) * crop.size / (least + int(uniform(draw, 3) * (most - least + 1)))
        wide = high = max(1, round(side))
    else:
        wide, high = _resized(crop, draw, width, height)
    reduction = 8
    while reduction > 1 and min(wide, high) < KEPT * reduction * crop.size:
        reduction //= 2
    # On the grid of reduced pixels, so that the window is the same one however it is decoded.
    left = int(uniform(draw, 1) * (width - wide + 1)) // reduction * reduction
    top = int(uniform(draw, 0) * (height - high + 1)) // reduction * reduction
    return Window(left, top, wide // reduction * reduction, high // reduction * reduction, reduction)


def _resized(crop: Crop, draw: Draw, width: int, height: int) -> tuple[int, int]:
    for attempt in range(TRIES):
        area = width * height * (crop.least_area + (1 - crop.least_area) * uniform(draw, 3 + 16 * attempt))
        shape = SHAPE ** (2 * uniform(draw, 4 + 16 * attempt) - 1)
        wide, high = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < wide <= width and 0 < high <= height:
            return wide, high
    return min(width, max(1, round(height * SHAPE))), min(height, max(1, round(width * SHAPE)))


# --- pixels ------------------------------------------------------------------------------------------------------


def crop_file(data: bytes, crop: Crop, draw: Draw, mode: Mode, *, fast: bool) -> tuple[Pixels, tuple[int, int]]:
    """The window of an image file, (size, size, C), and the file's width and height.

    fast: decode only the window where that can be done; for a process whose end is foreseen (residual.data.jpeg).
    Refuses what decode.decode refuses, except for damage outside the window.
    """
    head = jpeg.header(data) if fast and jpeg.available() else None
    if head is not None:
        part = window(crop, draw, head.width, head.height)
        pixels = jpeg.cut(data, head, part.box, reduction=part.reduction, mode=mode)
        if pixels is not None:
            return _finished(pixels, crop, mirrored(crop, draw)), (head.width, head.height)
    whole = decode(data, mode=mode)
    height, width = whole.shape[:2]
    part = window(crop, draw, width, height)
    left, top, right, bottom = part.box
    return resize(whole[top:bottom, left:right], crop, mirrored(crop, draw)), (width, height)


def resize(pixels: Pixels, crop: Crop, mirror: bool) -> Pixels:
    """The reference: Pillow's antialiased resize of a window to (size, size, C)."""
    channels = pixels.shape[2]
    picture = Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if channels == 1 else pixels))
    picture = picture.resize((crop.size, crop.size), Image.Resampling[crop.interpolation.upper()])
    if mirror:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(picture, np.uint8).reshape(crop.size, crop.size, channels)


def _finished(pixels: Pixels, crop: Crop, mirror: bool) -> Pixels:
    """`resize` by PyTorch's vectorised copy of the same filter: three times as fast, at most one level away."""
    import torch

    with torch.inference_mode():
        part = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # seen as channels-last, which is what is vectorised
        resized = torch.nn.functional.interpolate(part, (crop.size,) * 2, mode=crop.interpolation, antialias=True)
        if mirror:
            resized = resized.flip(3)
        return resized[0].permute(1, 2, 0).contiguous().numpy()
