"""How well a detector finds: average precision by PASCAL VOC's definitions, from one matching of detections to objects.

A detection is right if it overlaps an object of its class by at least half (intersection over union) and no surer
detection has taken that object; a second one on the same object is wrong; one on an object set aside (difficult) counts
neither way.  Definitions: Everingham et al., the VOC development kit, VOCevaldet.m.  Numbers in percent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from residual.data.objects import Flags, Floats, Integers, Objects
from residual.detect.detections import Detections, overlap

Area = Literal["11-point", "area"]
"""11-point: VOC 2007, the mean over recalls 0, 0.1, ... 1 of the best precision at that recall or above.
area: VOC 2010 and later, the area under the precision made falling."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """The detections of one class over all images, surest first.

    image, place: (D,) which image, and which of its detections.
    right, counted: (D,) whether it is right; whether it counts at all.
    objects: how many there were to find.
    """

    image: Integers
    place: Integers
    scores: Floats
    right: Flags
    counted: Flags
    objects: int

    @property
    def curve(self) -> tuple[Floats, Floats]:
        """(recall, precision) after each counted detection."""
        right = np.cumsum(self.right[self.counted])
        return right / max(self.objects, 1), right / np.arange(1, len(right) + 1)

    def average_precision(self, form: Area = "11-point") -> float | None:
        """In percent; None for a class without objects, which has none."""
        if not self.objects:
            return None
        right = np.cumsum(self.right[self.counted])
        precision = right / np.arange(1, len(right) + 1)
        if form == "11-point":  # recall >= k / 10 in whole numbers, so that no rounding decides
            reached = [precision[10 * right >= k * self.objects] for k in range(11)]
            return 100 * float(np.mean([points.max() if len(points) else 0.0 for points in reached]))
        falling = np.maximum.accumulate(precision[::-1])[::-1]
        steps = np.diff(right, prepend=0) / self.objects
        return 100 * float(np.sum(steps * falling))


def match(
    detections: Sequence[Detections],
    objects: Sequence[Objects],
    label: int,
    *,
    least_overlap: float = 0.5,
) -> Matches:
    """Match one class over all images, the surest detection first; of equally sure ones the first given.

    Among the objects that a detection overlaps it is held against the one it overlaps most, taken or not.
    """
    refuse_unequal(detections, objects)
    image, place, scores = surest_first(detections, label)
    best, which = np.zeros(len(image)), np.zeros(len(image), np.int64)
    theirs = [truth.labels == label for truth in objects]
    for number in np.unique(image):
        truth = objects[number].boxes[theirs[number]]
        if len(truth):
            here = image == number
            overlaps = overlap(detections[number].boxes[place[here]], truth)
            best[here], which[here] = overlaps.max(axis=1), overlaps.argmax(axis=1)
    aside = [truth.aside[mine] for truth, mine in zip(objects, theirs, strict=True)]
    right, counted = np.zeros(len(image), bool), np.ones(len(image), bool)
    taken = [np.zeros(len(flags), bool) for flags in aside]
    for number in np.flatnonzero(best >= least_overlap):
        i, k = image[number], which[number]
        if aside[i][k]:
            counted[number] = False
        elif not taken[i][k]:
            taken[i][k] = right[number] = True
    todo = sum(int((~flags).sum()) for flags in aside)
    return Matches(image=image, place=place, scores=scores, right=right, counted=counted, objects=todo)


def mean_average_precision(
    detections: Sequence[Detections],
    objects: Sequence[Objects],
    classes: int,
    *,
    form: Area = "11-point",
    least_overlap: float = 0.5,
) -> tuple[float, tuple[float | None, ...]]:
    """The mean over the classes that have objects, and each class's own, in percent."""
    each = tuple(
        match(detections, objects, label, least_overlap=least_overlap).average_precision(form)
        for label in range(classes)
    )
    return mean_of_known(each), each


def surest_first(detections: Sequence[Detections], label: int) -> tuple[Integers, Integers, Floats]:
    """The detections of one class over all images: (D,) image, (D,) place among its detections, (D,) score."""
    ours = [np.flatnonzero(found.labels == label) for found in detections]
    image = np.repeat(np.arange(len(ours)), [len(places) for places in ours])
    place = np.concatenate([*ours, np.zeros(0, np.int64)]).astype(np.int64)
    scores = np.concatenate([*(found.scores[p] for found, p in zip(detections, ours, strict=True)), np.zeros(0)])
    order = np.argsort(-scores, kind="stable")
    return image[order], place[order], scores[order]


def mean_of_known(each: Sequence[float | None]) -> float:
    """Over the classes that have objects."""
    known = [value for value in each if value is not None]
    if not known:
        raise ValueError("no image has an object that counts, so there is no precision to average")
    return float(np.mean(known))


def refuse_unequal(detections: Sequence[Detections], objects: Sequence[Objects]) -> None:
    """One answer and one truth per image."""
    if len(detections) != len(objects):
        raise ValueError(f"there are detections for {len(detections)} images and objects for {len(objects)}")
