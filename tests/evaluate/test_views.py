"""Views are cut as training cuts, as torchvision cuts, and as arithmetic says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torchvision.transforms.v2 import functional as tv

from residual.data.transforms import Preprocessing, prepare
from residual.evaluate.protocol import Protocol, multi_scale, one_crop, ten_crop
from residual.evaluate.views import cut, names, varied

SHAPES = [(64, 64), (75, 100), (101, 67), (40, 97), (57, 57)]


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng((height, width)).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size, resize", [(56, 64), (56, 63), (32, None)])
@pytest.mark.parametrize("channels", ["RGB", "L"])
def test_one_crop_is_what_predicting_sees(shape, interpolation, size, resize, channels):
    count = len(channels)
    preprocessing = Preprocessing(
        size=size, resize=resize, channels=channels, interpolation=interpolation, mean=(0,) * count, std=(1,) * count
    )
    image = noise(*shape, count)
    (view,) = cut(image, one_crop(preprocessing))
    assert np.array_equal(view, prepare(image, preprocessing))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_four_corners_are_those_of_torchvision(shape):
    protocol = replace(ten_crop(one_crop(Preprocessing(size=56, resize=64))), corners="image")
    scale = 64 / min(shape)
    size = (max(64, round(shape[1] * scale)), max(64, round(shape[0] * scale)))
    resized = Image.fromarray(noise(*shape)).resize(size, Image.Resampling.BILINEAR)
    ours, theirs = cut(noise(*shape), protocol), tv.five_crop(resized, [56, 56])
    for one, other in zip(ours[:4], theirs[:4], strict=True):  # in the middle torchvision rounds, and we cut as stored
        assert np.array_equal(one, np.asarray(other))


def test_whole_images_keep_their_shape_at_every_scale():
    protocol = multi_scale(one_crop(Preprocessing(size=224, resize=256)))
    assert [view.shape for view in cut(noise(30, 40), protocol)] == [
        (224, 299, 3), (256, 341, 3), (384, 512, 3), (480, 640, 3), (640, 853, 3),
    ]  # fmt: skip


def test_without_antialiasing_only_the_nearest_pixels_count():
    """To a quarter of the side, each new pixel is the mean of the middle two by two of four by four."""
    image = noise(32, 32)
    protocol = replace(one_crop(Preprocessing(size=8)), antialias=False)
    blocks = image.reshape(8, 4, 8, 4, 3).astype(float)
    middle = blocks[:, 1:3, :, 1:3].mean((1, 3))
    (view,) = cut(image, protocol)
    assert np.abs(view - middle).max() <= 0.5
    assert np.abs(cut(image, replace(protocol, antialias=True))[0] - blocks.mean((1, 3))).mean() > 1


def test_shifts_look_over_a_border_of_zeros():
    images = torch.arange(2 * 3 * 32 * 32).view(2, 3, 32, 32).float() + 1
    shown = varied(images, ten_crop(one_crop(Preprocessing(size=32))))
    assert len(shown) == 10
    top_left, bottom_right, centre = shown[0], shown[3], shown[4]
    assert torch.equal(centre, images)
    assert torch.equal(top_left[..., 4:, 4:], images[..., :-4, :-4])
    assert not top_left[..., :4, :].any()
    assert not top_left[..., :4].any()
    assert torch.equal(bottom_right[..., :-4, :-4], images[..., 4:, 4:])
    assert torch.equal(shown[0], functional.pad(images, (4, 4, 4, 4))[..., :32, :32])
    for straight, mirrored in zip(shown[:5], shown[5:], strict=True):
        assert torch.equal(mirrored.flip(-1), straight)


@pytest.mark.parametrize("flips", [True, False])
@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("make", [lambda once: once, ten_crop, multi_scale])
def test_every_view_has_a_name_of_its_own(make, pad, flips):
    protocol: Protocol = replace(make(one_crop(Preprocessing(size=24, resize=24 if pad else 28))), flips=flips)
    views = cut(noise(40, 50), protocol)
    shown = len(views) * len(varied(torch.zeros(1, 3, 24, 24), protocol))
    assert len(set(names(protocol))) == len(names(protocol)) == shown
