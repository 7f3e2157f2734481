"""Boxes and masks go where the pixels go."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.data import objects as objects_module
from residual.data.objects import Objects, from_masks, objects, with_masks
from residual.data.scenes import draw_scenes
from residual.data.vary_objects import (
    ObjectAugmentation,
    boxes_of,
    brought_to,
    cropped,
    mirrored,
    resized_to,
    tight,
    vary,
    windows_in,
)

SCENES = 12
EVERYTHING = ObjectAugmentation(shorter=(60, 140), longer=180, crop=0.8, jitter=0.4)
WINDOWS = ObjectAugmentation(shorter=(60, 140), longer=400, window=50, shrink=False)


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
        size = resized_to(*pixels.shape[:2], shorter=shorter, longer=longer)
        larger, there = brought_to(pixels, here, *size)
        assert larger.shape[:2] == there.masks.shape[1:] == size
        boxes, seen = boxes_of(there.masks)
        assert np.abs(boxes - there.boxes)[seen].max(initial=0) <= 0.5 + 1e-9
        assert there.areas.sum() == pytest.approx(there.masks.sum(), rel=0.02)


def test_the_sizes_of_faster_rcnn():
    assert resized_to(375, 500, shorter=600, longer=1000) == (600, 800)
    assert resized_to(300, 900, shorter=600, longer=1000) == (333, 1000)
    assert resized_to(900, 300, shorter=600, longer=1000) == (1000, 333)


@pytest.mark.parametrize("varied", [EVERYTHING, WINDOWS, replace(EVERYTHING, window=50)])
def test_boxes_of_masks_equal_boxes_after_every_change(scenes, varied):
    for visit in range(8):
        for index, (pixels, here) in enumerate(scenes):
            seen, there = vary(pixels, here, varied, 7, visit, index)
            assert seen.dtype == np.uint8
            assert seen.shape[:2] == there.masks.shape[1:]
            boxes, any_left = boxes_of(there.masks)
            assert any_left.all()
            assert np.array_equal(boxes, there.boxes)
            assert np.isfinite(there.areas).all()


@pytest.mark.parametrize("varied", [EVERYTHING, WINDOWS])
def test_a_change_is_a_pure_function_of_seed_visit_and_index(scenes, varied):
    pixels, here = scenes[0]

    def told(*which: int) -> bytes:
        seen, there = vary(pixels, here, varied, *which)
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


@pytest.fixture(scope="module")
def painted() -> tuple[np.ndarray, Objects]:
    """An image of 150 x 210 pixels on which every object has its own grey, with outlines."""
    rng, pixels, masks = np.random.default_rng(0), np.zeros((150, 210, 3), np.uint8), []
    for number in range(40):
        high, wide = rng.integers(5, 16, 2)
        top, left = rng.integers(0, 150 - high), rng.integers(0, 210 - wide)
        mask = np.zeros((150, 210), bool)
        mask[top : top + high, left : left + wide] = True
        pixels[mask], masks = 50 + 5 * number, [*(mask_ & ~mask for mask_ in masks), mask]
    masks = [mask for mask in masks if mask.any()]
    return pixels, from_masks(masks, [int(pixels[mask][0, 0]) for mask in masks])


def test_in_a_window_every_pixel_is_its_objects(painted):
    pixels, here = painted
    places = set()
    for visit in range(20):
        seen, there = vary(pixels, here, WINDOWS, 1, visit, 0, masks=True)  # at its own size: it is not made smaller
        assert seen.shape == (50, 50, 3)
        places.add(seen.tobytes())
        expected = np.zeros((50, 50), np.int64)
        for mask, label in zip(there.masks, there.labels, strict=True):
            expected[mask] = label
        assert np.array_equal(seen[..., 0], expected)
        assert np.array_equal(boxes_of(there.masks)[0], there.boxes)
        assert there.areas == pytest.approx(there.masks.sum((1, 2)))
    assert len(places) == 20


def test_an_enlarged_window_is_cut_where_its_objects_are(painted):
    pixels, here = painted
    enlarged = replace(WINDOWS, shorter=(300, 300), longer=1000, window=120)
    for visit in range(5):
        seen, there = vary(pixels, here, enlarged, 1, visit, 0, masks=True)
        assert seen.shape == (120, 120, 3)
        found = zip(there.masks, there.labels, strict=True)
        wrong = sum(int((seen[..., 0][mask] != label).sum()) for mask, label in found)
        assert wrong < 0.25 * there.masks.sum()  # pixels between two objects, or an object and nothing, are a mixture
        assert not (seen[..., 0][there.masks.any(0)] < 20).any()


def test_masks_drawn_in_a_window_are_those_drawn_before_it(painted):
    pixels, here = painted
    for varied in (WINDOWS, replace(WINDOWS, shorter=(200, 300)), replace(WINDOWS, crop=1.0), EVERYTHING):
        for visit in range(4):
            ahead = vary(pixels, with_masks(here, 150, 210), varied, 3, visit, 0)
            later = vary(pixels, here, varied, 3, visit, 0, masks=True)
            assert np.array_equal(ahead[0], later[0])
            assert same(ahead[1], later[1])


def test_a_window_larger_than_the_image_is_the_image(painted):
    pixels, here = painted
    whole = ObjectAugmentation(shorter=(100, 200), longer=260, shrink=False, flip=False)
    for visit in range(6):
        expected = vary(pixels, here, whole, 5, visit, 0, masks=True)
        found = vary(pixels, here, replace(whole, window=300), 5, visit, 0, masks=True)
        assert np.array_equal(found[0], expected[0])
        assert same(found[1], expected[1])
    seen, there = vary(pixels, here, replace(whole, shorter=(150, 150), window=180), 5, 0, 0, masks=True)
    assert seen.shape == (150, 180, 3)  # it is smaller on one side alone
    assert there.masks.shape[1:] == (150, 180)


def test_nothing_is_shrunk_but_what_passes_the_longer_side():
    kept = ObjectAugmentation(shorter=(40, 40), longer=100, shrink=False)
    for size, expected in [((20, 30), (40, 60)), ((50, 60), (50, 60)), ((90, 200), (45, 100)), ((20, 80), (25, 100))]:
        assert vary(np.zeros((*size, 3), np.uint8), objects([], []), kept, 0, 0, 0)[0].shape[:2] == expected


def test_windows_are_counted_by_the_size_that_an_image_is_brought_to():
    nuclei = ObjectAugmentation(shorter=(512, 512), longer=4000, window=256, shrink=False)
    assert [windows_in(*size, nuclei) for size in [(256, 256), (1024, 1024), (520, 696), (3, 3)]] == [4, 16, 6, 4]
    assert windows_in(5, 5, replace(nuclei, shorter=(100, 100))) == 1
    assert windows_in(1024, 1024, replace(nuclei, window=0)) == 1


def test_a_window_has_an_object_where_ten_tries_find_one():
    pixels, here = np.zeros((100, 100, 3), np.uint8), objects([[40, 40, 50, 50]], [0])
    large = replace(WINDOWS, shorter=(100, 100), window=70)  # a third of all windows has none of it
    assert not any(vary(pixels, here, large, 0, visit, 0)[1].aside.all() for visit in range(60))
    small = replace(large, window=5)  # ten tries are not enough
    assert {len(vary(pixels, here, small, 0, visit, 0)[1]) for visit in range(60)} == {0, 1}


def test_only_the_masks_of_a_window_take_memory(painted, monkeypatch: pytest.MonkeyPatch):
    pixels, here = painted
    monkeypatch.setattr(objects_module, "MOST_MASKED", 30 * 50 * 50)
    with pytest.raises(ValueError, match="cut the image into smaller ones"):
        vary(pixels, here, EVERYTHING, 0, 0, 0, masks=True)
    assert vary(pixels, here, WINDOWS, 0, 0, 0, masks=True)[1].masks.shape[1:] == (50, 50)


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
    size = resized_to(height, width, shorter=shorter, longer=100)
    seen, there = brought_to(np.zeros((height, width, 3), np.uint8), here, *size)
    assert (there.boxes[0, 2:] <= [seen.shape[1] + 1e-9, seen.shape[0] + 1e-9]).all()
    boxes, left_over = boxes_of(there.masks)
    assert not left_over[0] or np.abs(boxes - there.boxes).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    "changes",
    [{"shorter": (0, 5)}, {"shorter": (9, 5)}, {"shorter": (600, 1200)}, {"crop": 1.5}, {"least_side": 0.0},
     {"visible": -1.0}, {"jitter": 2.0}, {"window": -1}],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError):
        ObjectAugmentation(**changes)
