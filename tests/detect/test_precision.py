"""Average precision equals a plain transcription of the development kit's definition, exactly, on random cases."""

import random
from fractions import Fraction

import numpy as np
import pytest

from residual.data.objects import Objects
from residual.data.objects import objects as made
from residual.detect.detections import Detections
from residual.detect.precision import match, mean_average_precision

Box = tuple[int, int, int, int]


def shared(a: Box, b: Box) -> Fraction:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return Fraction(both, (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def devkit(found: list[tuple[int, float, Box]], truth: dict[int, list[tuple[Box, bool]]], form: str) -> Fraction:
    """One class, in exact fractions: VOCevaldet.m as its text reads, loop by loop."""
    todo = sum(not difficult for objects in truth.values() for _, difficult in objects)
    taken, outcomes = set(), []
    for image, _, box in sorted(found, key=lambda each: -each[1]):
        overlaps = [shared(box, other) for other, _ in truth.get(image, [])]
        most = max(overlaps, default=Fraction(-1))
        if most >= Fraction(1, 2):
            k = overlaps.index(most)
            if truth[image][k][1]:
                continue
            outcomes.append((image, k) not in taken)
            taken.add((image, k))
        else:
            outcomes.append(False)
    points, right = [], 0
    for n, outcome in enumerate(outcomes, start=1):
        right += outcome
        points.append((Fraction(right, todo), Fraction(right, n)))
    if form == "11-point":
        best = [max((p for r, p in points if r >= Fraction(t, 10)), default=Fraction(0)) for t in range(11)]
        return sum(best, Fraction(0)) / 11
    area, before = Fraction(0), Fraction(0)
    for n, (recall, _) in enumerate(points):
        area += (recall - before) * max(p for _, p in points[n:])
        before = recall
    return area


def case(seed: int) -> tuple[list[Detections], list[Objects], list, dict]:
    rng = random.Random(seed)

    def box() -> Box:
        left, top = rng.randrange(12), rng.randrange(12)
        return left, top, left + rng.randrange(1, 9), top + rng.randrange(1, 9)

    found, truth, detections, objects = [], {}, [], []
    for image in range(rng.randrange(1, 5)):
        here = [(box(), rng.random() < 0.2) for _ in range(rng.randrange(5))]
        mine = [(rng.choice(here)[0] if here and rng.random() < 0.6 else box()) for _ in range(rng.randrange(7))]
        mine = [(rng.randrange(6) / 5, b) for b in mine]  # equal scores happen
        truth[image] = here
        found += [(image, score, b) for score, b in mine]
        objects.append(made([b for b, _ in here], [0] * len(here), [d for _, d in here]))
        detections.append(
            Detections(
                boxes=np.array([b for _, b in mine], float).reshape(-1, 4),
                labels=np.zeros(len(mine), np.int64),
                scores=np.array([s for s, _ in mine], float),
            )
        )
    return detections, objects, found, truth


@pytest.mark.parametrize("form", ["11-point", "area"])
def test_a_thousand_random_cases_agree_with_the_devkit(form: str):
    some = 0
    for seed in range(1000):
        detections, objects, found, truth = case(seed)
        if not any(not difficult for here in truth.values() for _, difficult in here):
            assert match(detections, objects, 0).average_precision(form) is None
            continue
        ours = match(detections, objects, 0).average_precision(form)
        assert ours == pytest.approx(100 * float(devkit(found, truth, form)), abs=1e-9), seed
        some += 0 < ours < 100
    assert some > 500


def two_classes() -> tuple[list[Detections], list[Objects]]:
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [40, 0, 50, 10]], float)
    objects = made(boxes, [0, 1, 1], [False, False, True])
    found = Detections(boxes=boxes, labels=np.array([0, 1, 1]), scores=np.array([0.9, 0.8, 0.95]))
    return [found], [objects]


def test_finding_everything_is_a_hundred_percent_and_a_difficult_object_is_nobodys_fault():
    detections, objects = two_classes()
    mean, each = mean_average_precision(detections, objects, 3)
    assert mean == 100
    assert each == (100, 100, None)


def test_planted_faults_change_the_number():
    detections, objects = two_classes()
    swapped = [Detections(boxes=d.boxes, labels=1 - d.labels, scores=d.scores) for d in detections]
    assert mean_average_precision(swapped, objects, 2)[0] == 0
    counted = [made(o.boxes, o.labels) for o in objects]
    nothing_of_it = [Detections(boxes=d.boxes[:2], labels=d.labels[:2], scores=d.scores[:2]) for d in detections]
    assert mean_average_precision(nothing_of_it, objects, 2)[0] == 100
    assert mean_average_precision(nothing_of_it, counted, 2, form="area")[0] == 75


def test_a_second_detection_of_one_object_is_wrong():
    detections, objects = two_classes()
    twice = detections[0]
    doubled = Detections(
        boxes=np.concatenate([twice.boxes, twice.boxes[:1]]),
        labels=np.append(twice.labels, 0),
        scores=np.append(twice.scores, 0.99),
    )
    found = match([doubled], objects, 0)
    assert found.right.tolist() == [True, False]
    assert found.scores.tolist() == [0.99, 0.9]


def test_unequal_lists_and_empty_truth_are_refused():
    detections, objects = two_classes()
    with pytest.raises(ValueError, match="detections for 2 images and objects for 1"):
        match(detections * 2, objects, 0)
    nothing = [made([], [])]
    with pytest.raises(ValueError, match="no image has an object"):
        mean_average_precision(detections, nothing, 2)
