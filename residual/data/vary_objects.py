"""How an image with objects is varied in training: window, size, side, colours; boxes and masks go with it.

Shapes: H x W pixels, uint8 (H, W, 3); M objects.  Each change is a pure function of (seed, visit, image index), whose
random numbers are those of `transforms`.  A change needs masks drawn before (`objects.with_masks`) or none at all.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from residual.data.decode import Pixels
from residual.data.objects import SMALLEST, Flags, Floats, Objects
from residual.data.recolour import jitter
from residual.data.transforms import uniform

TRIES = 10  # at a window in which an object is left, before the whole image is taken
# Which of an image's random numbers are whose; `recolour` has those from 1000 on.
_FLIP, _LENGTH, _CROP, _WINDOW = 0, 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class ObjectAugmentation:
    """How an image with objects is varied.  The default is that of Faster R-CNN (Ren et al. 2015).

    flip: mirrored half of the time.
    shorter: length of the shorter side, pixels, drawn uniformly from the first to the second.
    longer: the longer side has at most so many pixels, whatever becomes of the shorter.
    crop: probability of a random window, each side at least `least_side` of the image's, with an object left in it.
    visible: an object of which less than this share is in the window is set aside.
    jitter: brightness, contrast and saturation, in random order, each by a factor of 1 - jitter to 1 + jitter.
    """

    flip: bool = True
    shorter: tuple[int, int] = (600, 600)
    longer: int = 1000
    crop: float = 0.0
    least_side: float = 0.5
    visible: float = 0.3
    jitter: float = 0.0

    def __post_init__(self) -> None:
        least, most = self.shorter
        if not 1 <= least <= most <= self.longer:
            raise ValueError(
                f"shorter goes from a length to a greater one, at most `longer`, in pixels; {least} to {most} with "
                f"longer {self.longer} does not"
            )
        if not 0 < self.least_side <= 1:
            raise ValueError(f"least_side ({self.least_side}) is above 0 and at most 1")
        for name, value in (("crop", self.crop), ("visible", self.visible), ("jitter", self.jitter)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} ({value}) goes from 0, which is off, to 1")


def vary(
    pixels: Pixels, objects: Objects, augmentation: ObjectAugmentation, seed: int, visit: int, index: int
) -> tuple[Pixels, Objects]:
    """One image as training sees it, in this order: window, size, side, colours.

    Where there are masks, each box is that of its mask, and an object whose last pixel went is gone.
    """
    visits, indices = torch.tensor([visit]), torch.tensor([index])

    def drawn(number: int) -> float:
        return float(uniform(seed, visits, indices, number))

    if augmentation.crop and drawn(_CROP) < augmentation.crop:
        for attempt in range(TRIES):
            four = [drawn(_WINDOW + 4 * attempt + number) for number in range(4)]
            window = _window(pixels.shape[0], pixels.shape[1], augmentation.least_side, four)
            seen, left = cropped(pixels, objects, window, visible=augmentation.visible)
            if objects.aside.all() or not left.aside.all():
                pixels, objects = seen, left
                break
    least, most = augmentation.shorter
    length = least + int(drawn(_LENGTH) * (most - least + 1))
    pixels, objects = resized(pixels, objects, shorter=length, longer=augmentation.longer)
    if augmentation.flip and drawn(_FLIP) < 0.5:
        pixels, objects = mirrored(pixels, objects)
    if augmentation.jitter:
        values = jitter(torch.from_numpy(pixels)[None].float(), augmentation.jitter, seed, visits, indices)
        pixels = values[0].round().clamp(0, 255).to(torch.uint8).numpy()
    return pixels, tight(objects)


def mirrored(pixels: Pixels, objects: Objects) -> tuple[Pixels, Objects]:
    """Left becomes right; twice is the identity."""
    left, top, right, bottom = objects.boxes.T
    width = pixels.shape[1]
    boxes = np.stack([width - right, top, width - left, bottom], 1)
    masks = None if objects.masks is None else np.ascontiguousarray(objects.masks[:, :, ::-1])
    return np.ascontiguousarray(pixels[:, ::-1]), replace(objects, boxes=boxes, masks=masks, outlines=None)


def resized(pixels: Pixels, objects: Objects, *, shorter: int, longer: int) -> tuple[Pixels, Objects]:
    """The shorter side becomes `shorter`, or less where the longer one would pass `longer`.

    Pixels by Pillow's bilinear filter, masks by their nearest pixel.  An enlarged mask has the enlarged box to half a
    pixel; of a smaller one, tips that are thinner than its pixels are lost.
    """
    height, width = pixels.shape[:2]
    new_height, new_width = resized_to(height, width, shorter=shorter, longer=longer)
    if (new_height, new_width) == (height, width):
        return pixels, replace(objects, outlines=None)
    picture = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BILINEAR)
    down, across = new_height / height, new_width / width
    masks = objects.masks
    if masks is not None:
        rows = ((np.arange(new_height) + 0.5) / down).astype(np.int64)
        columns = ((np.arange(new_width) + 0.5) / across).astype(np.int64)
        masks = masks[:, rows][:, :, columns]
    boxes, areas = objects.boxes * [across, down, across, down], objects.areas * (across * down)
    changed = replace(objects, boxes=boxes, areas=areas, masks=masks, outlines=None)
    return np.array(picture), changed


def resized_to(height: int, width: int, *, shorter: int, longer: int) -> tuple[int, int]:
    """The height and width that `resized` gives."""
    scale = min(shorter / min(height, width), longer / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def cropped(
    pixels: Pixels, objects: Objects, window: tuple[int, int, int, int], *, visible: float
) -> tuple[Pixels, Objects]:
    """The window (left, top, right, bottom) of an image, and of each object what lies in it.

    An object keeps what of it is in the window; less than a square pixel, and it is gone; less than the share
    `visible` of its area, and it is set aside.
    """
    left, top, right, bottom = window
    before = _areas(objects.boxes)
    boxes = np.clip(objects.boxes, [left, top] * 2, [right, bottom] * 2) - [left, top] * 2
    after, masks = _areas(boxes), objects.masks
    there = after >= SMALLEST
    if masks is not None:
        before = masks.sum((1, 2)).astype(np.float64)
        masks = masks[:, top:bottom, left:right]
        after = masks.sum((1, 2)).astype(np.float64)
        boxes, there = boxes_of(masks)
    share = after / np.maximum(before, SMALLEST)
    changed = replace(
        objects,
        boxes=boxes,
        aside=objects.aside | (share < visible),
        areas=objects.areas * share,
        masks=masks,
        outlines=None,
    )
    return np.ascontiguousarray(pixels[top:bottom, left:right]), changed.select(there)


def tight(objects: Objects) -> Objects:
    """Each box that of its mask, without the objects whose mask is empty; without masks nothing changes."""
    if objects.masks is None:
        return objects
    boxes, there = boxes_of(objects.masks)
    return replace(objects, boxes=boxes).select(there)


def boxes_of(masks: Flags) -> tuple[Floats, Flags]:
    """The boxes of masks (M, H, W), and which masks have a pixel: (M, 4), (M,)."""
    rows, columns = np.asarray(masks.any(2)), np.asarray(masks.any(1))
    height, width = masks.shape[1:]
    first = np.stack([columns.argmax(1), rows.argmax(1)], 1)
    last = np.stack([width - columns[:, ::-1].argmax(1), height - rows[:, ::-1].argmax(1)], 1)
    return np.concatenate([first, last], 1).astype(np.float64), np.asarray(rows.any(1))


def _window(height: int, width: int, least: float, four: list[float]) -> tuple[int, int, int, int]:
    high, wide = (max(1, round(side * (least + (1 - least) * u))) for side, u in ((height, four[0]), (width, four[1])))
    top, left = int(four[2] * (height - high + 1)), int(four[3] * (width - wide + 1))
    return left, top, left + wide, top + high


def _areas(boxes: Floats) -> Floats:
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(sides[:, 0] * sides[:, 1])
