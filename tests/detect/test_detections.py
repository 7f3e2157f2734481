"""Masks as runs are the masks, and small."""

import numpy as np

from residual.detect.detections import outlines_of


def test_outlines_are_the_masks_they_were_made_of():
    masks = np.random.default_rng(0).random((5, 30, 40)) < 0.3
    masks[3] = False
    outlines = outlines_of(masks)
    assert outlines.shape == masks.shape
    assert np.array_equal(outlines.drawn(), masks)
    assert all(np.array_equal(one, mask) for one, mask in zip(outlines, masks, strict=True))
    assert np.array_equal(outlines[np.int64(2)], masks[2])


def test_some_of_the_outlines_are_chosen_as_rows_of_an_array_are():
    masks = np.random.default_rng(1).random((5, 30, 40)) < 0.3
    for chosen in (np.array([True, False, True, False, True]), np.array([4, 0, 0]), slice(1, 3), np.zeros(5, bool)):
        some = outlines_of(masks)[chosen]
        assert some.shape == masks[chosen].shape
        assert np.array_equal(some.drawn(), masks[chosen])


def test_a_hundred_masks_of_a_large_photograph_fit_into_little_memory():
    mask = np.zeros((1, 4000, 6000), bool)
    mask[0, 1000:3000, 500:5500] = True
    outlines = outlines_of(mask)
    assert sum(each.lengths.nbytes for each in outlines.runs) < mask.nbytes / 500
