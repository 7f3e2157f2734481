"""Boxes, masks and their labels drawn on an image, legible on light and on dark photographs.

Lines and text are in proportion to the image.  Shapes: M objects on an image of H x W pixels.
"""

import colorsys
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from residual.data.decode import Pixels
from residual.data.objects import Flags, Floats
from residual.data.outlines import Outline, as_runs, columns_of, mask_of, spread
from residual.detect.detections import area

Colour = tuple[int, int, int]  # red, green, blue
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom: pixels, right and bottom not among them

TRUTH, ANSWER = (40, 220, 60), (255, 45, 45)  # in close-ups of mistakes
DARK = (16, 16, 16)  # around every line, so that it is seen on what has its colour
LINE, TEXT = 0.0045, 0.033  # widths of lines and heights of text, of the root of the image's area
SMALLEST, UNREADABLE = 11, 8  # pixels: text is not smaller, unless the image has no room; and never smaller than that
CROWD = 8  # labels, from which on text becomes smaller and none hides what it names
TINT = 0.4  # of a mask's colour on the pixels it covers
ROOM = 480  # pixels, to about which the longer side of a small image is enlarged
CLEAR, MOST_ROOM = 32, 1400  # pixels, to which small objects are enlarged, as long as the image's longer side allows
FINE = 12  # times its line a box is wide and high, or the line is finer
CLOSEUP = 320  # pixels, the longer side of a close-up
ENLARGED = 4.0  # times, at most
THIN = 160  # pixels, root of the area under which lines are one pixel wide
LEAST = 0.3  # luminance of a colour, of white's
GOLDEN = 0.618034  # of the circle of hues from one colour to the next, which never comes back to where it was


def colour(number: int) -> Colour:
    """The colour of class or track `number`, counted from 0: neighbours are far apart, a hundred are all different."""
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (1.0, 0.8))[number // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb((0.96 + number * GOLDEN) % 1, saturation, value)
    white = max(0.0, (LEAST - luminance((red, green, blue))) / (1 - LEAST))  # pure blue is nearly black
    red, green, blue = (round(255 * (each + white * (1 - each))) for each in (red, green, blue))
    return red, green, blue


def luminance(light: tuple[float, float, float]) -> float:
    """How bright a colour looks, in the unit of its parts (weights of ITU-R BT.709, on values as they are stored)."""
    return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]


def draw(
    pixels: Pixels,
    boxes: Floats,
    texts: Sequence[str],
    colours: Sequence[Colour],
    *,
    outlines: Sequence[Outline] = (),
    dashed: bool = False,
) -> Pixels:
    """A copy of the image (H, W, 3) with boxes (M, 4), a label for each ("" for none) and M masks, or none, on it.

    The small stand on top.  Give the surest first: its label is where it belongs.  A label lies on the image whole and
    on no other label; where it finds no such place, it is left out.
    """
    assert len(boxes) == len(texts) == len(colours), "every box has a text and a colour"
    height, width = pixels.shape[:2]
    scale = (height * width) ** 0.5
    line = max(1 if scale < THIN else 2, round(LINE * scale))
    tinted = pixels.copy()
    order = np.argsort(-area(boxes), kind="stable").tolist()
    for number in order if outlines else ():  # one mask at a time: all of them would not fit into memory
        _tint(tinted, outlines[number], colours[number], line)
    picture = Image.fromarray(tinted)
    brush = ImageDraw.Draw(picture)
    places = [_rectangle(box, height, width) for box in boxes]
    for number in order:
        if (place := places[number]) is not None:
            _frame(brush, place, colours[number], line, dashed=dashed)
    for label in labels(texts, places, height, width):
        fill = colours[label.number]
        left, top, right, bottom = label.place
        brush.rectangle((left, top, right - 1, bottom - 1), fill=fill)
        ink = DARK if luminance(fill) > 115 else (255, 255, 255)
        brush.text((left + label.inset[0], top + label.inset[1]), label.text, fill=ink, font=_font(label.size))
    return np.asarray(picture)


def enlarged(
    pixels: Pixels, boxes: Floats, outlines: Sequence[Outline] = ()
) -> tuple[Pixels, Floats, Sequence[Outline]]:
    """A small image, or one of small objects, with its boxes and masks, each pixel as often as gives labels room."""
    height, width = pixels.shape[:2]
    times = max(1, round(ROOM / max(height, width)))
    if len(boxes):
        small = max(float(np.median((boxes[:, 2:] - boxes[:, :2]).min(axis=1))), 1.0)
        times = max(times, min(math.ceil(CLEAR / small), MOST_ROOM // max(height, width)))
    if times == 1:
        return pixels, boxes, outlines
    masks = (mask_of(each, height, width) for each in outlines)
    larger = [as_runs(mask.repeat(times, axis=0).repeat(times, axis=1)) for mask in masks]
    return pixels.repeat(times, axis=0).repeat(times, axis=1), boxes * times, larger


def closeup(pixels: Pixels, truth: Floats, answers: Floats, *, of: Floats) -> Pixels:
    """The part of an image around the boxes `of` (M, 4), at most CLOSEUP pixels high and wide.

    truth, answers: (*, 4) boxes on the whole image: what stands there, dashed and green, and what was said, red.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = _window(of, height, width)
    part = Image.fromarray(pixels[top:bottom, left:right])
    by = min(CLOSEUP / max(part.size), ENLARGED)
    size = (max(1, round(part.width * by)), max(1, round(part.height * by)))
    seen = np.asarray(part.resize(size, Image.Resampling.BICUBIC if by > 1 else Image.Resampling.LANCZOS))

    def moved(boxes: Floats) -> Floats:
        return np.asarray((boxes - [left, top, left, top]) * by)

    seen = draw(seen, moved(answers), [""] * len(answers), [ANSWER] * len(answers))
    return draw(seen, moved(truth), [""] * len(truth), [TRUTH] * len(truth), dashed=True)


# --- labels ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Label:
    """A text, and where on the image it stands.  inset: from the corner of its place to where it is written."""

    number: int  # of its box
    text: str
    size: int  # of the font
    place: Rectangle
    inset: tuple[int, int]


def labels(texts: Sequence[str], boxes: Sequence[Rectangle | None], height: int, width: int) -> Iterator[Label]:
    """A place for each label, the first given before the others: above its box, else below its upper edge, ...

    Where that hides half a label's worth of the boxes, it goes where it hides less.  In a crowd a label that is larger
    than its box is left out.
    """
    many = sum(map(bool, texts)) / CROWD
    objects = np.array([box for box in boxes if box is not None]).reshape(-1, 4)
    size = max(SMALLEST, round(TEXT * (height * width) ** 0.5 / max(1.0, many) ** 0.25))
    taken: list[Rectangle] = []
    for number, (text, box) in enumerate(zip(texts, boxes, strict=True)):
        if not text or box is None or (fitted := _fitted(text, size, width)) is None:
            continue
        shown, chosen, wide, high, inset = fitted
        covered = wide * high
        if high > height or (many > 1 and covered > (box[2] - box[0]) * (box[3] - box[1])):
            continue
        free = [
            place
            for place in _places(box, wide, high, height, width)
            if not any(_meet(place, other) for other in taken)
        ]
        if free:
            place = min(free, key=lambda each: 2 * _hidden(each, objects) // covered)
            taken.append(place)
            yield Label(number, shown, chosen, place, inset)


def _fitted(text: str, size: int, width: int) -> tuple[str, int, int, int, tuple[int, int]] | None:
    """The text, cut short if need be, size of its font, width and height with margins, inset; None without room."""
    wide, high, inset = _measure(text, size)
    while wide > width and size > UNREADABLE:
        size -= 1
        wide, high, inset = _measure(text, size)
    whole = text
    while wide > width and len(whole) > 1:
        whole = whole[:-1]
        text = whole.rstrip() + "…"
        wide, high, inset = _measure(text, size)
    return None if wide > width else (text, size, wide, high, inset)


def _measure(text: str, size: int) -> tuple[int, int, tuple[int, int]]:
    """Width and height of a label, the same height for every text of a size; and where in it the text begins."""
    font = _font(size)
    left, _, right, _ = font.getbbox(text)
    _, top, _, bottom = font.getbbox("Ågjp|")
    across, down = max(1, round(size / 4)), max(1, round(size / 8))
    wide, high = int(right - left) + 1 + 2 * across, int(bottom - top) + 1 + 2 * down
    return wide, high, (across - int(left), down - int(top))


def _places(box: Rectangle, wide: int, high: int, height: int, width: int) -> Iterator[Rectangle]:
    """On the image, the best first."""
    left, top, right, bottom = box
    for row in (top - high, top, bottom, bottom - high):
        if not 0 <= row <= height - high:
            continue
        for column in (left, right - wide):
            across = min(max(column, 0), width - wide)
            yield across, row, across + wide, row + high


def _hidden(place: Rectangle, objects: NDArray[np.int64]) -> int:
    """How many pixels of boxes (M, 4) are under a place."""
    low, high = np.maximum(objects[:, :2], place[:2]), np.minimum(objects[:, 2:], place[2:])
    return int((high - low).clip(0).prod(axis=1).sum())


def _meet(first: Rectangle, second: Rectangle) -> bool:
    across = min(first[2], second[2]) - max(first[0], second[0])
    down = min(first[3], second[3]) - max(first[1], second[1])
    return across > 0 and down > 0


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own, which needs no file."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow's wheels are built with FreeType"
    return font


# --- boxes and masks ---------------------------------------------------------------------------------------


def _rectangle(box: Floats, height: int, width: int) -> Rectangle | None:
    """The pixels of a box that lie on the image, one at least; None where it lies beside it."""
    left, top, right, bottom = box.tolist()
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        return None
    first, upper = min(max(round(left), 0), width - 1), min(max(round(top), 0), height - 1)
    return first, upper, min(max(round(right), first + 1), width), min(max(round(bottom), upper + 1), height)


def _frame(brush: ImageDraw.ImageDraw, place: Rectangle, fill: Colour, line: int, *, dashed: bool) -> None:
    """A line just inside a box, with a dark one on either side; dashes leave what is under them to be seen."""
    left, top, right, bottom = place
    line = min(line, max(1, min(right - left, bottom - top) // FINE))
    dark = max(1, line // 3)
    if not dashed:
        around = (left - dark, top - dark, right - 1 + dark, bottom - 1 + dark)
        brush.rectangle(around, outline=DARK, width=line + 2 * dark)
        brush.rectangle((left, top, right - 1, bottom - 1), outline=fill, width=line)
        return
    dash = 5 * line
    rows, columns = (top, max(top, bottom - line)), (left, max(left, right - line))
    dashes = [(start, row, start + dash, row + line) for row in rows for start in range(left, right, 2 * dash)]
    dashes += [
        (column, start, column + line, start + dash) for column in columns for start in range(top, bottom, 2 * dash)
    ]
    dashes = [(west, north, min(east, right) - 1, min(south, bottom) - 1) for west, north, east, south in dashes]
    for west, north, east, south in dashes:
        brush.rectangle((west - dark, north - dark, east + dark, south + dark), fill=DARK)
    for each in dashes:
        brush.rectangle(each, fill=fill)


def _tint(pixels: Pixels, outline: Outline, fill: Colour, line: int) -> None:
    """Change the pixels of a mask in place: tinted inside, in full colour along its border."""
    start, columns = columns_of(outline, *pixels.shape[:2])
    box = spread(columns)
    if box is None:
        return
    left, top, right, bottom = box
    inside, part = columns[top:bottom, left:right], pixels[top:bottom, start + left : start + right]
    deep = eroded(inside, line)
    for channel, light in enumerate(fill):
        tint = ((1 - TINT) * np.arange(256) + TINT * light).astype(np.uint8)
        here = part[..., channel]
        here[deep] = tint[here[deep]]
    part[inside & ~deep] = fill


def eroded(mask: Flags, by: int) -> Flags:
    """The pixels of a mask (H, W) from which nothing outside, or beyond its edge, is nearer than `by` + 1 steps."""
    deep, done = np.pad(mask, by), 0
    while done < by:  # what is deep by at least as many steps as a shift is long becomes deeper by these
        step = min(max(done, 1), by - done)
        before = deep
        for axis, way in ((0, step), (0, -step), (1, step), (1, -step)):
            deep = deep & np.roll(before, way, axis)
        done += step
    return deep[by:-by, by:-by]


def _window(boxes: Floats, height: int, width: int) -> Rectangle:
    """Boxes with their surroundings: half as much again on every side, no narrow strips, nothing beyond the image."""
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    centre, sides = (low + high) / 2, high - low
    sides = np.maximum(2 * sides, max(float(sides.max()), CLOSEUP / ENLARGED / 2))
    corner, far = centre - sides / 2, centre + sides / 2
    left, top = max(0, int(corner[0])), max(0, int(corner[1]))
    left, top = min(left, width - 1), min(top, height - 1)
    return left, top, max(left + 1, min(width, round(far[0]))), max(top + 1, min(height, round(far[1])))
