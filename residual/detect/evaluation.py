"""Everything we record of one detector on one set of images: the content of evaluation.json.

Precisions in percent; probabilities, overlaps and curves as fractions.  What is recorded of a localizer:
localizer_evaluation.py.
Shapes: N images, K classes, D detections of one class over all images, R resamplings.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar, overload

import numpy as np

from residual.data.objects import Floats, Integers, ObjectImages, Objects, with_masks
from residual.detect.coco import coco_numbers
from residual.detect.detections import Detections
from residual.detect.detector import Detector, find_together
from residual.detect.localizer_evaluation import evaluate_localizer, localizing
from residual.detect.look import Find, Tell, finite, look, refuse_nothing
from residual.detect.mistakes import CAUSES, Cause, cause, confusion
from residual.detect.precision import Matches, match, mean_of_known, refuse_unequal
from residual.detect.procedure import Procedure
from residual.detect.worst import MISTAKES, SURE, pictured, worst

T = TypeVar("T")

RESAMPLES = 1000
AT_ONCE = 1 << 21  # numbers of a resampling in memory
POINTS = 101  # of a curve, at most


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

    Masks stay runs of pixels, for those of all images would not fit into memory.
    """
    refuse_nothing(images)
    detections: list[Detections] = []
    seconds = 0.0
    for name, _, found, took in look(find, images, workers=workers, progress=progress):
        seconds += took
        if masks and found.outlines is None:
            raise ValueError("masks are to be measured, but this detector tells boxes alone; leave out `masks`")
        detections.append(finite(found.detections(), name))
    return evaluation(
        detections,
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
    refuse_nothing(images)
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
        "mistakes": pictured(worst(matches, bare, objects, mistakes), bare, images),
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


def _coco_missing() -> str:
    """Why COCO's numbers cannot be had; nothing, where they can."""
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError:
        return "COCO's numbers need the extra `detect`: pip install 'residual[detect]'"
    return ""
