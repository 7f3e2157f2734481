"""The twelve numbers are those of the official pycocotools, for boxes and for masks."""

import contextlib
import io
import random
from dataclasses import replace

import numpy as np
import pytest

from residual.data.objects import Objects
from residual.data.objects import objects as made
from residual.detect.coco import NUMBERS, as_answers, as_coco, coco_numbers
from residual.detect.detections import Detections

pytest.importorskip("faster_coco_eval", reason="needs the extra `detect`")


def case(seed: int, images: int = 12, side: int = 160) -> tuple[list[Detections], list[Objects]]:
    rng = random.Random(seed)

    def box() -> tuple[float, float, float, float]:
        left, top = rng.uniform(0, side * 0.7), rng.uniform(0, side * 0.7)
        return left, top, rng.uniform(left + 3, side), rng.uniform(top + 3, side)

    def moved(given: tuple[float, float, float, float]) -> tuple[float, ...]:
        shift = [rng.gauss(0, 4) for _ in range(2)]
        return given[0] + shift[0], given[1] + shift[1], given[2] + shift[0], given[3] + shift[1]

    def masks(boxes: np.ndarray) -> np.ndarray:
        rows, columns = np.mgrid[:side, :side] + 0.5
        return np.stack([((columns - (b[0] + b[2]) / 2) / (b[2] - b[0]) * 2) ** 2
                         + ((rows - (b[1] + b[3]) / 2) / (b[3] - b[1]) * 2) ** 2 < 1 for b in boxes])  # fmt: skip

    detections, objects = [], []
    for _ in range(images):
        here = [box() for _ in range(rng.randrange(6))]
        labels = [rng.randrange(3) for _ in here]
        crowds = [rng.random() < 0.1 for _ in here]
        truth = made(here, labels, crowds)
        if here:
            outlines = masks(truth.boxes)
            truth = replace(truth, masks=outlines, areas=outlines.sum((1, 2)).astype(float))
        objects.append(truth)
        found = [moved(b) for b in here for _ in range(rng.randrange(3))] + [box() for _ in range(rng.randrange(3))]
        boxes = np.array(found).reshape(-1, 4)
        detections.append(
            Detections(
                boxes=boxes,
                labels=np.array([rng.randrange(3) for _ in found], np.int64),
                scores=np.array([rng.random() for _ in found]),
                masks=masks(boxes) if found else None,
            )
        )
    return detections, objects


def official(detections, objects, of: str, most: int = 100) -> list[float]:
    from pycocotools import mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, **as_coco(objects, 3, of)}
        for annotation in truth.dataset["annotations"]:
            if of == "segm":
                annotation["segmentation"] = mask.frPyObjects(annotation["segmentation"], 160, 160)
        truth.createIndex()
        answers = as_answers(detections, of)
        for answer in answers:
            if of == "segm":
                answer["segmentation"] = mask.frPyObjects(answer["segmentation"], 160, 160)
        judge = COCOeval(truth, truth.loadRes(answers), of)
        judge.params.maxDets = [1, 10, most]
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return list(judge.stats)


@pytest.mark.parametrize("of", ["bbox", "segm"])
def test_the_numbers_are_those_of_pycocotools(of: str):
    pytest.importorskip("pycocotools", reason="the oracle is not installed")
    for seed in range(4):
        detections, objects = case(seed)
        ours = coco_numbers(detections, objects, 3, of=of)
        theirs = official(detections, objects, of)
        for name, value in zip(NUMBERS, theirs, strict=True):
            expected = None if value < 0 else pytest.approx(100 * value, abs=1e-4)
            assert ours[name] == expected, name
    assert 0 < ours["AP"] < 100


def test_more_than_a_hundred_objects_on_an_image_need_more_answers():
    corners = np.array([[12.0 * (n % 15), 12.0 * (n // 15)] for n in range(150)])
    truth = made(np.concatenate([corners, corners + 10], 1).tolist(), [0] * 150)
    found = Detections(boxes=truth.boxes, labels=truth.labels, scores=np.linspace(1, 0.5, 150))
    assert coco_numbers([found], [truth], 1)["AR 100"] == pytest.approx(100 * 100 / 150)
    assert coco_numbers([found], [truth], 1)["AP50"] == pytest.approx(100 * 67 / 101)  # of 101 points of recall
    assert coco_numbers([found], [truth], 1, most=150)["AP50"] == pytest.approx(100)
    assert coco_numbers([found], [truth], 1, most=120)["AR 100"] == pytest.approx(100 * 120 / 150)


def test_nothing_found_is_zero_and_masks_must_be_there():
    _, objects = case(1)
    nothing = Detections(boxes=np.zeros((0, 4)), labels=np.zeros(0, np.int64), scores=np.zeros(0))
    assert coco_numbers([nothing] * len(objects), objects, 3)["AP"] == 0
    bare = [replace(here, masks=None) for here in objects]
    with pytest.raises(ValueError, match="needs the masks"):
        coco_numbers([nothing] * len(objects), bare, 3, of="segm")
