"""What is recorded of a localizer: every number recomputed another way, from planted answers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from residual.data.objects import ObjectImages
from residual.data.scenes import draw_scenes
from residual.detect.card import card_of
from residual.detect.detections import Detections
from residual.detect.detector import Detector
from residual.detect.evaluation import evaluate_detector
from residual.detect.found import Found
from residual.detect.imagenet import localization_error
from residual.detect.localize import LocalizerDescription
from residual.detect.localizer_evaluation import classes_of, evaluate_localizer, localizing
from residual.detect.procedure import Procedure
from residual.models.description import Description

TRUNK = Description(block="basic", depths=(1, 1, 1, 1), widths=(4, 6, 8, 10), stem="imagenet", stem_width=4)
PLAIN = Procedure(side=64, longest=128)


def one_each(count: int) -> ObjectImages:
    """Images of one object each."""
    images = draw_scenes(count, size=64, most=1)
    return replace(images, objects=tuple(here.select(np.arange(1)) for here in images.objects))


def test_a_localizer_is_measured_with_the_class_given_and_with_its_own():
    images, rng = one_each(40), np.random.default_rng(0)
    pixels = {picture.tobytes(): number for number, picture in enumerate(images.pixels or ())}
    classes = len(images.classes)

    def place(number: int, label: int) -> list[float]:
        shift = np.random.default_rng((number, label)).choice([0.0, 20.0], p=[0.7, 0.3])
        return (images.objects[number].boxes[0] + shift).tolist()

    orders = [rng.permutation(classes)[:5] for _ in range(40)]

    def find(picture: np.ndarray) -> Found:
        number = pixels[picture.tobytes()]
        order = orders[number].tolist()
        scores = torch.linspace(0.9, 0.1, 5) - 0.001 * number
        return Found(torch.tensor([place(number, label) for label in order]), torch.tensor(order), scores)

    asked = []

    def place_of(picture: np.ndarray, labels: list[int]) -> Found:
        asked.append(pixels[picture.tobytes()])
        return Found(torch.tensor([place(asked[-1], labels[0])]), torch.tensor(labels), torch.ones(1))

    found = evaluate_localizer(find, place_of, images, split="test", sides=(32, 64), second=False)
    truth = classes_of(images)
    assert asked == [number for number, label in enumerate(truth) if label not in orders[number]]
    guesses = [find(picture).detections() for picture in images.pixels or ()]
    assert found["top1_error"] == localization_error(guesses, images.objects, 1)
    assert found["top5_error"] == localization_error(guesses, images.objects, 5)
    given = [
        Detections(boxes=np.array([place(number, label)]), labels=np.array([label]), scores=np.ones(1))
        for number, label in enumerate(truth)
    ]
    assert found["given_class_error"] == pytest.approx(localization_error(given, images.objects, 1))
    assert found["classification"]["top5_error"] == 100 * len(asked) / 40
    assert found["interval"][0] <= found["given_class_error"] <= found["interval"][1]
    weighted = sum(row["images"] * row["error"] for row in found["per_class"] if row["images"])
    assert weighted / 40 == pytest.approx(found["given_class_error"])
    assert (found["sides"], found["second"], found["classes_from"]) == ([32, 64], False, "itself")
    probabilities = [row["probability"] for row in found["mistakes"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert {row["cause"] for row in found["mistakes"]} == {"class", "place"}
    assert all((row["truth"] == row["predicted"]) == (row["cause"] == "place") for row in found["mistakes"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_localization_wants_one_class_on_an_image():
    images = draw_scenes(20, size=64)
    with pytest.raises(ValueError, match=r"but scenes:\d+ has \w+, \w+"):
        classes_of(images)


def small_localizer() -> Detector:
    torch.manual_seed(0)
    classes = draw_scenes(1).classes
    described = LocalizerDescription(trunk=replace(TRUNK, classes=len(classes)), sizes=(16.0,), width=8, side=16)
    card = card_of(described, name="small", classes=classes, mean=(0.5,) * 3, std=(0.25,) * 3, procedure=PLAIN)
    return Detector(card).eval()


def test_a_localizer_of_both_steps_or_one_at_several_scales_and_with_classes_of_another():
    images, localizer = one_each(4), small_localizer()
    found = evaluate_detector(localizer, images, split="test")
    assert (found["task"], found["images"], found["second"], found["sides"]) == ("localization", 4, True, [])
    truth = iter(classes_of(images))
    find, place = localizing(localizer, (48, 64), second=False, classify=lambda _: [next(truth)])
    other = evaluate_localizer(find, place, images, split="test", second=False, sides=(48, 64), classes_from="oracle")
    assert other["classification"] == {"top1_error": 0, "top5_error": 0}
    assert other["top1_error"] == other["given_class_error"]
    pixels = (images.pixels or ())[0]
    one, _ = localizing(localizer, second=False)
    scores = one(pixels).scores
    assert (scores[:-1] >= scores[1:]).all()
    both = localizing(localizer)[0](pixels)
    assert set(one(pixels).labels.tolist()) == set(both.labels.tolist())
    assert not torch.equal(one(pixels).boxes, both.boxes)
