import io

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data import jpeg, transforms
from residual.data.crop import Crop, crop_file, mirrored, uniform, window
from residual.data.decode import BadImage


def test_draws_are_those_of_whole_batches():
    visits, indices = torch.arange(50) * 7, torch.arange(50) * 12345
    for seed in (0, 5, -(2**62), 2**62):
        for number in (0, 3, 148):
            batch = transforms.uniform(seed, visits, indices, number).tolist()
            ours = [uniform((seed, v, i), number) for v, i in zip(visits.tolist(), indices.tolist(), strict=True)]
            assert ours == batch


SIZES = [(500, 375), (375, 500), (1000, 100), (224, 224), (3, 50), (4000, 3000)]


@pytest.mark.parametrize("width, height", SIZES)
def test_windows_lie_inside_and_have_the_areas_and_shapes_asked_for(width, height):
    crop = Crop(size=32, least_area=0.2)
    for number in range(300):
        part = window(crop, (0, 0, number), width, height)
        left, top, right, bottom = part.box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert left % part.reduction == top % part.reduction == 0
        assert part.reduction == 1 or min(part.width, part.height) >= 2 * part.reduction * 32
        if 3 / 4 <= width / height <= 4 / 3:
            slack = (part.reduction + 1) / min(part.width, part.height)
            assert part.width * part.height / (width * height) > 0.2 * (1 - 2 * slack)
            assert 3 / 4 * (1 - slack) <= part.width / part.height <= 4 / 3 * (1 + slack)


def test_windows_of_one_image_are_spread_as_torchvisions():
    """Mean area, mean log shape and mean place of 1,000 windows, against torchvision's own draws."""
    from torchvision.transforms import RandomResizedCrop

    crop = Crop(size=8)
    torch.manual_seed(0)
    image, count = torch.zeros(3, 100, 150), 1000
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(count)])
    parts = [window(crop, (1, visit, 0), 150, 100) for visit in range(count)]
    ours = np.array([(part.top, part.left, part.height, part.width) for part in parts])
    for seen in (lambda one: one[:, 2] * one[:, 3], lambda one: one[:, 3] / one[:, 2], lambda one: one[:, 1]):
        a, b = seen(ours), seen(theirs)
        assert abs(a.mean() - b.mean()) < 4 * np.hypot(a.std(), b.std()) / count**0.5 + 4  # reduced ones lie on a grid


def test_the_papers_windows_are_as_large_as_a_drawn_shorter_side_says():
    crop = Crop(size=224, kind="scaled", shorter=(256, 480))
    sides = [window(crop, (0, 0, number), 1000, 640).width for number in range(2000)]
    scales = np.array([640 * 224 / side for side in sides])
    assert 255 <= scales.min() < 258
    assert 476 < scales.max() <= 482
    assert abs(scales.mean() - 368) < 6
    assert all(window(crop, (0, 0, n), 1000, 640).width == window(crop, (0, 0, n), 1000, 640).height for n in range(50))


def test_half_of_the_windows_are_mirrored_and_none_where_that_is_off():
    draws = [(0, visit, index) for visit in range(40) for index in range(40)]
    share = np.mean([mirrored(Crop(size=8), draw) for draw in draws])
    assert abs(share - 0.5) < 0.05
    assert not any(mirrored(Crop(size=8, flip=False), draw) for draw in draws)


def photograph(width: int, height: int) -> bytes:
    small = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def decibels(ours: np.ndarray, reference: np.ndarray) -> float:
    return 10 * float(np.log10(255**2 / max(((ours.astype(float) - reference) ** 2).mean(), 1e-3)))


@pytest.mark.skipif(not jpeg.available(), reason="this Pillow brings no libjpeg-turbo that can be called")
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("width, height", [(500, 375), (1600, 1200)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_fast_path_meets_the_reference_at_40_db(width, height, interpolation, mode):
    data = photograph(width, height)
    crop = Crop(size=96, interpolation=interpolation)
    for index in range(10):
        (ours, found), (reference, _) = (
            crop_file(data, crop, (0, 0, index), mode, fast=fast) for fast in (True, False)
        )
        assert found == (width, height)
        assert ours.shape == reference.shape == (96, 96, 3 if mode == "RGB" else 1)
        assert decibels(ours, reference) > 40


@pytest.mark.skipif(not jpeg.available(), reason="this Pillow brings no libjpeg-turbo that can be called")
def test_photographs_are_cut_with_40_db_on_average(shared_data):
    found = []
    for index, path in enumerate(sorted((shared_data / "photos").glob("*.JPEG"))[:30]):
        ours, reference = (
            crop_file(path.read_bytes(), Crop(size=224), (0, 0, index), "RGB", fast=fast)[0] for fast in (True, False)
        )
        found.append(decibels(ours, reference))
    assert np.mean(found) > 40
    assert min(found) > 35


def test_a_png_takes_the_reference_path_and_damage_is_refused():
    out = io.BytesIO()
    Image.new("RGB", (60, 40), (9, 8, 7)).save(out, "PNG")
    pixels, found = crop_file(out.getvalue(), Crop(size=16), (0, 0, 0), "RGB", fast=True)
    assert (pixels == (9, 8, 7)).all()
    assert found == (60, 40)
    with pytest.raises(BadImage):
        crop_file(photograph(160, 160)[:300], Crop(size=16), (0, 0, 0), "RGB", fast=True)
