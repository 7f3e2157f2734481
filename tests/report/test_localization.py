"""The page of a localizer, made of records that its own evaluation wrote of drawn scenes and imagined answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from residual.data.scenes import draw_scenes
from residual.detect.detections import Detections
from residual.detect.localizer_evaluation import localization_evaluation
from residual.report import write

Make = Callable[..., Path]
Read = Callable[[Path], Any]
IMAGES = 40
LOCALIZER = {"task": "localization", "model": {"name": "localizer_small"}, "procedure": {"side": 96, "longest": 500}}
PARTS = {"scored": 0.7, "placed": 0.4, "scored_again": 0.5, "placed_again": 0.2}


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """evaluation.json of an imagined localizer: a place is moved, and of five classes the true one is often first."""
    rng = np.random.default_rng(0)
    images = draw_scenes(IMAGES, size=96, seed=2, most=1)
    given, guesses = [], []
    for truth in images.objects:
        moved = truth.boxes[:1] + rng.normal(0, 8, 4)
        box = np.sort(moved.reshape(2, 2), axis=0).reshape(1, 4)
        others = rng.permutation(np.delete(np.arange(10), truth.labels[0]))[:4]
        place = int(rng.choice(6, p=[0.6, 0.1, 0.1, 0.05, 0.05, 0.1]))
        labels = np.insert(others, place, truth.labels[0])[:5] if place < 5 else others
        given.append(Detections(boxes=box, labels=truth.labels[:1], scores=np.ones(1)))
        scores = np.sort(rng.random(len(labels)))[::-1]
        guesses.append(Detections(boxes=box.repeat(len(labels), axis=0), labels=labels, scores=scores))
    found = localization_evaluation(given, guesses, images, split="validation", seconds_per_image=0.25)
    return dict(json.loads(json.dumps(found)))


def test_the_numbers_are_there(make_detector: Make, trained: Make, read_page: Read, measured: dict[str, Any]):
    run = trained(make_detector(measured, **LOCALIZER), PARTS, look="validation_error", level=9.0)
    file = write(run)
    report, text = read_page(file), file.read_text()
    words = report.words
    low, high = measured["interval"]
    alone = measured["classification"]
    assert f"Localization error with the class given, on {IMAGES} images of the validation set" in words
    assert f"95 % interval {low:.2f} to {high:.2f} %" in words
    assert f"the class is given {measured['given_class_error']:.2f} % –" in words
    assert f"first answer {measured['top1_error']:.2f} % {alone['top1_error']:.2f} %" in words
    assert f"best of five answers {measured['top5_error']:.2f} % {alone['top5_error']:.2f} %" in words
    assert "looked at whole, at a shorter side of 96 pixels" in words
    assert "judged again by the second network" in words
    assert "the localizer tells itself" in words
    assert "What this report lacks" not in words
    for row in measured["per_class"]:
        error = "–" if row["error"] is None else f"{row['error']:.1f} %"
        assert f"{row['class']} {row['images']} {error}" in words
    for label in ("all", "score", "box", "score again", "box again", "validation"):
        assert text.count(f">{label}\u2002") == 2, "once wide, once narrow"
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in report.addresses)
    assert sum(address.startswith("data:") for address in report.addresses) == len(measured["mistakes"]) > 5
    assert len(set(report.ids)) == len(report.ids)
    assert {address[1:] for address in report.addresses if address.startswith("#")} <= set(report.ids)


def test_a_mistake_is_one_of_class_or_of_place(make_detector: Make, read_page: Read, measured: dict[str, Any]):
    words = read_page(write(make_detector(measured, **LOCALIZER))).words
    for each in measured["mistakes"]:
        title = {"class": "Wrong class", "place": "Poor place"}[each["cause"]]
        assert f"{title} truth {each['truth']} answer {each['predicted']}" in words


def test_whose_classes_and_which_sides_are_told(make_detector: Make, read_page: Read, measured: dict[str, Any]):
    found = measured | {"classes_from": "resnet101", "sides": [224, 1000], "second": False}
    words = read_page(write(make_detector(found, **LOCALIZER))).words
    assert "The classes are told by resnet101" in words
    assert "shorter side of 224, 1,000 pixels" in words
    assert "there was no second network" in words


def test_a_run_that_has_not_ended_says_what_is_missing(make_detector: Make, read_page: Read):
    words = read_page(write(make_detector(None, **LOCALIZER))).words
    assert "Nothing has been measured yet" in words
    assert "the localizer was not evaluated" in words
    assert "side 96" in words, "the procedure as run.json has it"


def test_many_classes_open_with_the_hardest(make_detector: Make, read_page: Read, measured: dict[str, Any]):
    rows = [{"class": f"<b>{n}", "images": 50, "error": n / 10 if n != 7 else None} for n in range(1000)]
    words = read_page(write(make_detector(measured | {"per_class": rows, "mistakes": []}, **LOCALIZER))).words
    assert "Hardest classes Class Images Error <b>999 50 99.9 % <b>998" in words
    assert "All 1,000 classes" in words


def test_an_evaluation_of_the_headline_alone_says_what_it_lacks(make_detector: Make, read_page: Read):
    found = {"task": "localization", "split": "test", "images": 3, "given_class_error": 0.0}
    words = read_page(write(make_detector(found, **LOCALIZER | {"procedure": {"sides": 4}}))).words
    for lack in ("has no interval", "was not measured", "no errors per class"):
        assert lack in words
    with pytest.raises(ValueError, match=r"evaluation\.json.*given_class_error"):
        write(make_detector({"split": "test", "images": 3}, **LOCALIZER))
