"""Boxes and masks go where the pixels go."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.data.objects import Objects, objects, with_masks
from residual.data.scenes import draw_scenes
from residual.data.vary_objects import (
    ObjectAugmentation,
    boxes_of,
    cropped,
    mirrored,
    resized,
    resized_to,
    tight,
    vary,
)

SCENES = 12
EVERYTHING = ObjectAugmentation(shorter=(60, 140), longer=180, crop=0.8, jitter=0.4)


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, Objects]]:
    """Wide and high pictures with masks: drawn scenes, cut."""
    drawn = draw_scenes(SCENES, size=120, seed=3)
    assert drawn.pixels is not None
    cut = []
    for number, (pixels, here) in enumerate(zip(drawn.pixels, drawn.objects, strict=True)):
        window = (0, 0, 120, 90) if number % 2 else (10, 0, 100, 120)
        cut.append(cropped(pixels, with_masks(here, 120, 120), window, visible=0))
    return cut


def same(first: Objects, second: Objects) -> bool:
    return (
        np.array_equal(first.boxes, second.boxes)
        and np.array_equal(first.labels, second.labels)
        and np.array_equal(first.aside, second.aside)
        and np.array_equal(first.areas, second.areas)
        and np.array_equal(first.masks, second.masks)
    )


def test_flipping_twice_is_the_identity(scenes):
    for pixels, here in scenes:
        once, there = mirrored(pixels, here)
        again, back = mirrored(once, there)
        assert not np.array_equal(once, pixels)
        assert np.array_equal(again, pixels)
        assert same(back, here)


def test_a_flipped_box_is_the_box_of_the_flipped_mask(scenes):
    for pixels, here in scenes:
        _, there = mirrored(pixels, here)
        assert np.array_equal(boxes_of(there.masks)[0], there.boxes)


@pytest.mark.parametrize(("shorter", "longer"), [(90, 400), (200, 400), (300, 400), (200, 211)])
def test_an_enlarged_box_is_the_box_of_the_enlarged_mask_within_half_a_pixel(scenes, shorter: int, longer: int):
    for pixels, here in scenes:
        smaller, there = resized(pixels, here, shorter=shorter, longer=longer)
        assert (
            smaller.shape[:2] == there.masks.shape[1:] == resized_to(*pixels.shape[:2], shorter=shorter, longer=longer)
        )
        boxes, seen = boxes_of(there.masks)
        assert np.abs(boxes - there.boxes)[seen].max(initial=0) <= 0.5 + 1e-9
        assert there.areas.sum() == pytest.approx(there.masks.sum(), rel=0.02)


def test_the_sizes_of_faster_rcnn():
    assert resized_to(375, 500, shorter=600, longer=1000) == (600, 800)
    assert resized_to(300, 900, shorter=600, longer=1000) == (333, 1000)
    assert resized_to(900, 300, shorter=600, longer=1000) == (1000, 333)


def test_boxes_of_masks_equal_boxes_after_every_change(scenes):
    for visit in range(8):
        for index, (pixels, here) in enumerate(scenes):
            seen, there = vary(pixels, here, EVERYTHING, 7, visit, index)
            assert seen.dtype == np.uint8
            assert seen.shape[:2] == there.masks.shape[1:]
            boxes, any_left = boxes_of(there.masks)
            assert any_left.all()
            assert np.array_equal(boxes, there.boxes)
            assert np.isfinite(there.areas).all()


def test_a_change_is_a_pure_function_of_seed_visit_and_index(scenes):
    pixels, here = scenes[0]

    def told(*which: int) -> bytes:
        seen, there = vary(pixels, here, EVERYTHING, *which)
        return repr(seen.shape).encode() + seen.tobytes() + there.boxes.tobytes()

    assert told(1, 2, 3) == told(1, 2, 3)
    assert len({told(1, 2, 3), told(2, 2, 3), told(1, 3, 3), told(1, 2, 4)}) == 4


def test_masks_change_nothing_but_the_tightness_of_boxes(scenes):
    flip_and_size = ObjectAugmentation(shorter=(120, 160), longer=220)
    for index, (pixels, here) in enumerate(scenes):
        seen, there = vary(pixels, here, flip_and_size, 7, 0, index)
        also, bare = vary(pixels, replace(here, masks=None), flip_and_size, 7, 0, index)
        assert np.array_equal(seen, also)
        assert np.abs(there.boxes - bare.boxes).max() <= 0.5 + 1e-9


def test_one_rule_for_what_a_window_leaves_of_a_box():
    pixels = np.zeros((100, 100, 3), np.uint8)
    here = objects([[0, 0, 40, 40], [30, 30, 70, 70], [48, 10, 58, 20], [90, 90, 99, 99]], [0, 1, 2, 3])
    seen, left = cropped(pixels, here, (0, 0, 50, 50), visible=0.3)
    assert seen.shape == (50, 50, 3)
    assert left.boxes.tolist() == [[0, 0, 40, 40], [30, 30, 50, 50], [48, 10, 50, 20]]
    assert left.labels.tolist() == [0, 1, 2]
    assert left.aside.tolist() == [False, True, True]  # of the second a quarter, of the third a fifth
    assert left.areas.tolist() == [1600, 400, 20]


def test_a_window_moves_boxes_and_masks_alike(scenes):
    for pixels, here in scenes:
        seen, left = cropped(pixels, here, (20, 15, 80, 75), visible=0.5)
        assert np.array_equal(seen, pixels[15:75, 20:80])
        assert np.array_equal(boxes_of(left.masks)[0], left.boxes)
        assert left.masks.sum() == here.masks[:, 15:75, 20:80].sum()


def test_a_random_window_keeps_an_object_to_be_found(scenes):
    always = replace(EVERYTHING, crop=1.0, least_side=0.1)
    for index, (pixels, here) in enumerate(scenes):
        for visit in range(5):
            assert not vary(pixels, here, always, 0, visit, index)[1].aside.all()


def test_an_image_without_objects_is_varied_too():
    pixels = np.zeros((50, 60, 3), np.uint8)
    seen, there = vary(pixels, objects([], []), EVERYTHING, 0, 0, 0)
    assert len(there) == 0
    assert min(seen.shape[:2]) >= 60 or max(seen.shape[:2]) == 180
    empty = replace(objects([], []), masks=np.zeros((0, 50, 60), bool))
    assert len(tight(vary(pixels, empty, EVERYTHING, 0, 0, 0)[1])) == 0


sides = st.integers(1, 60)


@settings(max_examples=100, deadline=None)
@given(height=sides, width=sides, shorter=st.integers(1, 80), data=st.data())
def test_a_resized_rectangle_is_on_the_image_and_its_mask_is_too_within_half_a_pixel(
    height: int, width: int, shorter: int, data: st.DataObject
):
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    mask = np.zeros((1, height, width), bool)
    mask[0, top:bottom, left:right] = True
    here = replace(objects([[left, top, right, bottom]], [0]), masks=mask)
    seen, there = resized(np.zeros((height, width, 3), np.uint8), here, shorter=shorter, longer=100)
    assert (there.boxes[0, 2:] <= [seen.shape[1] + 1e-9, seen.shape[0] + 1e-9]).all()
    boxes, left_over = boxes_of(there.masks)
    assert not left_over[0] or np.abs(boxes - there.boxes).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    "changes",
    [{"shorter": (0, 5)}, {"shorter": (9, 5)}, {"shorter": (600, 1200)}, {"crop": 1.5}, {"least_side": 0.0},
     {"visible": -1.0}, {"jitter": 2.0}],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError):
        ObjectAugmentation(**changes)
