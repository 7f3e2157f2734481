"""The mistakes that are worth a look, and the part of its image on which each was made.

What a cause is, and which there are: mistakes.py.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from residual.data.decode import Pixels
from residual.data.load_objects import decoded
from residual.data.loader import Pool
from residual.data.objects import ObjectImages, Objects
from residual.detect.detections import Detections, overlap
from residual.detect.draw import closeup
from residual.detect.mistakes import cause
from residual.detect.precision import Matches

SURE = 0.5  # probability from which an answer counts in the confusion, the causes and what is missed
MISTAKES = 24  # in a record
COLOURS = 256  # of a close-up, which makes it a third as large


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A wrong answer, or an object that was not found.

    place: of the detection among those of its image; None: there is none.  truth: the object it is held against;
    None: there is none.  overlap: of the two; of background or of what is missed, the largest with any.
    """

    image: int
    cause: str
    place: int | None
    truth: int | None
    overlap: float


def worst(
    matches: Sequence[Matches], detections: Sequence[Detections], objects: Sequence[Objects], count: int
) -> list[Mistake]:
    """The wrong answers that were surest, surest first, then the largest objects missed: a quarter of `count`, or more
    where wrong answers are fewer.
    """
    wrong = [one.counted & ~one.right for one in matches]
    scores = np.concatenate([one.scores[some] for one, some in zip(matches, wrong, strict=True)])
    image = np.concatenate([one.image[some] for one, some in zip(matches, wrong, strict=True)])
    place = np.concatenate([one.place[some] for one, some in zip(matches, wrong, strict=True)])
    missed = _missed(matches, detections, objects)
    surest = np.argsort(-scores, kind="stable")[: max(count - len(missed), count - count // 4)]
    found = [_wrong(detections, objects, int(image[number]), int(place[number])) for number in surest]
    return found + [_forgotten(detections, objects, *each) for each in missed[: count - len(found)]]


def _wrong(detections: Sequence[Detections], objects: Sequence[Objects], image: int, place: int) -> Mistake:
    found, truth = detections[image], objects[image]
    why = cause(found, place, truth)
    overlaps = overlap(found.boxes[place : place + 1], truth.boxes)[0]
    mine = truth.labels == found.labels[place]
    meant = {"background": np.ones(len(truth), bool), "classification": ~mine, "both": ~mine}.get(why, mine)
    nearest = int(np.where(meant, overlaps, -1.0).argmax()) if meant.any() else None
    reached = 0.0 if nearest is None else float(overlaps[nearest])
    return Mistake(image=image, cause=why, place=place, truth=None if why == "background" else nearest, overlap=reached)


def _missed(
    matches: Sequence[Matches], detections: Sequence[Detections], objects: Sequence[Objects]
) -> list[tuple[int, int]]:
    """Objects that no sure answer found, as (image, place), the largest first."""
    free = [~here.aside for here in objects]
    for label, one in enumerate(matches):
        for number in np.flatnonzero(one.right & (one.scores >= SURE)):
            image, place = int(one.image[number]), int(one.place[number])
            theirs = np.flatnonzero(objects[image].labels == label)
            overlaps = overlap(detections[image].boxes[place : place + 1], objects[image].boxes[theirs])[0]
            free[image][theirs[overlaps.argmax()]] = False
    left = [(image, int(which)) for image, here in enumerate(free) for which in np.flatnonzero(here)]
    return sorted(left, key=lambda each: -float(objects[each[0]].areas[each[1]]))


def _forgotten(detections: Sequence[Detections], objects: Sequence[Objects], image: int, which: int) -> Mistake:
    truth, found = objects[image].boxes[which : which + 1], detections[image]
    sure = found.boxes[found.scores >= SURE]
    reached = float(overlap(truth, sure).max(initial=0.0))
    return Mistake(image=image, cause="missed", place=None, truth=which, overlap=reached)


def pictured(
    mistakes: Sequence[Mistake], detections: Sequence[Detections], images: ObjectImages
) -> list[dict[str, Any]]:
    """As they are recorded, each with the part of its image; an image is read once."""
    needed = sorted({one.image for one in mistakes})
    rows: dict[int, dict[str, Any]] = {}
    with Pool(workers=0) as pool:  # which every image has been through already
        for image, pixels in zip(needed, decoded(images, iter(needed), pool), strict=True):
            for number, one in enumerate(mistakes):
                if one.image == image:
                    rows[number] = _row(one, detections[image], images, pixels)
    return [rows[number] for number in range(len(mistakes))]


def _row(one: Mistake, found: Detections, images: ObjectImages, pixels: Pixels) -> dict[str, Any]:
    here = images.objects[one.image]
    truth = here.boxes[[] if one.truth is None else [one.truth]]
    answer = found.boxes[[] if one.place is None else [one.place]]
    return {
        "name": images.names[one.image],
        "cause": one.cause,
        "truth": None if one.truth is None else images.classes[here.labels[one.truth]],
        "predicted": None if one.place is None else images.classes[found.labels[one.place]],
        "probability": None if one.place is None else float(found.scores[one.place]),
        "overlap": one.overlap,
        "png": png(closeup(pixels, here.boxes, answer, of=np.concatenate([truth, answer]))),
    }


def png(pixels: Pixels) -> str:
    """(H, W, 3) as base64 of a PNG file of COLOURS colours."""
    file = BytesIO()
    Image.fromarray(pixels).quantize(COLOURS, Image.Quantize.FASTOCTREE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
