"""The challenge's numbers equal plain transcriptions of their definitions, on random cases."""

import random
from fractions import Fraction

import numpy as np
import pytest

from residual.data.objects import objects as made
from residual.detect.detections import Detections
from residual.detect.imagenet import det_precision, least_overlaps, localization_error, match_det
from residual.detect.precision import match

Box = tuple[int, int, int, int]


def shared(a: Box, b: Box) -> Fraction:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return Fraction(both, (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def least(box: Box) -> Fraction:
    width, height = box[2] - box[0], box[3] - box[1]
    return min(Fraction(1, 2), Fraction(width * height, (width + 10) * (height + 10)))


def devkit(found: list[tuple[int, float, Box]], truth: dict[int, list[Box]]) -> Fraction:
    """One class, in exact fractions: each detection takes the free object it overlaps most, if by that object's own."""
    taken, outcomes = set(), []
    for image, _, box in sorted(found, key=lambda each: -each[1]):
        most, best = Fraction(-1), None
        for k, other in enumerate(truth[image]):
            overlap = shared(box, other)
            if (image, k) not in taken and overlap >= least(other) and overlap > most:
                most, best = overlap, k
        outcomes.append(best is not None)
        taken.add((image, best))
    todo = sum(len(here) for here in truth.values())
    points = [(Fraction(sum(outcomes[:n]), todo), Fraction(sum(outcomes[:n]), n)) for n in range(1, len(outcomes) + 1)]
    area, before = Fraction(0), Fraction(0)
    for n, (recall, _) in enumerate(points):
        area += (recall - before) * max(p for _, p in points[n:])
        before = recall
    return area


def box_of(rng: random.Random, largest: int) -> Box:
    left, top = rng.randrange(largest), rng.randrange(largest)
    return left, top, left + rng.randrange(1, largest), top + rng.randrange(1, largest)


def answers(boxes: list[Box], labels: list[int], scores: list[float]) -> Detections:
    return Detections(
        boxes=np.array(boxes, float).reshape(-1, 4), labels=np.array(labels, np.int64), scores=np.array(scores, float)
    )


def test_a_thousand_random_cases_agree_with_the_devkit():
    some, differ = 0, 0
    for seed in range(1000):
        rng = random.Random(seed)
        largest = rng.choice([6, 20, 60])
        truth, found, detections, objects = {}, [], [], []
        for image in range(rng.randrange(1, 4)):
            truth[image] = [box_of(rng, largest) for _ in range(rng.randrange(1, 4))]
            mine = [rng.choice(truth[image]) if rng.random() < 0.4 else box_of(rng, largest) for _ in range(6)]
            scores = [rng.randrange(6) / 5 for _ in mine]
            found += [(image, score, box) for score, box in zip(scores, mine, strict=True)]
            objects.append(made(truth[image], [0] * len(truth[image])))
            detections.append(answers(mine, [0] * 6, scores))
        ours, each = det_precision(detections, objects, 2)
        assert ours == pytest.approx(100 * float(devkit(found, truth)), abs=1e-9), seed
        assert each[1] is None
        some += 0 < ours < 100
        differ += match(detections, objects, 0).average_precision("area") != ours
    assert some > 500
    assert differ > 100  # or this number would be VOC's


def test_a_small_object_is_found_by_a_box_five_pixels_too_large_on_every_side():
    small, large = (100, 100, 110, 120), (100, 100, 300, 300)
    assert least_overlaps(np.array([small, large], float)) == pytest.approx([200 / 600, 0.5])
    around = [(left - 5, top - 5, right + 5, bottom + 5) for left, top, right, bottom in (small, large)]
    for truth, found in zip((small, large), around, strict=True):
        assert det_precision([answers([found], [0], [1.0])], [made([truth], [0])], 1)[0] == 100


def test_what_is_set_aside_counts_neither_way():
    truth = made([(0, 0, 50, 50), (100, 100, 150, 150)], [0, 0], [False, True])
    found = answers([(100, 100, 150, 150), (0, 0, 50, 50)], [0, 0], [0.9, 0.8])
    matches = match_det([found], [truth], 0)
    assert matches.counted.tolist() == [False, True]
    assert matches.average_precision("area") == 100


def test_localization_agrees_with_its_definition_written_as_loops():
    for seed in range(300):
        rng = random.Random(seed)
        guesses, objects, missed = [], [], 0
        for _ in range(5):
            label, boxes = rng.randrange(3), [box_of(rng, 9) for _ in range(rng.randrange(1, 3))]
            told = [rng.choice(boxes) if rng.random() < 0.3 else box_of(rng, 9) for _ in range(6)]
            labels = [rng.randrange(3) for _ in told]
            objects.append(made(boxes, [label] * len(boxes)))
            guesses.append(answers(told, labels, [1.0] * 6))
            error = 1
            for guess, box in list(zip(labels, told, strict=True))[:5]:
                for other in boxes:
                    if guess == label and shared(box, other) >= Fraction(1, 2):
                        error = 0
            missed += error
        assert localization_error(guesses, objects) == pytest.approx(20 * missed)
    assert localization_error(guesses, objects, k=1) >= localization_error(guesses, objects)
    with pytest.raises(ValueError, match="no images"):
        localization_error([], [])
