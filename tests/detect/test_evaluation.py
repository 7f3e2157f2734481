"""What is recorded of a detector: every number recomputed another way, from planted answers."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from residual.data.objects import ObjectImages, Objects, with_masks
from residual.data.objects import objects as made
from residual.data.scenes import draw_scenes
from residual.detect.card import card_of
from residual.detect.coco import coco_numbers
from residual.detect.detections import Detections, outlines_of
from residual.detect.detector import Detector, find_together
from residual.detect.evaluation import curve, evaluate_detector, evaluate_finding, evaluation, interval
from residual.detect.faster_rcnn import FasterRCNN
from residual.detect.found import Found
from residual.detect.masks import MaskDescription
from residual.detect.mistakes import causes
from residual.detect.precision import match, mean_average_precision
from residual.detect.procedure import Procedure
from residual.detect.regions import RegionDescription

PLAIN = Procedure(side=64, longest=128)
TOLD = {"split": "test", "procedure": PLAIN, "seconds_per_image": 0.1}


def answers(images: ObjectImages, seed: int = 0) -> list[Detections]:
    """What a middling detector would say: most objects, moved a little, some of another class, some twice, some air."""
    rng = np.random.default_rng(seed)
    found = []
    for here in images.objects:
        many = int(rng.integers(0, 3))
        which = np.concatenate([np.arange(len(here)), rng.integers(0, len(here), many)])[
            rng.random(len(here) + many) < 0.9
        ]
        boxes = here.boxes[which] + rng.normal(0, 4, (len(which), 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels = np.where(
            rng.random(len(which)) < 0.2, rng.integers(0, len(images.classes), len(which)), here.labels[which]
        )
        found.append(Detections(boxes=boxes, labels=labels, scores=rng.random(len(which))))
    return found


@pytest.fixture(scope="module")
def scenes() -> ObjectImages:
    """Thirty drawn images; some objects set aside."""
    images = draw_scenes(30, size=64)
    rng = np.random.default_rng(5)
    return replace(images, objects=tuple(replace(here, aside=rng.random(len(here)) < 0.1) for here in images.objects))


def test_every_number_is_that_of_the_function_that_defines_it(scenes: ObjectImages):
    detections, classes = answers(scenes), len(scenes.classes)
    found = evaluation(detections, scenes, **TOLD)
    mean, each = mean_average_precision(detections, scenes.objects, classes, form="area")
    mean07, each07 = mean_average_precision(detections, scenes.objects, classes)
    assert (found["map50"], found["voc07"]) == (mean, mean07)
    assert [row["ap50"] for row in found["per_class"]] == list(each)
    assert [row["voc07"] for row in found["per_class"]] == list(each07)
    assert found["coco"] == coco_numbers(detections, scenes.objects, classes)
    assert found["causes"]["counts"] == causes(detections, scenes.objects, classes, score=0.5)
    assert sum(found["causes"]["counts"].values()) > 10
    counted = sum(int((~here.aside).sum()) for here in scenes.objects)
    assert found["objects"] == counted == sum(row["objects"] for row in found["per_class"])
    assert sum(row["detections"] for row in found["per_class"]) == sum(map(len, detections))
    rows = np.array(found["confusion"]["counts"])
    assert rows[:-1].sum() == counted
    assert found["interval"][0] < found["map50"] < found["interval"][1]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_order_of_the_images_changes_no_number(scenes: ObjectImages):
    detections = answers(scenes)
    order = np.random.default_rng(1).permutation(len(scenes)).tolist()
    one = evaluation(detections, scenes, **TOLD, mistakes=6)
    other = evaluation([detections[place] for place in order], scenes.select(order), **TOLD, mistakes=6)
    assert one["interval"] == pytest.approx(other["interval"])
    for name in ("map50", "voc07", "confusion", "causes", "mistakes", "objects"):
        assert one[name] == other[name], name


def test_an_image_that_is_drawn_twice_counts_as_two():
    """The interval's resampling against a matching of the images that were drawn, done anew."""
    from residual.detect.evaluation import _precision_of

    images = draw_scenes(8, size=64, seed=3)
    detections, rng = answers(images, 3), np.random.default_rng(0)
    drawn = rng.multinomial(8, np.full(8, 1 / 8), 20)
    for label in range(len(images.classes)):
        one = match(detections, images.objects, label)
        counts = drawn @ np.array([(here.labels == label).sum() for here in images.objects])
        for row, todo, ours in zip(drawn, counts, _precision_of(one, drawn, counts), strict=True):
            some = np.repeat(np.arange(8), row).tolist()
            again = match([detections[place] for place in some], [images.objects[place] for place in some], label)
            expected = again.average_precision("area")
            assert again.objects == todo
            assert expected is None or 100 * ours == pytest.approx(expected)


def test_one_image_or_a_perfect_answer_leaves_no_doubt_in_the_resampling():
    images = draw_scenes(5, size=64)
    perfect = [Detections(boxes=o.boxes, labels=o.labels, scores=np.ones(len(o))) for o in images.objects]
    assert evaluation(perfect, images, **TOLD)["interval"] == [100, 100]
    detections = answers(images)
    one = [match(detections[:1], images.objects[:1], label) for label in range(len(images.classes))]
    low, high = interval(one, images.objects[:1], images.names[:1], seed=0)
    assert low == high


def test_the_interval_is_a_function_of_the_seed_and_narrows_with_images():
    widths = []
    for count in (10, 160):
        images = draw_scenes(count, size=48, seed=9)
        matches = [match(answers(images), images.objects, label) for label in range(len(images.classes))]
        low, high = interval(matches, images.objects, images.names, seed=4)
        assert (low, high) == interval(matches, images.objects, images.names, seed=4)
        assert (low, high) != interval(matches, images.objects, images.names, seed=5)
        widths.append(high - low)
    assert 0 < widths[1] < widths[0]


def test_a_long_curve_is_thinned_to_a_hundred_points_and_keeps_its_ends():
    rng = np.random.default_rng(0)
    boxes = np.arange(400)[:, None] * 20.0 + [0, 0, 10, 10]
    truth = made(boxes[:150], [0] * 150)
    found = Detections(boxes=boxes, labels=np.zeros(400, np.int64), scores=rng.random(400))
    whole = match([found], [truth], 0)
    points = curve(whole)
    recall, precision = whole.curve
    assert 50 < len(points["recall"]) == len(points["precision"]) <= 101
    assert (points["recall"][0], points["recall"][-1]) == (recall[0], recall[-1])
    assert set(zip(*points.values(), strict=True)) <= set(zip(recall, precision, strict=True))


def test_masks_are_kept_as_runs_and_measured_as_if_they_had_been_kept_whole():
    images = draw_scenes(6, size=48)
    rng = np.random.default_rng(2)
    dense = [with_masks(here, 48, 48) for here in images.objects]

    def said(here: Objects) -> Found:
        assert here.masks is not None
        worn = here.masks & (rng.random(here.masks.shape) < 0.9)
        scores = torch.tensor(rng.random(len(here)))
        return Found(torch.tensor(here.boxes), torch.tensor(here.labels), scores, outlines_of(worn))

    told = [said(here) for here in dense]
    left = iter(told)
    found = evaluate_finding(lambda _: next(left), images, split="test", procedure=PLAIN, masks=True)
    whole = [replace(each.detections(), masks=each.outlines and each.outlines.drawn()) for each in told]
    expected = coco_numbers(whole, dense, len(images.classes), of="segm")
    assert found["coco_masks"] == expected
    assert 0 < found["coco_masks"]["AP"] < 100
    bare = evaluate_finding(lambda _: told[0], images.select([0]), split="test", procedure=PLAIN)
    assert bare["coco_masks"] is None


def test_without_the_extra_coco_is_missing_and_says_why(scenes: ObjectImages, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    found = evaluation(answers(scenes), scenes, **TOLD, masks=True)
    assert (found["coco"], found["coco_masks"]) == (None, None)
    assert "residual[detect]" in found["coco_missing"]


def test_what_cannot_be_measured_is_refused(scenes: ObjectImages):
    nothing = replace(scenes, objects=tuple(here.select(np.zeros(len(here), bool)) for here in scenes.objects))
    with pytest.raises(ValueError, match="none of the 30 images of drawn scenes, seed 0 has an object that counts"):
        evaluation(answers(scenes), nothing, **TOLD)
    broken = Found(torch.full((1, 4), torch.nan), torch.zeros(1, dtype=torch.int64), torch.ones(1))
    with pytest.raises(ValueError, match="the answer to scenes:0 is not finite"):
        evaluate_finding(lambda _: broken, scenes, split="test", procedure=PLAIN)
    with pytest.raises(ValueError, match="tells boxes alone"):
        evaluate_finding(lambda _: Found(torch.ones(0, 4), *[torch.ones(0, dtype=torch.int64)] * 2), scenes,
                          split="test", procedure=PLAIN, masks=True)  # fmt: skip


@pytest.fixture
def small(make: Callable[..., FasterRCNN]) -> Callable[..., Detector]:
    """A small detector of the scenes' classes."""

    def made(**changes: object) -> Detector:
        net = make(classes=draw_scenes(1).classes, **changes).eval()
        card = card_of(
            net.description, name="small", classes=net.description.classes, mean=(0.5,) * 3, std=(0.25,) * 3,
            procedure=PLAIN,
        )  # fmt: skip
        return Detector(card, net)

    return made


def test_a_small_detector_is_measured_on_images_in_their_own_size(small: Callable[..., Detector]):
    images, told = draw_scenes(3, size=64), []
    detector = small(masks=MaskDescription(width=8))
    found = evaluate_detector(
        detector, images, split="validation", progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    detections = [detector.find(pixels).detections() for pixels in images.pixels or ()]
    assert found["map50"] == mean_average_precision(detections, images.objects, len(images.classes), form="area")[0]
    assert sum(row["detections"] for row in found["per_class"]) == sum(map(len, detections)) > 0
    assert found["coco_masks"] is not None
    assert found["coco_most"] == 100
    assert found["procedure"] == {
        "side": 64, "longest": 128, "sides": [], "widest": 2000, "refined": False, "voters": None, "shrink": True
    }  # fmt: skip
    assert found["seconds_per_image"] > 0


def test_all_answers_that_a_detector_may_give_count_in_cocos_numbers(
    small: Callable[..., Detector], monkeypatch: pytest.MonkeyPatch
):
    images, asked = draw_scenes(1, size=64), []
    monkeypatch.setattr("residual.detect.evaluation.coco_numbers", lambda *_, most, **__: asked.append(most))
    for most, counted in ((300, 300), (5, 100)):
        told = small(regions=RegionDescription(most=most, pooled=4))
        assert evaluate_detector(told, images, split="test")["coco_most"] == counted
    assert asked == [300, 100]


def test_several_detectors_are_measured_as_one_by_the_procedure_that_is_asked_for(small: Callable[..., Detector]):
    images = draw_scenes(2, size=64)
    improved = replace(PLAIN, sides=(48, 64), refined=True, voters=0.5)
    several = [small(), small()]
    torch.nn.init.normal_(several[1].net.head.score.weight, std=0.5)
    found = evaluate_detector(several, images, split="test", procedure=improved)
    detections = [find_together(several, pixels, improved).detections() for pixels in images.pixels or ()]
    again = evaluation(detections, images, split="test", procedure=improved, seconds_per_image=0)
    assert [row["detections"] for row in found["per_class"]] == [row["detections"] for row in again["per_class"]]
    assert found["mistakes"] == again["mistakes"]
    alone = evaluate_detector(several[0], images, split="test", procedure=improved)
    assert found["mistakes"] != alone["mistakes"]
