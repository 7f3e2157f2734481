import numpy as np

from residual.data.objects import objects as made
from residual.detect.detections import Detections
from residual.detect.mistakes import CAUSES, causes, confusion

TRUTH = [made([(0, 0, 10, 10), (40, 40, 60, 60), (80, 0, 90, 10)], [0, 1, 2], [False, False, True])]


def answers(*told: tuple[tuple[float, float, float, float], int, float]) -> list[Detections]:
    boxes, labels, scores = zip(*told, strict=True) if told else ((), (), ())
    return [
        Detections(
            boxes=np.array(boxes, float).reshape(-1, 4),
            labels=np.array(labels, np.int64),
            scores=np.array(scores, float),
        )
    ]


def test_each_planted_mistake_has_its_cause():
    planted = {
        "classification": ((0, 0, 10, 10), 1, 0.3),
        "localization": ((5, 0, 15, 10), 0, 0.3),
        "both": ((5, 0, 15, 10), 2, 0.3),
        "background": ((20, 20, 30, 30), 0, 0.3),
        "duplicate": ((0, 0, 10, 9), 0, 0.3),
    }
    right = [((0, 0, 10, 10), 0, 0.9), ((40, 40, 60, 60), 1, 0.8)]
    assert causes(answers(*right), TRUTH, 3) == dict.fromkeys(CAUSES, 0)
    for name, mistake in planted.items():
        found = causes(answers(*right, mistake), TRUTH, 3)
        assert found == dict.fromkeys(CAUSES, 0) | {name: 1}, name


def test_what_is_not_found_is_missed_and_difficult_objects_are_not():
    assert causes(answers(), TRUTH, 3)["missed"] == 2
    assert causes(answers(((0, 0, 10, 10), 0, 0.2)), TRUTH, 3, score=0.5)["missed"] == 2


def test_the_confusion_matrix_counts_every_object_and_every_answer_once():
    found = answers(
        ((0, 0, 10, 10), 1, 0.9),  # an object of class 0 taken for 1
        ((0, 0, 10, 10), 0, 0.8),  # too late: nothing left there
        ((80, 0, 90, 10), 2, 0.7),  # a difficult object: not counted
        ((40, 40, 60, 60), 1, 0.1),  # not sure enough
    )
    expected = np.zeros((4, 4), np.int64)
    expected[0, 1] = expected[3, 0] = expected[1, 3] = 1
    assert (confusion(found, TRUTH, 3) == expected).all()
