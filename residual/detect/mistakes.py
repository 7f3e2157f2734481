"""Why a detection is wrong, and what is mistaken for what.

Each wrong detection has one cause, by the overlap (intersection over union) with the truth (after Hoiem et al. 2012 and
Bolya et al. 2020): another class at the right place; the right class at a poor place; both; a second box on an object
that is found; background.  An object that no detection finds is missed.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from residual.data.objects import Integers, Objects
from residual.detect.detections import Detections, overlap
from residual.detect.precision import match, refuse_unequal

Cause = Literal["classification", "localization", "both", "duplicate", "background", "missed"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
NEAR, RIGHT = 0.1, 0.5  # overlap from which a box is near an object, and from which it is at its place


def causes(
    detections: Sequence[Detections], objects: Sequence[Objects], classes: int, *, score: float = 0.0
) -> dict[Cause, int]:
    """How many wrong detections of at least `score` each cause has, and how many objects are missed."""
    refuse_unequal(detections, objects)
    counts = dict.fromkeys(CAUSES, 0)
    sure = [surer(found, score) for found in detections]
    for label in range(classes):
        matches = match(sure, objects, label)
        counts["missed"] += matches.objects - int(matches.right.sum())
        for image, place in zip(
            matches.image[matches.counted & ~matches.right],
            matches.place[matches.counted & ~matches.right],
            strict=True,
        ):
            counts[cause(sure[image], int(place), objects[image])] += 1
    return counts


def cause(found: Detections, place: int, truth: Objects) -> Cause:
    """Of one detection that is wrong."""
    overlaps = overlap(found.boxes[place : place + 1], truth.boxes)[0]
    mine = truth.labels == found.labels[place]
    same, other = overlaps[mine].max(initial=0.0), overlaps[~mine].max(initial=0.0)
    if same >= RIGHT:
        return "duplicate"
    if other >= RIGHT:
        return "classification"
    if same >= NEAR:
        return "localization"
    return "both" if other >= NEAR else "background"


def confusion(
    detections: Sequence[Detections], objects: Sequence[Objects], classes: int, *, score: float = 0.5
) -> Integers:
    """(K + 1, K + 1): rows the truth, columns the answer; the last row is background, the last column "not found".

    Regardless of class, the surest detections of at least `score` take the object they overlap most, if by RIGHT.
    What takes an object that is set aside is not counted.
    """
    refuse_unequal(detections, objects)
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for found, truth in zip((surer(each, score) for each in detections), objects, strict=True):
        free = np.ones(len(truth), bool)
        overlaps = overlap(found.boxes, truth.boxes)
        for place in np.argsort(-found.scores, kind="stable"):
            reached = np.where(free, overlaps[place], 0.0) if len(truth) else np.zeros(1)
            which = int(reached.argmax())
            if reached[which] < RIGHT:
                counts[classes, found.labels[place]] += 1
                continue
            free[which] = False
            if not truth.aside[which]:
                counts[truth.labels[which], found.labels[place]] += 1
        for label in truth.labels[free & ~truth.aside]:
            counts[label, classes] += 1
    return counts


def surer(found: Detections, score: float) -> Detections:
    """The detections of at least `score`."""
    kept = found.scores >= score
    masks = None if found.masks is None else found.masks[kept]
    return Detections(boxes=found.boxes[kept], labels=found.labels[kept], scores=found.scores[kept], masks=masks)
