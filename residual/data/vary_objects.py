"""How an image with objects is varied in training: windows, size, side, colours; boxes and masks go with it.

Shapes: H x W pixels, uint8 (H, W, 3); M objects.  Each change is a pure function of (seed, visit, image index), whose
random numbers are those of `transforms`.  A change needs masks drawn before (`objects.with_masks`) or none at all;
`cropped` can draw those of its window.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from residual.data.decode import Pixels
from residual.data.objects import SMALLEST, Flags, Floats, Objects, masks_in, with_masks
from residual.data.recolour import jitter
from residual.data.transforms import uniform

TRIES = 10  # at a window in which an object is left
# Which of an image's random numbers are whose; `recolour` has those from 1000 on.
_FLIP, _LENGTH, _CROP, _WINDOW = 0, 1, 2, 3
_PLACE = _WINDOW + 4 * TRIES


@dataclass(frozen=True, kw_only=True)
class ObjectAugmentation:
    """How an image with objects is varied.  The default is that of Faster R-CNN (Ren et al. 2015).

    flip: mirrored half of the time.
    shorter: length of the shorter side, pixels, drawn uniformly from the first to the second.
    longer: the longer side has at most so many pixels, whatever becomes of the shorter.
    shrink: False: a shorter side that is longer than `shorter` stays as it is, as far as `longer` allows.
    window: side of a random window of the resized image, pixels, or less where the image is smaller; 0: the whole.
        The last of TRIES, or the first with an object left in it; cut and then resized, so that large images cost no
        more than small ones.
    crop: probability of a random window, each side at least `least_side` of the image's, with an object left in it;
        the whole image where TRIES find none.
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
    window: int = 0
    shrink: bool = True

    def __post_init__(self) -> None:
        least, most = self.shorter
        if not 1 <= least <= most <= self.longer:
            raise ValueError(
                f"shorter goes from a length to a greater one, at most `longer`, in pixels; {least} to {most} with "
                f"longer {self.longer} does not"
            )
        if self.window < 0:
            raise ValueError(f"window is a side in pixels, or 0 for the whole image; {self.window} is neither")
        if not 0 < self.least_side <= 1:
            raise ValueError(f"least_side ({self.least_side}) is above 0 and at most 1")
        for name, value in (("crop", self.crop), ("visible", self.visible), ("jitter", self.jitter)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} ({value}) goes from 0, which is off, to 1")


def vary(
    pixels: Pixels,
    objects: Objects,
    augmentation: ObjectAugmentation,
    seed: int,
    visit: int,
    index: int,
    *,
    masks: bool = False,
) -> tuple[Pixels, Objects]:
    """One image as training sees it, in this order: windows, size, side, colours.  masks: outlines become masks.

    Where there are masks, each box is that of its mask, and an object whose last pixel went is gone.
    """
    visits, indices = torch.tensor([visit]), torch.tensor([index])
    if masks and (augmentation.crop or not augmentation.window):
        objects = with_masks(objects, *pixels.shape[:2])

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
    height, width = pixels.shape[:2]
    size = _size_of(height, width, length, augmentation)
    if augmentation.window:
        scale = min(size) / min(height, width)
        side = max(1, round(augmentation.window / scale))
        for attempt in range(TRIES):
            window = _placed(height, width, side, [drawn(_PLACE + 2 * attempt + number) for number in range(2)])
            if objects.aside.all() or _keeps(objects, window, augmentation.visible):
                break
        pixels, objects = cropped(pixels, objects, window, visible=augmentation.visible, masks=masks)
        high, wide = (min(augmentation.window, max(1, round(side * scale))) for side in pixels.shape[:2])
        size = (high, wide)
    pixels, objects = brought_to(pixels, objects, *size)
    if augmentation.flip and drawn(_FLIP) < 0.5:
        pixels, objects = mirrored(pixels, objects)
    if augmentation.jitter:
        values = jitter(torch.from_numpy(pixels)[None].float(), augmentation.jitter, seed, visits, indices)
        pixels = values[0].round().clamp(0, 255).to(torch.uint8).numpy()
    return pixels, tight(objects)


def windows_in(height: int, width: int, augmentation: ObjectAugmentation) -> int:
    """How many windows an image of that size holds, side by side; 1 where it is taken whole."""
    if not augmentation.window:
        return 1
    high, wide = _size_of(height, width, augmentation.shorter[1], augmentation)
    return max(1, round(high * wide / augmentation.window**2))


def mirrored(pixels: Pixels, objects: Objects) -> tuple[Pixels, Objects]:
    """Left becomes right; twice is the identity."""
    left, top, right, bottom = objects.boxes.T
    width = pixels.shape[1]
    boxes = np.stack([width - right, top, width - left, bottom], 1)
    masks = None if objects.masks is None else np.ascontiguousarray(objects.masks[:, :, ::-1])
    return np.ascontiguousarray(pixels[:, ::-1]), replace(objects, boxes=boxes, masks=masks, outlines=None)


def brought_to(pixels: Pixels, objects: Objects, new_height: int, new_width: int) -> tuple[Pixels, Objects]:
    """The same at another size: pixels by Pillow's bilinear filter, masks by their nearest pixel.

    An enlarged mask has the enlarged box to half a pixel; of a smaller one, tips that are thinner than its pixels are
    lost.
    """
    height, width = pixels.shape[:2]
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
    """The size at which the shorter side is `shorter`, or less where the longer one would pass `longer`."""
    scale = min(shorter / min(height, width), longer / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def cropped(
    pixels: Pixels, objects: Objects, window: tuple[int, int, int, int], *, visible: float, masks: bool = False
) -> tuple[Pixels, Objects]:
    """The window (left, top, right, bottom) of an image, and of each object what lies in it.

    An object keeps what of it is in the window; less than a square pixel, and it is gone; less than the share
    `visible` of its area, and it is set aside.  masks: outlines become masks, drawn in the window alone.
    """
    (height, width), (left, top, right, bottom) = pixels.shape[:2], window
    boxes = _within(objects.boxes, window)
    there = _areas(boxes) >= SMALLEST
    objects, boxes = objects.select(there), boxes[there] - [left, top] * 2  # of many objects few are in a window
    before, after, seen = _areas(objects.boxes), _areas(boxes), objects.masks
    there = np.ones(len(objects), np.bool_)
    if seen is not None:
        before, seen = np.count_nonzero(seen, (1, 2)).astype(np.float64), seen[:, top:bottom, left:right]
    elif masks:
        seen, before = masks_in(objects, height, width, window)
    if seen is not None:
        after = np.count_nonzero(seen, (1, 2)).astype(np.float64)
        boxes, there = boxes_of(seen)
    share = after / np.maximum(before, SMALLEST)
    changed = replace(
        objects,
        boxes=boxes,
        aside=objects.aside | (share < visible),
        areas=objects.areas * share,
        masks=seen,
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


def _placed(height: int, width: int, side: int, two: list[float]) -> tuple[int, int, int, int]:
    """The window of a side, or less, as far down and across as two numbers in 0 to 1 say."""
    high, wide = min(side, height), min(side, width)
    top, left = int(two[0] * (height - high + 1)), int(two[1] * (width - wide + 1))
    return left, top, left + wide, top + high


def _size_of(height: int, width: int, shorter: int, augmentation: ObjectAugmentation) -> tuple[int, int]:
    """The size of an image in training, for a drawn length of the shorter side."""
    shorter = shorter if augmentation.shrink else max(shorter, min(height, width))
    return resized_to(height, width, shorter=shorter, longer=augmentation.longer)


def _keeps(objects: Objects, window: tuple[int, int, int, int], visible: float) -> bool:
    """Whether the window has an object to be found, by boxes alone: outlines that it lacks are not drawn."""
    after = _areas(_within(objects.boxes, window))
    return bool((~objects.aside & (after >= SMALLEST) & (after >= visible * _areas(objects.boxes))).any())


def _within(boxes: Floats, window: tuple[int, int, int, int]) -> Floats:
    left, top, right, bottom = window
    return np.clip(boxes, [left, top] * 2, [right, bottom] * 2)


def _areas(boxes: Floats) -> Floats:
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(sides[:, 0] * sides[:, 1])
