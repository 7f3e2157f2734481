"""Everything we record of one localizer on one set of images: the content of evaluation.json.

Errors in percent; probabilities and overlaps as fractions.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from residual.data.decode import Pixels
from residual.data.objects import Flags, Integers, ObjectImages, Objects
from residual.detect.detections import Detections, overlap
from residual.detect.detector import Detector
from residual.detect.found import Found
from residual.detect.imagenet import located
from residual.detect.localize import Localizers, locate
from residual.detect.look import Find, Tell, finite, look, refuse_nothing
from residual.detect.precision import refuse_unequal
from residual.detect.worst import MISTAKES, Mistake, pictured

Locate = Callable[[Pixels, Sequence[int]], Found]
"""Where a localizer places classes that it is told: a box for each."""

RESAMPLES = 10_000


def localizing(
    detector: Detector,
    sides: Sequence[int] = (),
    *,
    second: bool = True,
    classify: Callable[[Pixels], Sequence[int]] | None = None,
) -> tuple[Find, Locate]:
    """How a localizer looks: at five classes, the first guess first, and at classes that it is told.

    sides: shorter sides at which an image is looked at whole; none: as the card says.  second: with the second step.
    classify: another network's five classes, the first guess first; None: the localizer's own.
    """
    net, own = detector.net, detector.card.procedure
    assert isinstance(net, Localizers), "the card says that it is a localizer"
    procedure = replace(own, sides=tuple(sides or own.sides or (own.side,)))

    @torch.inference_mode()
    def told(pixels: Pixels, labels: Sequence[int]) -> Found:
        image = detector.prepared(pixels)
        found = locate(net.first, image, labels, procedure.sides, second=net.second if second else None)
        return Found(found.boxes.cpu(), found.labels.cpu(), found.scores.cpu())

    def guessed(pixels: Pixels) -> Found:
        if classify is not None:
            return told(pixels, classify(pixels))
        found = detector.find(pixels, procedure)
        if second:
            return found
        first = told(pixels, found.labels.tolist())
        order = first.scores.argsort(descending=True, stable=True)
        return Found(first.boxes[order], first.labels[order], first.scores[order])

    return guessed, told


def evaluate_localizer(
    find: Find,
    place: Locate,
    images: ObjectImages,
    *,
    split: str,
    weights: str = "last",
    classes_from: str = "itself",
    sides: Sequence[int] = (),
    second: bool = True,
    seed: int = 0,
    workers: int = 0,
    progress: Tell = lambda done, images: None,
    mistakes: int = MISTAKES,
) -> dict[str, Any]:
    """Look at every image once, as it is, and measure: `localization_evaluation`.

    find: five classes with a box each, the first guess first.  place: is asked for the true class, where it is not
    among the five.  classes_from, sides, second: how the two look, for the record.
    """
    truth = classes_of(images)
    given, guesses = list[Detections](), list[Detections]()
    seconds = 0.0
    for number, (name, pixels, answer, took) in enumerate(look(find, images, workers=workers, progress=progress)):
        seconds += took
        found = answer.detections()
        mine = np.flatnonzero(found.labels == truth[number])[:1]
        told = _some(found, mine) if len(mine) else place(pixels, [truth[number]]).detections()
        guesses.append(finite(found, name))
        given.append(finite(told, name))
    return localization_evaluation(
        given,
        guesses,
        images,
        split=split,
        weights=weights,
        classes_from=classes_from,
        sides=sides,
        second=second,
        seconds_per_image=seconds / len(images),
        seed=seed,
        mistakes=mistakes,
    )


def localization_evaluation(
    given: Sequence[Detections],
    guesses: Sequence[Detections],
    images: ObjectImages,
    *,
    split: str,
    weights: str = "last",
    classes_from: str = "itself",
    sides: Sequence[int] = (),
    second: bool = True,
    seconds_per_image: float,
    seed: int = 0,
    mistakes: int = MISTAKES,
) -> dict[str, Any]:
    """Plain JSON values.  given: for each image one box of its true class; guesses: boxes of five, the first guess
    first; the interval and the errors of the classes are those with the class given.
    """
    refuse_unequal(given, images.objects)
    refuse_unequal(guesses, images.objects)
    truth = np.array(classes_of(images))
    pairs = list(zip(given, guesses, images.objects, strict=True))
    misplaced = np.array([not located(box, here, 1) for box, _, here in pairs])
    first = np.array([not located(found, here, 1) for _, found, here in pairs])
    five = np.array([not located(found, here, 5) for _, found, here in pairs])
    unnamed = np.array([label != found.labels[0] for label, found in zip(truth, guesses, strict=True)])
    unnamed5 = np.array([label not in found.labels[:5] for label, found in zip(truth, guesses, strict=True)])
    scores = np.array([found.scores[0] for found in guesses])
    surest = np.argsort(np.where(first, -scores, np.inf), kind="stable")[: min(mistakes, int(first.sum()))]
    rows = [_misplaced(guesses[number], images.objects[number], int(number)) for number in surest]
    of_class = np.bincount(truth, minlength=len(images.classes))
    wrong = np.bincount(truth[misplaced], minlength=len(images.classes))
    return {
        "task": "localization",
        "split": split,
        "weights": weights,
        "images": len(images),
        "classes_from": classes_from,
        "given_class_error": _percent(misplaced),
        "interval": list(_interval_of_share(misplaced, seed=seed)),
        "top1_error": _percent(first),
        "top5_error": _percent(five),
        "classification": {"top1_error": _percent(unnamed), "top5_error": _percent(unnamed5)},
        "per_class": [
            {"class": name, "images": int(count), "error": 100 * float(bad) / int(count) if count else None}
            for name, count, bad in zip(images.classes, of_class, wrong, strict=True)
        ],
        "mistakes": pictured(rows, guesses, images),
        "sides": list(sides),
        "second": second,
        "seconds_per_image": seconds_per_image,
    }


def classes_of(images: ObjectImages) -> list[int]:
    """The one class of each image.  Refuses, by name, an image with none or with several."""
    refuse_nothing(images)
    found = []
    for name, here in zip(images.names, images.objects, strict=True):
        labels = sorted(set(here.labels[~here.aside].tolist()))
        if len(labels) != 1:
            said = ", ".join(images.classes[label] for label in labels[:5]) or "no object"
            raise ValueError(
                f"localization is measured on images of one class each, but {name} has {said}; take it out of the "
                "data, or train a detector of several objects"
            )
        found.append(labels[0])
    return found


def _misplaced(found: Detections, truth: Objects, image: int) -> Mistake:
    overlaps = overlap(found.boxes[:1], truth.boxes)[0]
    nearest = int(np.where(truth.aside, -1.0, overlaps).argmax())
    why = "place" if found.labels[0] == truth.labels[nearest] else "class"
    return Mistake(image=image, cause=why, place=0, truth=nearest, overlap=float(overlaps[nearest]))


def _interval_of_share(wrong: Flags, *, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Of an error in percent: images drawn again, which makes the number of errors binomial; without an error, or
    with nothing else, the open end is the exact one of Clopper and Pearson.
    """
    images, errors, tail = len(wrong), int(wrong.sum()), (1 - level) / 2
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(abs(seed))))
    low, high = np.quantile(rng.binomial(images, errors / images, RESAMPLES) / images, [tail, 1 - tail])
    reach = 1 - tail ** (1 / images)
    low, high = (1 - reach if errors == images else low), (reach if errors == 0 else high)
    return 100 * float(low), 100 * float(high)


def _percent(wrong: Flags) -> float:
    return 100 * float(wrong.mean())


def _some(found: Detections, chosen: Integers) -> Detections:
    return Detections(boxes=found.boxes[chosen], labels=found.labels[chosen], scores=found.scores[chosen])
