"""Everything we record of one detector, or localizer, on one set of images: the content of evaluation.json.

Precisions and errors in percent; probabilities, overlaps and curves as fractions.
Shapes: N images, K classes, D detections of one class over all images, R resamplings.
"""

import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from typing import Any, TypeVar, overload

import numpy as np
import torch
from PIL import Image

from residual.data.decode import Pixels
from residual.data.load_objects import decoded
from residual.data.loader import Pool
from residual.data.objects import Flags, Floats, Integers, ObjectImages, Objects, with_masks
from residual.data.outlines import Runs, as_runs, mask_of
from residual.detect.coco import coco_numbers
from residual.detect.detections import Detections, overlap
from residual.detect.detector import Detector, find_together
from residual.detect.draw import closeup
from residual.detect.found import Found
from residual.detect.imagenet import located
from residual.detect.localize import Localizers, locate
from residual.detect.mistakes import CAUSES, Cause, cause, confusion
from residual.detect.precision import Matches, match, mean_of_known, refuse_unequal
from residual.detect.procedure import Procedure

T = TypeVar("T")
Find = Callable[[Pixels], Found]
"""What a detector finds on an image (H, W, 3) uint8: `Detector.find`, or an ensemble's."""
Locate = Callable[[Pixels, Sequence[int]], Found]
"""Where a localizer places classes that it is told: a box for each."""
Tell = Callable[[int, int], object]
"""Is told how many images are done, and of how many."""

SURE = 0.5  # probability from which an answer counts in the confusion, the causes and what is missed
RESAMPLES = 1000
AT_ONCE = 1 << 21  # numbers of a resampling in memory
POINTS = 101  # of a curve, at most
MISTAKES = 24
COLOURS = 256  # of a close-up, which makes it a third as large


def evaluate_detector(
    detectors: Detector | Sequence[Detector],
    images: ObjectImages,
    *,
    split: str,
    weights: str = "last",
    procedure: Procedure | None = None,
    seed: int = 0,
    workers: int = 0,
    progress: Tell = lambda done, images: None,
    mistakes: int = MISTAKES,
) -> dict[str, Any]:
    """Let a detector, or several as one, look at every image, and measure: `evaluation`, or of a localizer its own.

    The images' classes are the detector's.  procedure: None, as the first one's card says.
    workers: processes that decode.  progress: told after every image.
    """
    several = [detectors] if isinstance(detectors, Detector) else detectors
    card = several[0].card
    assert images.classes == card.classes, "the caller has put the classes in the detector's order"
    if card.localizer is not None:
        find, place = localizing(several[0], () if procedure is None else procedure.sides)
        return evaluate_localizer(find, place, images, split=split, weights=weights, seed=seed, workers=workers,
                                  sides=() if procedure is None else procedure.sides, progress=progress,
                                  mistakes=mistakes)  # fmt: skip
    procedure = card.procedure if procedure is None else procedure
    network = card.detector or card.cascade
    assert network is not None
    return evaluate_finding(
        lambda pixels: find_together(several, pixels, procedure), images, split=split, weights=weights, seed=seed,
        procedure=procedure, masks=card.masks, most=max(100, network.regions.most), workers=workers, progress=progress,
        mistakes=mistakes,
    )  # fmt: skip


def evaluate_finding(
    find: Find,
    images: ObjectImages,
    *,
    split: str,
    weights: str = "last",
    procedure: Procedure,
    masks: bool = False,
    most: int = 100,
    seed: int = 0,
    workers: int = 0,
    progress: Tell = lambda done, images: None,
    mistakes: int = MISTAKES,
) -> dict[str, Any]:
    """The same for whatever finds.  procedure: how it looks, for the record.

    Masks are kept as runs of pixels as soon as they are found, for those of all images would not fit into memory.
    """
    _refuse_nothing(images)
    bare: list[Detections] = []
    outlines: list[list[Runs]] = []
    seconds = 0.0
    with Pool(workers=workers) as pool:
        for number, pixels in enumerate(decoded(images, iter(range(len(images))), pool)):
            started = time.perf_counter()
            found = find(pixels)
            seconds += time.perf_counter() - started
            bare.append(_finite(replace(found, masks=None).detections(), images.names[number]))
            if masks:
                outlines.append(_outlines(found))
            progress(number + 1, len(images))

    def drawn(number: int) -> Detections:
        height, width = images.sizes[number]
        there = [mask_of(outline, height, width) for outline in outlines[number]]
        return replace(bare[number], masks=np.stack(there) if there else np.zeros((0, height, width), np.bool_))

    return evaluation(
        _Made(len(bare), drawn) if masks else bare,
        images,
        split=split,
        weights=weights,
        procedure=procedure,
        seed=seed,
        masks=masks,
        most=most,
        seconds_per_image=seconds / len(images),
        mistakes=mistakes,
    )


def evaluation(
    detections: Sequence[Detections],
    images: ObjectImages,
    *,
    split: str,
    weights: str = "last",
    procedure: Procedure,
    seed: int = 0,
    masks: bool = False,
    most: int = 100,
    seconds_per_image: float,
    mistakes: int = MISTAKES,
) -> dict[str, Any]:
    """Plain JSON values.  detections: of these images, in their order; seed: of the interval's resampling.

    masks: measure the detections' masks too, where the data outlines its objects.
    most: answers of a class on one image that COCO's numbers count, the surest; recorded as "coco_most".
    COCO's numbers are None without the extra `detect`; "coco_missing" then says so.
    """
    refuse_unequal(detections, images.objects)
    _refuse_nothing(images)
    bare = [replace(found, masks=None) for found in detections]
    objects, classes = images.objects, len(images.classes)
    matches = [match(bare, objects, label) for label in range(classes)]
    each = [one.average_precision("area") for one in matches]
    each07 = [one.average_precision("11-point") for one in matches]
    found: dict[str, Any] = {
        "task": "detection",
        "split": split,
        "weights": weights,
        "images": len(images),
        "objects": sum(one.objects for one in matches),
        "map50": mean_of_known(each),
        "interval": list(interval(matches, objects, images.names, seed=seed)),
        "voc07": mean_of_known(each07),
        "coco": None,
        "coco_masks": None,
    }
    if missing := _coco_missing():
        found["coco_missing"] = missing
    else:
        found["coco_most"] = most
        found["coco"] = coco_numbers(bare, objects, classes, most=most)
        if masks and images.outlined:
            truth = _Made(len(objects), lambda number: with_masks(objects[number], *images.sizes[number]))
            found["coco_masks"] = coco_numbers(detections, truth, classes, of="segm", most=most)
    return found | {
        "per_class": [
            {
                "class": name,
                "objects": one.objects,
                "detections": len(one.image),
                "ap50": ap50,
                "voc07": voc07,
            }
            | curve(one)
            for name, one, ap50, voc07 in zip(images.classes, matches, each, each07, strict=True)
        ],
        "confusion": {"score": SURE, "counts": confusion(bare, objects, classes, score=SURE).tolist()},
        "causes": {"score": SURE, "counts": counted_causes(matches, bare, objects)},
        "mistakes": _pictured(worst(matches, bare, objects, mistakes), bare, images),
        "procedure": asdict(procedure) | {"sides": list(procedure.sides)},
        "seconds_per_image": seconds_per_image,
    }


# --- numbers ---------------------------------------------------------------------------------------------------------


def interval(
    matches: Sequence[Matches], objects: Sequence[Objects], names: Sequence[str], *, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Where the mean average precision would lie on other images like these: percentiles over N images drawn again.

    An image that is drawn twice brings its detections and objects twice; which of them are right changes with that for
    none, so nothing is matched again.  The interval is widened to hold the estimate, which few images may bias.
    A pure function of its arguments, in whatever order the images come.
    """
    images = len(objects)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(abs(seed))))
    drawn = rng.multinomial(images, np.full(images, 1 / images), RESAMPLES)  # (R, N)
    drawn[:, np.argsort(np.array(names), kind="stable")] = drawn.copy()
    total, known = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for label, one in enumerate(matches):
        if one.objects:
            todo = drawn @ np.array([int((~here.aside[here.labels == label]).sum()) for here in objects])
            precision = _precision_of(one, drawn, todo)
            total, known = total + np.where(todo > 0, precision, 0.0), known + (todo > 0)
    means = 100 * total[known > 0] / known[known > 0]
    estimate = mean_of_known([one.average_precision("area") for one in matches])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(min(low, estimate)), float(max(high, estimate))


def _precision_of(one: Matches, drawn: Integers, todo: Integers) -> Floats:
    """(R,) the area form, as a fraction, with every image counted as often as it was drawn; todo: objects, (R,)."""
    image, right = one.image[one.counted], one.right[one.counted]
    found = np.zeros(len(drawn))
    step = max(1, AT_ONCE // max(len(image), 1))
    for start in range(0, len(drawn), step) if right.any() else ():
        weights = drawn[start : start + step][:, image]
        told = weights.cumsum(axis=1)[:, right]  # a wrong one only lowers what the next right one has to raise
        weights = weights[:, right]
        precision = weights.cumsum(axis=1) / np.maximum(told, 1)
        falling = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        found[start : start + step] = (weights * falling).sum(axis=1)
    return found / np.maximum(todo, 1)


def curve(one: Matches) -> dict[str, list[float]]:
    """Recall and precision, surest first: every point, or of many at most POINTS, the ends and rises among them."""
    recall, precision = one.curve
    if len(recall) > POINTS:
        rises = np.flatnonzero(one.right[one.counted])
        spaced = np.linspace(0, len(recall) - 1, POINTS // 2).round().astype(np.int64)
        some = np.linspace(0, max(len(rises) - 1, 0), POINTS - len(spaced)).round().astype(np.int64)
        chosen = np.union1d(spaced, rises[some] if len(rises) else spaced)
        recall, precision = recall[chosen], precision[chosen]
    return {"recall": recall.tolist(), "precision": precision.tolist()}


def counted_causes(
    matches: Sequence[Matches], detections: Sequence[Detections], objects: Sequence[Objects]
) -> dict[Cause, int]:
    """What `mistakes.causes` counts from SURE on, told from the matches of all: what is less sure changes nothing."""
    counts = dict.fromkeys(CAUSES, 0)
    for one in matches:
        sure = one.scores >= SURE
        counts["missed"] += one.objects - int(one.right[sure].sum())
        wrong = sure & one.counted & ~one.right
        for image, place in zip(one.image[wrong].tolist(), one.place[wrong].tolist(), strict=True):
            counts[cause(detections[image], place, objects[image])] += 1
    return counts


# --- mistakes --------------------------------------------------------------------------------------------------------


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


def _pictured(
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


# --- localization ----------------------------------------------------------------------------------------------------


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
    with Pool(workers=workers) as pool:
        for number, pixels in enumerate(decoded(images, iter(range(len(images))), pool)):
            started = time.perf_counter()
            found = find(pixels).detections()
            seconds += time.perf_counter() - started
            mine = np.flatnonzero(found.labels == truth[number])[:1]
            told = _some(found, mine) if len(mine) else place(pixels, [truth[number]]).detections()
            guesses.append(_finite(found, images.names[number]))
            given.append(_finite(told, images.names[number]))
            progress(number + 1, len(images))
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
        "mistakes": _pictured(rows, guesses, images),
        "sides": list(sides),
        "second": second,
        "seconds_per_image": seconds_per_image,
    }


def classes_of(images: ObjectImages) -> list[int]:
    """The one class of each image.  Refuses, by name, an image with none or with several."""
    _refuse_nothing(images)
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
    low, high = np.quantile(rng.binomial(images, errors / images, 10 * RESAMPLES) / images, [tail, 1 - tail])
    reach = 1 - tail ** (1 / images)
    low, high = (1 - reach if errors == images else low), (reach if errors == 0 else high)
    return 100 * float(low), 100 * float(high)


def _percent(wrong: Flags) -> float:
    return 100 * float(wrong.mean())


# --- small things ----------------------------------------------------------------------------------------------------


class _Made(Sequence[T]):
    """Things that are made when they are asked for, and not kept: all masks at once would not fit into memory."""

    def __init__(self, many: int, make: Callable[[int], T]) -> None:
        self.many, self.make = many, make

    def __len__(self) -> int:
        return self.many

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> "_Made[T]": ...
    def __getitem__(self, index: int | slice) -> "T | _Made[T]":
        chosen = range(self.many)[index]
        if isinstance(chosen, range):
            return _Made(len(chosen), lambda number: self.make(chosen[number]))
        return self.make(chosen)


def _outlines(found: Found) -> list[Runs]:
    if found.masks is None:
        raise ValueError("masks are to be measured, but this detector tells boxes alone; leave out `masks`")
    return [as_runs(mask) for mask in found.masks.cpu().numpy()]


def _some(found: Detections, chosen: Integers) -> Detections:
    return Detections(boxes=found.boxes[chosen], labels=found.labels[chosen], scores=found.scores[chosen])


def _finite(found: Detections, name: str) -> Detections:
    if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
        raise ValueError(
            f"the answer to {name} is not finite; the detector's weights are damaged, or its training diverged, so "
            "evaluate an earlier checkpoint"
        )
    return found


def _refuse_nothing(images: ObjectImages) -> None:
    if not any((~here.aside).any() for here in images.objects):
        raise ValueError(
            f"none of the {len(images)} images of {images.origin} has an object that counts, so there is nothing to "
            "measure; give images whose objects are annotated"
        )


def _coco_missing() -> str:
    """Why COCO's numbers cannot be had; nothing, where they can."""
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError:
        return "COCO's numbers need the extra `detect`: pip install 'residual[detect]'"
    return ""
