import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

from residual.data.outlines import as_runs
from residual.detect.raster import covered, paste, placed, runs_at
from residual.detect.sampling import NOTHING


def slowly(mask, box, size):
    """Each pixel's centre between the cells' centres, by hand; cells beyond the mask are 0."""
    left, top, right, bottom = box
    side = len(mask)

    def cell(i, j):
        return mask[i][j] if 0 <= i < side and 0 <= j < side else 0.0

    found = torch.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            y = (row + 0.5 - top) / (bottom - top) * side - 0.5
            x = (column + 0.5 - left) / (right - left) * side - 0.5
            i, j = math.floor(y), math.floor(x)
            for a, b in ((i, j), (i + 1, j), (i, j + 1), (i + 1, j + 1)):
                found[row, column] += max(0.0, 1 - abs(y - a)) * max(0.0, 1 - abs(x - b)) * cell(a, b)
    return found


@pytest.mark.parametrize("box", [(3.3, 2.1, 17.9, 13.4), (-4.0, -3.0, 9.5, 30.0), (5.2, 6.4, 7.1, 7.9)])
def test_pasting_agrees_with_a_slow_loop(box: tuple[float, ...]):
    mask = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    values = slowly(mask.tolist(), box, (18, 22))
    assert not ((values - 0.3).abs() < 1e-4).any()
    found = paste(mask[None], torch.tensor([box]), (18, 22), threshold=0.3)[0]
    assert np.array_equal(found, values >= 0.3)
    assert found.any()


def test_pasting_is_nearly_torchvisions_which_rounds_boxes_to_pixels():
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    disc = (1.4 - (rows**2 + columns**2)).clamp(0, 1)
    boxes = torch.tensor([[10.0, 20.0, 80.0, 60.0], [-20.0, 5.0, 40.0, 90.0]])
    ours = torch.from_numpy(paste(disc.expand(2, -1, -1), boxes, (100, 120)).drawn())
    theirs = paste_masks_in_image(disc.expand(2, 1, -1, -1), boxes, (100, 120))[:, 0] >= 0.5
    shared, union = (ours & theirs).sum((1, 2)), (ours | theirs).sum((1, 2))
    assert (shared / union > 0.95).all()  # they end a box at right + 1: a pixel in forty


def test_boxes_without_a_pixel_off_the_image_or_without_area_have_empty_masks():
    boxes = torch.tensor([[3.6, 3.6, 3.9, 3.9], [50.0, 50.0, 60.0, 60.0], [5.0, 5.0, 5.0, 5.0], [-9.0, 0.0, -3.0, 9.0]])
    assert not paste(torch.ones(4, 7, 7), boxes, (10, 10)).drawn().any()
    none = paste(torch.zeros(0, 7, 7), torch.zeros(0, 4), (10, 10))
    assert none.shape == none.drawn().shape == (0, 10, 10)


def test_masks_in_half_precision_are_pasted_at_the_same_places():
    masks = torch.rand(1, 14, 14, generator=torch.Generator().manual_seed(2)).bfloat16()
    box = torch.tensor([[700.3, 410.2, 990.8, 580.9]])
    assert np.array_equal(paste(masks, box, (600, 1000))[0], paste(masks.float(), box, (600, 1000))[0])


def test_a_mask_is_the_same_whether_worked_out_at_once_or_a_few_rows_at_a_time():
    mask, box = torch.rand(14, 14, generator=torch.Generator().manual_seed(3)), torch.tensor([-7.3, 4.6, 290.2, 131.9])
    rows, columns, whole = placed(mask, box, (120, 400))
    assert (rows, columns) == (slice(4, 120), slice(0, 291))
    for band in (1, 700, 5000):
        assert torch.equal(placed(mask, box, (120, 400), band=band)[2], whole)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), high=st.integers(0, 9), wide=st.integers(0, 9), top=st.integers(0, 4), left=st.integers(0, 4))
def test_the_runs_of_a_part_are_those_of_the_whole_mask(data, high, wide, top, left):
    below, beside = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    size = (max(top + high + below, 1), max(left + wide + beside, 1))
    part = np.array(data.draw(st.lists(st.booleans(), min_size=high * wide, max_size=high * wide)), bool)
    mask = np.zeros(size, bool)
    mask[top : top + high, left : left + wide] = part.reshape(high, wide)
    told = runs_at(torch.from_numpy(part.reshape(high, wide)), top, left, size)
    assert told.lengths.tolist() == as_runs(mask).lengths.tolist()


def test_how_much_of_a_cell_is_covered_is_counted_pixel_by_pixel():
    masks = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(1)) > 0.5
    regions = torch.tensor([[0.0, 0.0, 24.0, 24.0], [6.0, 3.0, 18.0, 15.0], [0.0, 12.0, 12.0, 24.0]])
    which = torch.tensor([2, 0, NOTHING])
    found = covered(masks, which, regions, 6)
    assert torch.allclose(found[0], masks[2].float().view(6, 4, 6, 4).mean((1, 3)), atol=1e-5)
    # sampled at the corners between pixels, each point is the mean of four of them: equal where the cells are even
    assert abs(found[1].mean() - masks[0, 3:15, 6:18].float().mean()) < 0.05
    assert not found[2].any()


def test_a_full_mask_covers_its_box_whole_whatever_its_size():
    masks = torch.ones(1, 40, 40, dtype=torch.bool)
    for box in ([3.0, 3.0, 37.0, 11.0], [10.0, 10.0, 11.0, 11.0], [5.5, 7.25, 30.5, 31.0]):
        assert torch.allclose(covered(masks, torch.tensor([0]), torch.tensor([box]), 14), torch.ones(1, 14, 14))
