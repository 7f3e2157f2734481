"""A protocol is frozen data: the paper's are what the paper says, contradictions are refused."""

from dataclasses import asdict, replace
from typing import Any

import msgspec
import pytest

from residual.data.decode import View
from residual.data.transforms import Preprocessing, view
from residual.evaluate.protocol import Protocol, at_size, keeps_square, multi_scale, one_crop, single, ten_crop, words

IMAGENET = Preprocessing(size=224, resize=256)
CIFAR = Preprocessing(size=32)
ONCE = one_crop(IMAGENET)


def test_the_paper_s_protocols():
    assert (ONCE.size, ONCE.resize, ONCE.flips) == (224, 256, False)
    ten = ten_crop(ONCE)
    assert (ten.corners, ten.average, ten.flips, ten.pad) == ("square", "probabilities", True, 0)
    assert multi_scale(ONCE).scales == (224, 256, 384, 480, 640)


def test_scales_are_in_proportion_to_the_size_of_the_network():
    assert multi_scale(one_crop(Preprocessing(size=112, resize=128))).scales == (112, 128, 192, 240, 320)


@pytest.mark.parametrize("resize", [None, 32])
def test_images_without_room_are_shifted_as_in_training(resize: int | None):
    assert ten_crop(one_crop(replace(CIFAR, resize=resize))).pad == 4


def test_a_larger_crop_keeps_its_share():
    assert at_size(ONCE, 288) == replace(ONCE, size=288, resize=329)  # 288 / 0.875
    assert at_size(ONCE, 288, 1.0).resize == 288
    assert at_size(ONCE, crop=0.95).resize == 236  # RSB's test crop
    assert at_size(one_crop(CIFAR), 40) == replace(one_crop(CIFAR), size=40)  # no share, none invented
    assert at_size(ONCE) == ONCE


def test_every_protocol_begins_with_one_crop():
    for protocol in (ten_crop(ONCE), multi_scale(ONCE), replace(ten_crop(ONCE), corners="image", average="logits")):
        assert single(protocol) == ONCE


@pytest.mark.parametrize(
    "protocol",
    [
        ONCE,
        ten_crop(ONCE),
        multi_scale(ONCE),
        ten_crop(one_crop(CIFAR)),
        replace(multi_scale(ONCE), positions="logits"),
    ],
    ids=words,
)
def test_json_gives_it_back(protocol: Protocol):
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(asdict(protocol))), Protocol) == protocol


def test_protocols_that_differ_read_differently():
    ten, five = ten_crop(ONCE), multi_scale(ONCE)
    every = [
        ONCE, at_size(ONCE, 288), replace(ONCE, flips=True), replace(ONCE, interpolation="bicubic"),
        replace(ONCE, antialias=False), replace(ONCE, precision="bfloat16"), replace(ONCE, resize=None),
        ten, replace(ten, average="logits"), replace(ten, corners="image"), ten_crop(one_crop(CIFAR)),
        five, replace(five, positions="probabilities"), replace(five, flips=False), replace(five, scales=(224,)),
    ]  # fmt: skip
    assert len({words(protocol) for protocol in every}) == len(every)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a name": ({"name": "five-crop"}, "no protocol 'five-crop'; choose one of: one-crop, ten-crop, multi-scale"),
    "a filter": ({"interpolation": "nearest"}, "no interpolation 'nearest'"),
    "an average": ({"average": "softmax"}, "no average 'softmax'"),
    "no size": ({"size": 0}, "sides of 0 to 256"),
    "a size beyond memory": ({"size": 9000, "resize": 9000}, "9000 pixels"),
    "a crop larger than the image": ({"size": 288}, "crops of 288 pixels cannot be cut .* 256"),
    "scales of one crop": ({"scales": (224,)}, "one-crop with scales"),
    "no scales": ({"name": "multi-scale"}, "multi-scale has at least one"),
    "a border of one crop": ({"pad": 4}, "only ten-crop shifts"),
    "a border less than none": ({"name": "ten-crop", "resize": 224, "pad": -1}, "pad is -1"),
    "positions of one crop": ({"positions": "probabilities"}, "one position"),
    "corners without room": ({"name": "ten-crop", "resize": 224}, "larger images or a border"),
    "a border and room": ({"name": "ten-crop", "pad": 4}, "not both"),
    "corners of one crop": ({"corners": "image"}, "ten-crop"),
    "corners of squeezed images": ({"name": "ten-crop", "corners": "image", "resize": None, "pad": 4}, "shape"),
}


@pytest.mark.parametrize("changes, reason", WRONG.values(), ids=WRONG.keys())
def test_contradictions_are_refused(changes: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=reason):
        replace(ONCE, **changes)


@pytest.mark.parametrize("crop", [0, -1, 1.5])
def test_a_share_that_is_none_is_refused(crop: float):
    with pytest.raises(ValueError, match=f"above 0 and at most 1, not {crop}"):
        at_size(ONCE, 224, crop)


def test_a_stored_square_is_enough_for_what_looks_at_nothing_else():
    stored = view(IMAGENET)
    assert keeps_square(ONCE, stored)
    assert keeps_square(ten_crop(ONCE), stored)
    for other in (
        multi_scale(ONCE),
        replace(ten_crop(ONCE), corners="image"),
        at_size(ONCE, 288),
        replace(ONCE, resize=None),
        replace(ONCE, interpolation="bicubic"),
        replace(ONCE, antialias=False),
    ):
        assert not keeps_square(other, stored)
    assert not keeps_square(replace(ONCE, resize=224), View(size=224, resize=None))  # squeezed is not cut
