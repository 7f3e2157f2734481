import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.data.decode import View, fit
from residual.data.transforms import (
    Augmentation,
    Normalize,
    Preprocessing,
    centre,
    crop_and_flip,
    key,
    mix,
    permutation,
    prepare,
    uniform,
)


def pixels(count: int, height: int, width: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=generator)


def coordinates(count: int, side: int) -> torch.Tensor:
    """Images whose first channel is the row and whose second is the column: (count, side, side, 2)."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([row, column], -1).float().expand(count, side, side, 2)


# --- randomness ---


def test_uniform_numbers_lie_between_0_and_1_and_are_flat():
    numbers = uniform(3, torch.zeros(100_000, dtype=torch.int64), torch.arange(100_000), 0)
    assert numbers.dtype == torch.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, bins=20, min=0, max=1)
    chi_squared = float(((counts - 5000) ** 2 / 5000).sum())
    assert chi_squared < 43.8  # 19 degrees of freedom: exceeded once in a thousand


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=20), st.integers(-(2**63), 2**63), st.integers(0, 9))
def test_an_image_draws_the_same_number_whatever_else_is_in_the_batch(indices, seed, draw):
    where, epochs = torch.tensor(indices), torch.arange(len(indices))
    together = uniform(seed, epochs, where, draw)
    alone = [uniform(seed, epochs[i : i + 1], where[i : i + 1], draw) for i in range(len(indices))]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("other", ["seed", "epoch", "draw", "image"])
def test_uniform_numbers_of_another_seed_epoch_draw_or_image_have_nothing_in_common(other):
    count = 20_000
    zeros, images = torch.zeros(count, dtype=torch.int64), torch.arange(count)
    first = uniform(1, zeros, images, 0)
    second = {
        "seed": lambda: uniform(2, zeros, images, 0),
        "epoch": lambda: uniform(1, zeros + 1, images, 0),
        "draw": lambda: uniform(1, zeros, images, 1),
        "image": lambda: uniform(1, zeros, images + 1, 0),
    }[other]()
    correlation = float(torch.corrcoef(torch.stack([first, second]))[0, 1])
    assert abs(correlation) < 4 / math.sqrt(count)


def test_uniform_is_splitmix64_as_plain_integers_compute_it():
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def finalise(word):
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
        return word ^ (word >> 31)

    start = 0
    for number in (7, 2):
        start = finalise((start + (number + 1) * golden) & mask)
    word = finalise((finalise((123 * golden + start) & mask) + 45 * golden) & mask)
    assert key(7, 2) & mask == start
    assert float(uniform(7, torch.tensor([45]), torch.tensor([123]), 2)) == (word >> 40) / 2**24


def test_every_number_of_a_key_changes_it():
    assert len({key(a, b, c) for a in range(-1, 5) for b in range(-1, 5) for c in range(-1, 5)}) == 216


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**40), st.integers(0, 1000))
def test_an_epoch_is_a_permutation(count, seed, epoch):
    assert torch.equal(permutation(count, seed, epoch).sort().values, torch.arange(count))


def test_epochs_and_seeds_have_different_orders():
    orders = {tuple(permutation(50, seed, epoch).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


# --- crop and flip ---


def slowly(images, augmentation, seed, epochs, indices, size):
    """Section 4.2 image by image, with numpy."""
    pad = augmentation.pad if augmentation.crop == "pad" else 0
    result = []
    for image, epoch, index in zip(images.numpy(), epochs.tolist(), indices.tolist(), strict=True):

        def draw(number, epoch=epoch, index=index):
            return float(uniform(seed, torch.tensor([epoch]), torch.tensor([index]), number))

        height, width, channels = image.shape
        page = np.zeros((height + 2 * pad, width + 2 * pad, channels), np.float32)
        page[pad : pad + height, pad : pad + width] = image
        rooms = (page.shape[0] - size, page.shape[1] - size)
        top, left = (
            (math.floor(np.float32(draw(n)) * np.float32(room + 1)) for n, room in enumerate(rooms))
            if augmentation.crop == "pad"
            else (room // 2 for room in rooms)
        )
        window = page[top : top + size, left : left + size]
        if augmentation.flip and draw(2) < 0.5:
            window = window[:, ::-1]
        result.append(window.transpose(2, 0, 1))
    return torch.from_numpy(np.stack(result))


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("crop", ["pad", "none"])
@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 8), (11, 14, 9)])
def test_crop_and_flip_equal_the_loop_over_images(crop, flip, height, width, size):
    images = torch.randn(40, height, width, 3, generator=torch.Generator().manual_seed(0))
    augmentation = Augmentation(crop=crop, pad=2, flip=flip)
    epochs, indices = torch.arange(40) // 7, torch.arange(40) * 13
    fast = crop_and_flip(images, augmentation, 5, epochs, indices, size)
    assert torch.equal(fast, slowly(images, augmentation, 5, epochs, indices, size))
    assert fast.is_contiguous(memory_format=torch.channels_last)


def test_all_81_places_and_both_sides_are_equally_likely():
    count = 6000
    images = coordinates(count, 32) + 1  # 0 is the border
    indices = torch.arange(count)
    crops = crop_and_flip(images, Augmentation(), 0, indices * 0, indices, 32)
    mirrored = crops[:, 1, 16, 15] > crops[:, 1, 16, 16]
    down, right = crops[:, 0, 16, 16] - 17, crops[:, 1, 16, 16] - torch.where(mirrored, 16, 17)
    counts = torch.bincount(((down + 4) * 9 + right + 4).long(), minlength=81)
    expected = count / 81
    assert float(((counts - expected) ** 2 / expected).sum()) < 124.8  # 80 degrees of freedom: once in a thousand
    assert abs(float(mirrored.float().mean()) - 0.5) < 0.02  # three standard deviations


def test_the_border_of_a_padded_crop_is_the_mean_colour():
    preprocessing = Preprocessing(size=8, mean=(10.0, 100.0, 200.0), std=(3.0, 5.0, 7.0))
    normalize = Normalize(preprocessing)
    indices = torch.arange(64)
    images = pixels(64, 8, 8)
    crops = crop_and_flip(normalize.floats(images), Augmentation(pad=4), 0, indices * 0, indices, 8)
    as_pixels = crops.permute(0, 2, 3, 1) / normalize.inverse_std + normalize.mean
    border = (crops == 0).all(dim=1)
    assert border.any()
    torch.testing.assert_close(as_pixels[border], normalize.mean.expand(int(border.sum()), 3))


@pytest.mark.parametrize("stored", [32, 37])
def test_a_resized_crop_stays_inside_and_is_neither_too_small_nor_too_long(stored):
    count, size, least = 2000, 32, 0.35
    augmentation = Augmentation(crop="resized", least_area=least)
    indices = torch.arange(count)
    crops = crop_and_flip(coordinates(count, stored), augmentation, 1, indices * 0, indices, size)
    assert crops.shape == (count, 2, size, size)
    assert crops.min() >= 0
    assert crops.max() <= stored - 1
    # distance between the middle pixels of outermost windows, away from the reflected edge
    down = (crops[:, 0, -2, 5] - crops[:, 0, 1, 5]) / (size - 3) * size / stored
    across = (crops[:, 1, 5, -2] - crops[:, 1, 5, 1]) / (size - 3) * size / stored
    area, shape = down * across.abs(), across.abs() / down
    assert (down > 0).all()  # never upside down
    assert area.min() > least * (0.75 if stored == size else 0.74) * 0.99  # a clipped side costs at most 3/4 ...
    assert area.max() <= 1.001
    assert float(shape.min()) > 0.74
    assert float(shape.max()) < 1.34
    assert abs(float((across < 0).float().mean()) - 0.5) < 0.05
    assert area.std() > 0.1  # and it does vary


# --- mixing ---


def test_without_mixing_the_images_are_the_same_object():
    images = torch.randn(4, 3, 8, 8)
    same, share = mix(images, Augmentation(), 0, 0)
    assert same is images
    assert share == 1


@pytest.mark.parametrize("how", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_the_share_is_how_much_of_an_image_is_its_own(how):
    """Row i is all (i + 1), so that the mean of a mixed row tells the share."""
    count = 6
    images = torch.arange(1.0, count + 1).view(-1, 1, 1, 1).expand(count, 3, 16, 16).clone()
    kept = images.clone()
    shares = []
    for step in range(60):
        mixed, share = mix(images, Augmentation(**how), 9, step)
        own, partner = kept.mean((1, 2, 3)), kept.flip(0).mean((1, 2, 3))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), share * own + (1 - share) * partner)
        shares.append(share)
    assert torch.equal(images, kept)
    assert 0 <= min(shares) < 0.3 < 0.7 < max(shares) <= 1
    assert len(set(shares)) > 10


def test_cutmix_pastes_one_rectangle():
    images = torch.stack([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)])
    for step in range(20):
        mixed, share = mix(images, Augmentation(cutmix=1.0), 0, step)
        pasted = mixed[0, 0] == 1
        assert torch.equal(pasted, pasted.any(1)[:, None] & pasted.any(0))
        assert share == 1 - float(pasted.float().mean())


def test_mixing_is_a_pure_function_of_seed_and_step():
    images = torch.randn(4, 3, 8, 8)
    augmentation = Augmentation(mixup=1.0)
    assert mix(images, augmentation, 1, 2)[1] == mix(images, augmentation, 1, 2)[1]
    assert len({mix(images, augmentation, seed, step)[1] for seed in range(4) for step in range(4)}) == 16


# --- normalising ---


@pytest.mark.parametrize("per_pixel", [False, True])
@pytest.mark.parametrize("channels", ["RGB", "BGR", "L"])
def test_normalize_is_the_formula(channels, per_pixel):
    size, count = 6, 1 if channels == "L" else 3
    rng = np.random.default_rng(0)
    numbers = count * size * size if per_pixel else count
    mean, std = rng.uniform(90, 140, numbers), rng.uniform(30, 80, numbers)
    preprocessing = Preprocessing(size=size, channels=channels, mean=tuple(mean), std=tuple(std))
    stored = pixels(5, size, size, count)
    planes = stored.numpy().astype(np.float64).transpose(0, 3, 1, 2)
    if channels == "BGR":
        planes = planes[:, ::-1]
    shape = (1, count, size, size) if per_pixel else (1, count, 1, 1)
    expected = (planes - mean.reshape(shape)) / std.reshape(shape)
    found = Normalize(preprocessing)(stored)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-6)  # float32 of values up to 8


def test_normalize_takes_the_centre_of_what_is_stored_larger():
    preprocessing = Preprocessing(size=4, resize=7, mean=(0.0,) * 3, std=(1.0,) * 3)
    stored = pixels(2, 7, 7)
    found = Normalize(preprocessing)(stored)
    assert torch.equal(found, stored[:, 1:5, 1:5].permute(0, 3, 1, 2).float())


@pytest.mark.parametrize(
    "wrong",
    [{"mean": (1.0, 2.0)}, {"std": (1.0,) * 7}, {"std": (1.0, 0.0, 1.0)}, {"channels": "L", "mean": (1.0, 2.0, 3.0)}],
)
def test_a_preprocessing_that_does_not_fit_its_images_is_refused(wrong):
    with pytest.raises(ValueError, match=r"numbers|positive"):
        Preprocessing(size=4, **wrong)


@pytest.mark.parametrize("wrong", [{"pad": -1}, {"least_area": 0.0}, {"least_area": 1.5}, {"mixup": -0.1}])
def test_an_impossible_augmentation_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augmentation(**wrong)


# --- one image ---


def test_prepare_of_a_stored_square_is_its_centre():
    """So training, which stores squares, and prediction, which prepares files, see the same bytes."""
    preprocessing = Preprocessing(size=28, resize=32)
    photo = pixels(1, 41, 57)[0].numpy()
    square = fit(photo, View(size=32, resize=32))
    assert np.array_equal(prepare(square, preprocessing), centre(square[None], 28)[0])
    assert np.array_equal(prepare(photo, preprocessing), prepare(square, preprocessing))


def test_prepare_without_a_crop_resizes_to_the_square_and_leaves_the_right_size_alone():
    preprocessing = Preprocessing(size=12)
    image = pixels(1, 12, 12)[0].numpy()
    assert np.array_equal(prepare(image, preprocessing), image)
    assert prepare(pixels(1, 30, 20)[0].numpy(), preprocessing).shape == (12, 12, 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 200), (200, 3), (31, 33)])
def test_prepare_gives_the_square_for_any_image(height, width, channels):
    preprocessing = Preprocessing(
        size=16,
        resize=18,
        channels="L" if channels == 1 else "RGB",
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )
    found = prepare(pixels(1, height, width, channels)[0].numpy(), preprocessing)
    assert found.shape == (16, 16, channels)
    assert found.dtype == np.uint8
