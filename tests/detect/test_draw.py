"""What is drawn is where it belongs, on the image, and can be told apart."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.data.outlines import mask_of
from residual.detect.detections import outlines_of
from residual.detect.draw import ANSWER, CLOSEUP, DARK, closeup, colour, draw, enlarged, eroded, labels, luminance

HIGH = 14  # pixels of the smallest label
GREY = np.full((120, 160, 3), 128, np.uint8)
BOX = np.array([[40.0, 50.0, 100.0, 90.0]])


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(axis=2)


def test_a_box_is_a_frame_of_its_colour_and_its_inside_stays():
    drawn = draw(GREY, BOX, [""], [(255, 0, 0)])
    assert (GREY == 128).all(), "the image that was given stays as it was"
    rows, columns = np.nonzero((drawn == (255, 0, 0)).all(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (50, 89, 40, 99)
    touched = changed(GREY, drawn)
    assert not touched[54:86, 44:96].any()
    touched[46:94, 36:104] = False
    assert not touched.any()


def test_every_line_has_a_dark_one_beside_it_so_that_it_is_seen_on_its_own_colour():
    red = np.full_like(GREY, 0) + np.array([255, 0, 0], np.uint8)
    assert (draw(red, BOX, [""], [(255, 0, 0)]) == DARK).all(axis=2).any()
    assert (draw(red, BOX, [""], [(255, 0, 0)], dashed=True) == DARK).all(axis=2).any()


def test_dashes_leave_gaps_through_which_another_box_is_seen():
    solid = draw(GREY, BOX, [""], [(255, 0, 0)])
    both = draw(solid, BOX, [""], [(0, 255, 0)], dashed=True)
    assert (both == (255, 0, 0)).all(axis=2).any()
    assert (both == (0, 255, 0)).all(axis=2).any()


def test_a_mask_is_tinted_inside_coloured_at_its_border_and_nothing_else():
    mask = np.zeros((1, 120, 160), bool)
    mask[0, 50:90, 40:100] = True
    outside = np.array([[-9.0, -9.0, -1.0, -1.0]])  # a box beside the image is not drawn
    drawn = draw(GREY, outside, ["nowhere"], [(255, 0, 0)], outlines=outlines_of(mask).runs)
    assert (changed(GREY, drawn) == mask[0]).all()
    assert (drawn[50, 40:100] == (255, 0, 0)).all()
    assert drawn[70, 70].tolist() == [178, 76, 76]  # 0.6 of grey and 0.4 of the colour, cut off
    empty = draw(GREY, outside, [""], [(255, 0, 0)], outlines=outlines_of(np.zeros((1, 120, 160), bool)).runs)
    assert (empty == GREY).all()


@pytest.mark.parametrize("by", [1, 2, 3, 7, 22])
def test_a_mask_is_eroded_as_step_by_step(by: int):
    masks = np.random.default_rng(by).random((4, 60, 70)) < np.array([0.5, 0.97, 0.999, 1.0])[:, None, None]
    for mask in masks:
        slowly = np.pad(mask, by)
        for _ in range(by):
            slowly = (
                slowly & np.roll(slowly, 1, 0) & np.roll(slowly, -1, 0) & np.roll(slowly, 1, 1) & np.roll(slowly, -1, 1)
            )
        assert np.array_equal(eroded(mask, by), slowly[by:-by, by:-by])
    assert eroded(masks[3], by).sum() == (60 - 2 * by) * (70 - 2 * by)


def test_the_small_stand_on_top_of_the_large():
    boxes = np.array([[0.0, 0.0, 40.0, 120.0], [0.0, 0.0, 160.0, 120.0]])
    masks = np.stack([np.arange(160)[None].repeat(120, 0) < 40, np.ones((120, 160), bool)])
    for order in ([0, 1], [1, 0]):
        drawn = draw(
            GREY,
            boxes[order],
            ["", ""],
            [[(255, 0, 0), (0, 0, 255)][k] for k in order],
            outlines=outlines_of(masks[order]).runs,
        )
        red, _, blue = drawn[60, 20].tolist()
        assert red > blue


corner = st.floats(-30, 200, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    boxes=st.lists(st.tuples(corner, corner, st.floats(0, 90), st.floats(0, 90)), min_size=1, max_size=12),
    text=st.text(min_size=1, max_size=30),
)
def test_labels_lie_on_the_image_whole_and_never_on_each_other(height, width, boxes, text):
    places = [(round(x), round(y), round(x + a) + 1, round(y + b) + 1) for x, y, a, b in boxes]
    found = list(labels([text] * len(places), places, height, width))
    for label in found:
        left, top, right, bottom = label.place
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    for one, other in itertools.combinations((label.place for label in found), 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    corners = np.array([[x, y, x + a, y + b] for x, y, a, b in boxes])
    drawn = draw(np.zeros((height, width, 3), np.uint8), corners, [text] * len(boxes), [(9, 99, 199)] * len(boxes))
    assert drawn.shape == (height, width, 3)


def test_text_stays_within_its_label():
    (label,) = labels(["Ågjp wide 100 %"], [(20, 40, 60, 80)], 120, 160)
    drawn = draw(GREY, np.array([[20.0, 40.0, 60.0, 80.0]]), ["Ågjp wide 100 %"], [(255, 255, 0)])
    bare = draw(GREY, np.array([[20.0, 40.0, 60.0, 80.0]]), [""], [(255, 255, 0)])
    touched = changed(bare, drawn)
    left, top, right, bottom = label.place
    inked = drawn[top:bottom, left:right] != (255, 255, 0)
    assert inked.any()
    assert not inked.any(axis=2)[[0, -1]].any(), "a margin above and below"
    assert not inked.any(axis=2)[:, [0, -1]].any(), "and to either side"
    touched[top:bottom, left:right] = False
    assert not touched.any()


def test_the_surest_has_its_label_and_a_long_one_is_cut_short():
    box = (10, 30, 60, 100)
    found = list(labels(["cat 99 %"] * 30, [box] * 30, 120, 160))
    assert found[0].number == 0
    assert found[0].place[3] == box[1], "above its box"
    assert len(found) < 30, "there is no room for all of them"
    (long,) = labels(["an extraordinarily long name of a class 99 %"], [box], 120, 100)
    assert long.text.endswith("…")
    assert long.place[2] <= 100
    assert list(labels(["cat", "dog"], [None, box], 5, 160)) == [], "no room at all"


def test_a_label_goes_where_it_hides_less_of_the_other_boxes():
    above, lower = (20, 20, 80, 48), (20, 50, 80, 90)
    assert [label.place[1] for label in labels(["", "cat"], [None, lower], 120, 160)] == [50 - HIGH], "above its box"
    ((_, place),) = [(label.number, label.place) for label in labels(["", "cat"], [above, lower], 120, 160)]
    assert place[1] == lower[3], "under it"


def test_in_a_crowd_no_label_is_larger_than_its_box():
    small = [(15 * n, 60, 15 * n + 12, 72) for n in range(10)]
    texts, wide = ["cat"] * 10, (20, 100, 140, 119)
    assert len(list(labels(texts[:4], small[:4], 120, 160))) >= 2, "four are no crowd"
    assert [label.number for label in labels([*texts, "dog"], [*small, wide], 120, 160)] == [10]


def test_a_small_box_has_a_fine_line_and_what_is_in_it_stays_to_be_seen():
    image, box = np.full((600, 800, 3), 128, np.uint8), np.array([[100.0, 100.0, 112.0, 112.0]])
    drawn = draw(image, box, [""], [(255, 0, 0)])
    assert (drawn[101:111, 101:111] == image[0, 0]).all(axis=2).sum() >= 8 * 8
    assert (drawn[100, 100:112] == (255, 0, 0)).all()


def test_lines_and_text_grow_with_the_image():
    def sizes(height: int, width: int) -> tuple[int, int]:
        box = (width // 4, height // 2, width // 2, height - 9)
        (label,) = labels(["cat"], [box], height, width)
        drawn = draw(np.zeros((height, width, 3), np.uint8), np.array([box], float), [""], [(255, 0, 0)])
        return label.size, int((drawn[height * 3 // 4] == (255, 0, 0)).all(axis=1).sum()) // 2

    small, large = sizes(375, 500), sizes(1500, 2000)
    assert small == (14, 2)
    assert large == (57, 8)


def test_colours_are_distinct_and_none_is_dark():
    colours = [colour(number) for number in range(100)]
    assert len(set(colours)) == 100
    for near in range(95):
        for one, other in itertools.combinations(colours[near : near + 5], 2):
            assert np.abs(np.subtract(one, other)).max() > 40
    assert min(map(luminance, colours)) > 60


def test_a_small_image_is_enlarged_by_whole_times_with_all_that_is_on_it():
    pixels = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)
    mask = np.zeros((1, 60, 80), bool)
    mask[0, 10:20, 30:50] = True
    larger, boxes, outlines = enlarged(pixels, np.array([[30.0, 10.0, 50.0, 20.0]]), outlines_of(mask).runs)
    assert larger.shape == (360, 480, 3)
    assert (larger[::6, ::6] == pixels).all()
    assert len(outlines) == 1
    left, top, right, bottom = boxes[0].astype(int)
    found = mask_of(outlines[0], 360, 480)
    assert found[top:bottom, left:right].all()
    assert found.sum() == 36 * mask.sum()
    large = np.zeros((400, 500, 3), np.uint8)
    assert enlarged(large, boxes)[0] is large
    cells = np.array([[10.0, 10.0, 24.0, 30.0], [60.0, 60.0, 71.0, 80.0], [9.0, 9.0, 99.0, 99.0]])
    assert enlarged(large, cells)[0].shape == (800, 1000, 3), "half of the objects have 14 pixels or fewer"
    photograph = np.zeros((1000, 1500, 3), np.uint8)
    assert enlarged(photograph, cells)[0] is photograph


@pytest.mark.parametrize(
    "box",
    [[0, 0, 3, 3], [5, 5, 6, 300], [0, 0, 400, 300], [395, 290, 400, 300], [-50, -50, -10, -10], [500, 400, 600, 500]],
)
def test_a_closeup_is_bounded_and_shows_the_answer_if_it_lies_on_the_image(box):
    pixels = np.full((300, 400, 3), 128, np.uint8)
    answer = np.array([box], float)
    seen = closeup(pixels, np.array([[100.0, 100.0, 200.0, 200.0]]), answer, of=answer)
    assert max(seen.shape) <= CLOSEUP
    on_image = box[2] > 0 and box[0] < 400
    assert (seen == ANSWER).all(axis=2).any() == on_image
