"""The worst mistakes of planted answers: which they are, in which order, and what is seen of them."""

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from residual.data.objects import ObjectImages
from residual.data.objects import objects as made
from residual.detect.detections import Detections
from residual.detect.precision import match
from residual.detect.worst import pictured, worst


def planted() -> tuple[list[Detections], ObjectImages]:
    """One image, a mistake of each cause on it."""
    boxes = [(0, 0, 10, 10), (40, 40, 60, 60), (80, 0, 100, 20), (0, 70, 30, 100)]
    images = ObjectImages(
        paths=(), names=("planted",), sizes=((128, 128),), objects=(made(boxes, [0, 1, 2, 0]),),
        classes=("cat", "dog", "tree"), origin="planted", pixels=(np.full((128, 128, 3), 90, np.uint8),),
    )  # fmt: skip
    told = [
        ((0, 0, 10, 10), 0, 0.99),
        ((0, 0, 10, 9), 0, 0.9),  # twice
        ((40, 40, 60, 60), 2, 0.8),  # of another class
        ((90, 0, 110, 20), 2, 0.7),  # at a poor place
        ((90, 10, 110, 30), 0, 0.65),  # both
        ((110, 110, 120, 120), 1, 0.6),  # nothing
        ((0, 70, 30, 100), 0, 0.4),  # right, but not sure
    ]
    found = [np.array(each, float) for each in zip(*told, strict=True)]
    return [Detections(boxes=found[0], labels=found[1].astype(np.int64), scores=found[2])], images


def test_mistakes_come_surest_first_each_with_its_cause_and_a_picture():
    detections, images = planted()
    matches = [match(detections, images.objects, label) for label in range(3)]
    rows = pictured(worst(matches, detections, images.objects, 24), detections, images)
    told = [(row["cause"], row["truth"], row["predicted"], row["probability"]) for row in rows]
    assert told == [
        ("duplicate", "cat", "cat", 0.9),
        ("classification", "dog", "tree", 0.8),
        ("localization", "tree", "tree", 0.7),
        ("both", "tree", "cat", 0.65),
        ("background", None, "dog", 0.6),
        ("missed", "cat", None, None),  # the largest first
        ("missed", "dog", None, None),
        ("missed", "tree", None, None),
    ]
    assert [row["overlap"] for row in rows] == pytest.approx([0.9, 1, 1 / 3, 1 / 7, 0, 0, 1, 1 / 3])
    for row in rows:
        picture = Image.open(BytesIO(base64.b64decode(row["png"])))
        assert max(picture.size) <= 320
        seen = {tuple(pixel) for pixel in np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()}
        assert any(red > 200 and green < 90 for red, green, _ in seen) == (row["predicted"] is not None)
        assert any(green > 180 and red < 90 for red, green, _ in seen) == (row["cause"] != "background")


def test_of_few_mistakes_a_quarter_is_kept_for_what_was_missed():
    detections, images = planted()
    matches = [match(detections, images.objects, label) for label in range(3)]
    assert [one.cause for one in worst(matches, detections, images.objects, 4)][2:] == ["localization", "missed"]
    assert [one.cause for one in worst(matches, detections, images.objects, 0)] == []
