import math

import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from residual.detect.raster import covered, paste
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
    assert torch.equal(found, values >= 0.3)
    assert found.any()


def test_pasting_is_nearly_torchvisions_which_rounds_boxes_to_pixels():
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    disc = (1.4 - (rows**2 + columns**2)).clamp(0, 1)
    boxes = torch.tensor([[10.0, 20.0, 80.0, 60.0], [-20.0, 5.0, 40.0, 90.0]])
    ours = paste(disc.expand(2, -1, -1), boxes, (100, 120))
    theirs = paste_masks_in_image(disc.expand(2, 1, -1, -1), boxes, (100, 120))[:, 0] >= 0.5
    shared, union = (ours & theirs).sum((1, 2)), (ours | theirs).sum((1, 2))
    assert (shared / union > 0.95).all()  # they end a box at right + 1: a pixel in forty


def test_boxes_without_a_pixel_off_the_image_or_without_area_have_empty_masks():
    boxes = torch.tensor([[3.6, 3.6, 3.9, 3.9], [50.0, 50.0, 60.0, 60.0], [5.0, 5.0, 5.0, 5.0], [-9.0, 0.0, -3.0, 9.0]])
    assert not paste(torch.ones(4, 7, 7), boxes, (10, 10)).any()
    assert paste(torch.zeros(0, 7, 7), torch.zeros(0, 4), (10, 10)).shape == (0, 10, 10)


def test_masks_in_half_precision_are_pasted_at_the_same_places():
    masks = torch.rand(1, 14, 14, generator=torch.Generator().manual_seed(2)).bfloat16()
    box = torch.tensor([[700.3, 410.2, 990.8, 580.9]])
    assert torch.equal(paste(masks, box, (600, 1000)), paste(masks.float(), box, (600, 1000)))


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
