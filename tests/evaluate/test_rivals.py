"""Rivals are other than the claim and than each other; turned twice, colours are as they were."""

from itertools import combinations

import pytest

from residual.data.transforms import IMAGENET_MEAN as MEAN
from residual.data.transforms import IMAGENET_STD as STD
from residual.data.transforms import Preprocessing
from residual.evaluate.rivals import (
    OF_IMAGES,
    OF_NETWORKS,
    alike,
    backwards,
    colourings,
    orders_of_colours,
    shorter_sides,
)
from residual.models.catalog import describe, list_models

RED = Preprocessing(size=56, resize=64, mean=MEAN, std=STD)
BLUE = Preprocessing(size=56, resize=58, channels="BGR", interpolation="bicubic", mean=MEAN[::-1], std=(1.0,) * 3)
GREY = Preprocessing(size=56, channels="L", mean=(127.5,), std=(127.5,))
PER_PIXEL = Preprocessing(size=2, mean=tuple(map(float, range(12))), std=(255.0,) * 3)


@pytest.mark.parametrize("images", [RED, BLUE, GREY, PER_PIXEL], ids=["red", "blue", "grey", "per pixel"])
def test_no_rival_is_the_claim_and_none_comes_twice(images: Preprocessing):
    for rivals in OF_IMAGES.values():
        found = [images, *rivals(images)]
        assert len(set(found)) == len(found)
    for one, other in combinations([images, *colourings(images)], 2):
        assert not alike(one, other)


@pytest.mark.parametrize("name", list_models())
def test_a_network_has_one_rival_of_a_setting_that_it_has(name: str):
    network = describe(name)
    strides, pools = (list(OF_NETWORKS[setting](network)) for setting in ("stride", "stem pooling"))
    assert len(strides) == (network.block == "bottleneck")
    assert len(pools) == (network.stem == "imagenet")
    assert network not in strides + pools


@pytest.mark.parametrize("images", [RED, BLUE, PER_PIXEL], ids=["red", "blue", "per pixel"])
def test_colours_that_are_turned_twice_are_as_they_were(images: Preprocessing):
    assert backwards(backwards(images.mean)) == images.mean
    turned = next(orders_of_colours(images))
    assert turned.channels != images.channels
    assert next(orders_of_colours(turned)) == images


def test_of_every_pixel_the_channels_are_turned_and_the_rows_stay():
    assert backwards(PER_PIXEL.mean) == (8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3)


def test_shorter_sides_are_those_of_224_scaled_and_last_comes_the_squeezed_image():
    assert [one.resize for one in shorter_sides(RED)] == [58, 56, None]
    assert [one.resize for one in shorter_sides(GREY)] == [64, 58, 56]
