"""Outlines become the pixels that the official tools make of them; lengths that lie are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as official

from residual.data.coco import read_coco
from residual.data.objects import from_masks, objects, with_masks
from residual.data.outlines import Runs, as_runs, columns_of, mask_of, read_outline, spread

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'
HEIGHT, WIDTH = 24, 31


def drawn(told: Any, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    outline = read_outline(told, height, width)
    assert outline is not None
    return mask_of(outline, height, width)


def officially(told: Any, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    parts = official.frPyObjects(told, height, width)
    return official.decode(official.merge(parts) if isinstance(parts, list) else parts).astype(bool)


corners = st.lists(st.floats(-10, 40, width=32), min_size=3, max_size=8).flatmap(
    lambda across: st.lists(st.floats(-10, 32, width=32), min_size=len(across), max_size=len(across)).map(
        lambda down: [value for corner in zip(across, down, strict=True) for value in corner]
    )
)


@settings(max_examples=150, deadline=None)
@given(lengths=st.lists(st.integers(0, 60), max_size=9))
def test_only_the_columns_of_runs_are_drawn(lengths: list[int]):
    lengths = [*lengths, HEIGHT * WIDTH - sum(lengths)]
    mask = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(WIDTH, HEIGHT).T
    outline = Runs(np.array(lengths, np.uint32))
    left, columns = columns_of(outline, HEIGHT, WIDTH)
    assert np.array_equal(mask_of(outline, HEIGHT, WIDTH), mask)
    assert np.array_equal(columns, mask[:, left : left + columns.shape[1]])
    assert np.count_nonzero(columns) == np.count_nonzero(mask)
    if (box := spread(mask)) is not None and 0 not in lengths[1:]:
        assert (left, left + columns.shape[1]) == (box[0], box[2])


@settings(max_examples=150, deadline=None)
@given(told=st.lists(corners, min_size=1, max_size=3))
def test_polygons_become_the_pixels_of_pycocotools(told: list[list[float]]):
    assert (drawn(told) == officially(told)).all()


masks = st.binary(min_size=HEIGHT * WIDTH, max_size=HEIGHT * WIDTH).map(
    lambda data: np.frombuffer(data, np.uint8).reshape(HEIGHT, WIDTH) > 150
)


@settings(max_examples=60, deadline=None)
@given(mask=masks)
def test_runs_in_numbers_and_in_letters_are_the_mask_that_pycocotools_wrote(mask: np.ndarray):
    letters = official.encode(np.asfortranarray(mask, np.uint8))
    told = {"size": [HEIGHT, WIDTH], "counts": letters["counts"].decode()}
    assert (drawn(told) == mask).all()
    told["counts"] = as_runs(mask).lengths.tolist()
    assert (drawn(told) == mask).all()
    assert (officially(told) == mask).all()
    assert (mask_of(as_runs(mask), HEIGHT, WIDTH) == mask).all()


@pytest.mark.parametrize("fill", [False, True])
def test_a_mask_of_one_colour_has_runs_too(fill: bool):
    mask = np.full((3, 5), fill)
    assert (mask_of(as_runs(mask), 3, 5) == fill).all()
    assert spread(mask) == ((0, 0, 5, 3) if fill else None)


def test_large_masks_have_long_letters():
    mask = np.zeros((900, 1100), bool)
    mask[100:850, 300:301] = mask[3:4, 900:] = True
    told = {"size": [900, 1100], "counts": official.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()}
    assert (drawn(told, 900, 1100) == mask).all()


SIZE = [HEIGHT, WIDTH]
AREA = HEIGHT * WIDTH


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"size": SIZE, "counts": [AREA + 1]}, "do not add up"),
        ({"size": SIZE, "counts": [AREA - 1]}, "do not add up"),
        ({"size": SIZE, "counts": []}, "do not add up"),
        ({"size": SIZE, "counts": [AREA + 1, -1]}, "below 0"),
        ({"size": SIZE, "counts": [2**63]}, "beyond any image"),
        ({"size": SIZE, "counts": [True, AREA - 1]}, "neither whole numbers"),
        ({"size": SIZE, "counts": [0.5] * 4}, "neither whole numbers"),
        ({"size": SIZE, "counts": None}, "neither whole numbers"),
        ({"size": SIZE, "counts": ""}, "not those of COCO"),
        ({"size": SIZE, "counts": "\x00"}, "not those of COCO"),
        ({"size": SIZE, "counts": "é"}, "not those of COCO"),
        ({"size": SIZE, "counts": "o"}, "in the middle of a number"),
        ({"size": SIZE, "counts": "o" * 9 + "0"}, "more than 7 letters"),
        ({"size": SIZE, "counts": "O" * 50}, "below 0"),
        ({"size": SIZE, "counts": "1" * 500_000}, "too many"),
        ({"size": [WIDTH, HEIGHT], "counts": [AREA]}, "for a size of"),
        ({"size": "x", "counts": [AREA]}, "for a size of"),
        ({}, "for a size of None"),
        ([[1, 2, 3, 4]], "three corners or more"),
        ([[1, 2, 3, 4, 5, 6, 7]], "two numbers each"),
        ([[1, 2, 3, 4, 5, "6"]], "no number"),
        ([[1, 2, 3, 4, 5, True]], "no number"),
        ([[1, 2, 3, 4, 5, float("nan")]], "far from the image"),
        ([[1, 2, 3, 4, 5, 1e300]], "far from the image"),
        ([[1, 2, 3, 4, 5, 10**400]], "beyond all numbers"),
        ([[0, 0, 30, 20] * 20_000], "pixels around"),
        ([3], "three corners"),
        ("polygon", "neither polygons nor runs"),
    ],
)
def test_outlines_that_lie_are_refused_in_words(told: Any, reason: str):
    with pytest.raises(ValueError, match=reason):
        read_outline(told, HEIGHT, WIDTH)


def test_no_outline_is_none_and_a_vast_image_has_none():
    assert read_outline(None, 5, 5) is None
    assert read_outline([], 5, 5) is None
    with pytest.raises(ValueError, match="megapixels"):
        read_outline({"size": [10**5, 10**5], "counts": [10**10]}, 10**5, 10**5)


def test_real_annotations_have_the_masks_of_pycocotools(shared_data: Path):
    path = shared_data / "coco_small" / "annotations" / "instances_val.json"
    found, told = read_coco(path), json.loads(path.read_text())
    for number, image in enumerate(told["images"]):
        height, width = image["height"], image["width"]
        theirs = [
            officially(each["segmentation"], height, width)
            for each in told["annotations"]
            if each["image_id"] == image["id"]
        ]
        ours = with_masks(found.objects[number], height, width).masks
        assert ours is not None
        assert len(ours) == len(theirs)
        assert all((own == other).all() for own, other in zip(ours, theirs, strict=True))


def test_an_object_without_outline_has_no_mask_and_the_refusal_says_so():
    with pytest.raises(ValueError, match="object 1 has a box but no outline"):
        with_masks(objects([[0, 0, 2, 2]], [0]), 4, 4)
    whole = objects([[0, 0, 2, 2]], [0], outlines=[Runs(np.array([16], np.uint32))])
    with pytest.raises(ValueError, match="GB"):
        with_masks(whole, 40_000, 40_000)


def test_objects_of_masks_have_their_boxes_and_areas():
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:7] = True
    found = from_masks([mask])
    assert found.boxes.tolist() == [[3, 2, 7, 4]]
    assert found.areas.tolist() == [8]
    assert (with_masks(found, 6, 8).masks == mask).all()


def test_parts_of_objects_that_differ_in_length_cannot_be():
    with pytest.raises(AssertionError, match="one of each"):
        objects([[0, 0, 1, 1]], [])
    with pytest.raises(AssertionError, match="one of each"):
        objects([[0, 0, 1, 1], [0, 0, 2, 2]], [0, 1], [False])
