"""ImageNet's numbers for detection (DET) and localization (LOC), as the challenge's development kit defines them.

Definitions: Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge", section 4.  In percent.
"""

from collections.abc import Sequence

import numpy as np

from residual.data.objects import Floats, Objects
from residual.detect.detections import Detections, overlap
from residual.detect.precision import Matches, mean_of_known, refuse_unequal, surest_first

MARGIN = 10.0  # pixels by which a box may be too wide and too high
OVERLAP = 0.5


def least_overlaps(boxes: Floats) -> Floats:
    """(M, 4) -> (M,) the overlap that finds an object: half, but for a small one what a box has that is 5 pixels too
    large on every side.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    least: Floats = np.minimum(OVERLAP, sides.prod(axis=1) / (sides + MARGIN).prod(axis=1))
    return least


def match_det(detections: Sequence[Detections], objects: Sequence[Objects], label: int) -> Matches:
    """Match one class over all images, the surest detection first; of equally sure ones the first given.

    Unlike VOC's rule, a detection takes the object it overlaps most among those still free that it overlaps enough.
    """
    refuse_unequal(detections, objects)
    image, place, scores = surest_first(detections, label)
    right, counted = np.zeros(len(image), bool), np.ones(len(image), bool)
    theirs = [np.flatnonzero(truth.labels == label) for truth in objects]
    free = [np.ones(len(mine), bool) for mine in theirs]
    least = [least_overlaps(truth.boxes[mine]) for truth, mine in zip(objects, theirs, strict=True)]
    for number, (i, k) in enumerate(zip(image.tolist(), place.tolist(), strict=True)):
        truth = objects[i]
        overlaps = overlap(detections[i].boxes[k : k + 1], truth.boxes[theirs[i]])[0]
        enough = np.flatnonzero(free[i] & (overlaps >= least[i]))
        if not len(enough):
            continue
        best = enough[overlaps[enough].argmax()]
        if truth.aside[theirs[i][best]]:
            counted[number] = False
        else:
            right[number], free[i][best] = True, False
    todo = sum(int((~truth.aside[mine]).sum()) for truth, mine in zip(objects, theirs, strict=True))
    return Matches(image=image, place=place, scores=scores, right=right, counted=counted, objects=todo)


def det_precision(
    detections: Sequence[Detections], objects: Sequence[Objects], classes: int
) -> tuple[float, tuple[float | None, ...]]:
    """Mean average precision over the classes that have objects, and each class's own: table 12."""
    each = tuple(match_det(detections, objects, label).average_precision("area") for label in range(classes))
    return mean_of_known(each), each


def localization_error(guesses: Sequence[Detections], objects: Sequence[Objects], k: int = 5) -> float:
    """Percent of images of which none of the first `k` guesses has the image's class and a box on an object of it.

    Tables 13 and 14.  A guess is right from an overlap of half on.  guesses: the surest first, of one class each; with
    the true class given ("GT class"), one guess of that class.
    """
    refuse_unequal(guesses, objects)
    if not guesses:
        raise ValueError("there are no images, so there is no error to average")
    missed = [not located(guess, truth, k) for guess, truth in zip(guesses, objects, strict=True)]
    return 100 * float(np.mean(missed))


def located(guess: Detections, truth: Objects, k: int) -> bool:
    """Whether one image's object is among the first `k` guesses."""
    right = guess.labels[:k, None] == truth.labels[None, :]
    return bool((right & (overlap(guess.boxes[:k], truth.boxes) >= OVERLAP)).any())
