import math
from itertools import permutations

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode, RandAugment, TrivialAugmentWide, functional

from residual.data.batches import training_batches, varied
from residual.data.images import Images
from residual.data.recolour import (
    EIGENVALUES,
    EIGENVECTORS,
    RANDOM,
    TRIVIAL,
    apply_policy,
    erase,
    jitter,
    light,
    operate,
    recolour,
)
from residual.data.transforms import Augmentation, Normalize, Preprocessing, uniform

VISITS, INDICES = torch.zeros(64, dtype=torch.int64), torch.arange(64)


def pictures(count: int = 64, side: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def test_the_eigenvectors_are_orthonormal_to_the_digits_that_are_printed():
    vectors = torch.tensor(EIGENVECTORS)
    assert torch.allclose(vectors.T @ vectors, torch.eye(3), atol=2e-3)


def test_lighting_has_the_covariance_that_its_eigenvectors_say():
    count = 40_000
    grey = torch.full((count, 1, 1, 3), 100.0)
    moved = (light(grey, 0.1, 0, torch.zeros(count, dtype=torch.int64), torch.arange(count)) - grey)[:, 0, 0] / 255
    vectors, scales = torch.tensor(EIGENVECTORS), torch.tensor(EIGENVALUES)
    expected = vectors @ torch.diag((0.1 * scales) ** 2) @ vectors.T
    assert torch.allclose(torch.cov(moved.T), expected, rtol=0.05, atol=1e-6)
    assert moved.mean(0).abs().max() < 3 * 0.1 * 0.2175 / count**0.5
    with pytest.raises(ValueError, match="noise in RGB"):
        light(grey[..., :1], 0.1, 0, VISITS, INDICES)


def test_jitter_is_torchvisions_three_adjustments_in_some_order():
    values = pictures(8).float()
    ours = jitter(values, 0.4, 3, VISITS[:8], INDICES[:8])
    adjust = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    orders = set()
    for row in range(8):
        factors = [0.6 + 0.8 * float(uniform(3, VISITS, INDICES, 2000 + number)[row]) for number in range(3)]
        close = []
        for order in permutations(range(3)):
            picture = values[row].permute(2, 0, 1) / 255
            for kind in order:
                picture = adjust[kind](picture, factors[kind])
            if torch.allclose(ours[row].permute(2, 0, 1) / 255, picture, atol=2e-3):
                close.append(order)
        assert close
        orders |= set(close)
    assert len(orders) > 2


def test_an_erased_rectangle_has_the_area_and_shape_asked_for():
    ones = torch.ones(64, 3, 40, 50)
    erased = erase(ones, Augmentation(erase=0.5), 0, VISITS, INDICES)
    chosen = [number for number in range(64) if (erased[number] == 0).any()]
    assert 20 < len(chosen) < 44
    for number in chosen:
        gone = erased[number, 0] == 0
        rows, columns = gone.any(1), gone.any(0)
        high, wide = int(rows.sum()), int(columns.sum())
        assert (gone == rows[:, None] & columns[None]).all()
        assert 0.02 * 2000 * 0.8 < high * wide < 0.33 * 2000 * 1.1
        assert 0.3 * 0.7 < high / wide < 3.4 * 1.3
    assert torch.equal(erase(ones, Augmentation(), 0, VISITS, INDICES), ones)


def test_the_strongest_operations_are_those_of_torchvisions_trivialaugment():
    """Each operation at its full strength, against torchvision's own table and its own application."""
    image = pictures(1, 32)[0].permute(2, 0, 1)
    policy = TrivialAugmentWide()
    theirs = {
        "shear x": "ShearX", "shear y": "ShearY", "move x": "TranslateX", "move y": "TranslateY", "rotate": "Rotate",
        "brightness": "Brightness", "saturation": "Color", "contrast": "Contrast", "sharpness": "Sharpness",
        "posterize": "Posterize", "solarize": "Solarize", "autocontrast": "AutoContrast", "equalize": "Equalize",
        "identity": "Identity",
    }  # fmt: skip
    assert set(theirs) == set(TRIVIAL)
    assert set(theirs.values()) == set(TrivialAugmentWide._AUGMENTATION_SPACE)
    for ours, name in theirs.items():
        amount, signed = TRIVIAL[ours]
        magnitudes, their_sign = TrivialAugmentWide._AUGMENTATION_SPACE[name]
        table = magnitudes(31, 32, 32)
        assert signed == their_sign
        for sign in (1, -1) if signed else (1,):
            strength = 0.0 if table is None else sign * float(table[-1])
            expected = policy._apply_image_or_video_transform(
                image, name, strength, InterpolationMode.BILINEAR, {torch.Tensor: [0.0, 0.0, 0.0]}
            )
            # One level apart where a product falls between two: their table is in float32.
            assert (operate(image, ours, sign * amount).int() - expected.int()).abs().max() <= 1, (ours, sign)


def test_every_operation_keeps_size_and_type():
    image = pictures(1)[0].permute(2, 0, 1)
    for table in (TRIVIAL, RANDOM):
        for name, (most, _) in table.items():
            for level in (0.0, 0.5, 1.0):
                changed = operate(image, name, level * most)
                assert (changed.shape, changed.dtype) == (image.shape, torch.uint8)


@pytest.mark.parametrize("policy", ["trivialaugment", "randaugment"])
def test_a_policy_is_a_pure_function_of_visit_and_image(policy):
    augmentation, pixels = Augmentation(policy=policy, magnitude=7), pictures()
    once = apply_policy(pixels, augmentation, 5, VISITS, INDICES)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    again = apply_policy(pixels[order], augmentation, 5, VISITS[order], INDICES[order])
    assert torch.equal(once[order], again)
    assert not torch.equal(once, apply_policy(pixels, augmentation, 5, VISITS + 1, INDICES))
    changed = (once != pixels).flatten(1).any(1).float().mean()
    assert 0.6 < changed < 0.99  # randaugment leaves a quarter alone, and some operations do nothing


def test_randaugment_applies_torchvisions_operations_and_solarize_add():
    assert len(RANDOM) == 15
    assert {"ShearX", "Posterize", "Equalize"} <= set(RandAugment._AUGMENTATION_SPACE)
    dark = torch.tensor([[[0, 100, 127, 128, 200]]], dtype=torch.uint8)
    assert operate(dark, "brighten the dark", 110).flatten().tolist() == [110, 210, 237, 128, 200]
    assert operate(dark, "posterize by 4", 2).flatten().tolist() == [0, 64, 64, 128, 192]


def test_without_any_of_it_pixels_stay():
    assert torch.equal(recolour(pictures(), Augmentation(), 0, VISITS, INDICES), pictures().float())


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize("cut", [False, True])
def test_recoloured_pictures_are_cut_first_and_normalised_last(channels, cut):
    normalize = Normalize(Preprocessing(size=16, channels=channels, mean=(120.0, 110.0, 100.0), std=(60.0, 50.0, 40.0)))
    still = Augmentation(crop="none", flip=False)
    noisy = Augmentation(crop="none", flip=False, lighting=1e-7)
    pixels = pictures()
    plain, lit = (varied(pixels, one, normalize, 0, VISITS, INDICES, 16, cut=cut) for one in (still, noisy))
    assert torch.allclose(plain, lit, atol=1e-4)
    assert lit.is_contiguous(memory_format=torch.channels_last)


def test_the_border_of_a_shifted_picture_is_recoloured_as_the_mean_colour():
    normalize = Normalize(Preprocessing(size=16, mean=(120.0, 110.0, 100.0), std=(60.0,) * 3))
    augmentation = Augmentation(pad=8, flip=False, lighting=1e-7)
    pixels = torch.full((64, 16, 16, 3), 255, dtype=torch.uint8)
    shifted = varied(pixels, augmentation, normalize, 0, VISITS, INDICES, 16, cut=False)
    white = (255 - 120) / 60
    reds = shifted[:, 0].round(decimals=3).unique().tolist()
    assert reds == pytest.approx([0, white], abs=1e-2)


@pytest.mark.parametrize(
    "change",
    [
        {"shorter": (480, 256)}, {"repeats": 0}, {"operations": 0}, {"size": 0}, {"jitter": 1.5}, {"erase": -0.1},
        {"lighting": -1.0}, {"magnitude": 11.0}, {"magnitude_std": -1.0},
    ],
)  # fmt: skip
def test_augmentations_that_mean_nothing_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Augmentation(**change)


def test_a_mean_for_every_pixel_refuses_another_size():
    normalize, cpu = Normalize(Preprocessing(size=16, mean=(1.0,) * 3 * 256)), torch.device("cpu")
    images = Images(pixels=pictures(), labels=INDICES % 2, classes=("a", "b"), names=("",) * 64)
    with pytest.raises(ValueError, match="mean of every pixel is for images of 16"):
        next(
            training_batches(
                images, Augmentation(), normalize, batch=4, seed=0, start=0, device=cpu, size_at=lambda _: 12
            )
        )
    assert math.isclose(float(normalize.colour.mean()), 1.0)
