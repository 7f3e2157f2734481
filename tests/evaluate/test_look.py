"""Scores under every protocol agree with a direct implementation: Pillow, one image, one crop at a time."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from residual.data.images import ImageFiles, Images
from residual.data.transforms import Preprocessing
from residual.evaluate.look import (
    Member,
    class_order,
    combined,
    dense,
    look,
    per_channel,
    score_views,
    with_progress,
)
from residual.evaluate.originals import stored
from residual.evaluate.protocol import Protocol, at_size, multi_scale, one_crop, ten_crop
from residual.evaluate.score import score
from residual.models.resnet import ResNet

PREPROCESSING = Preprocessing(size=56, resize=64, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
ONCE = one_crop(PREPROCESSING)
TOLERANCE = 1e-5  # float32 sums in another order


# --- the oracle ----------------------------------------------------------------------------------------------


def as_tensor(picture: Image.Image) -> Tensor:
    """(1, 3, H, W), normalised number by number."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].double()
    mean, std = (torch.tensor(three).double().view(3, 1, 1) for three in (PREPROCESSING.mean, PREPROCESSING.std))
    return ((pixels - mean) / std).float()


def shorter_side(picture: Image.Image, side: int) -> Image.Image:
    width, height = picture.size
    scale = side / min(width, height)
    return picture.resize(
        (max(side, round(width * scale)), max(side, round(height * scale))), Image.Resampling.BILINEAR
    )


def centre(picture: Image.Image, size: int) -> Image.Image:
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def five(picture: Image.Image, size: int) -> Iterator[Image.Image]:
    right, bottom = picture.width - size, picture.height - size
    for left, top in ((0, 0), (right, 0), (0, bottom), (right, bottom)):
        yield picture.crop((left, top, left + size, top + size))
    yield centre(picture, size)


def shown(picture: Image.Image, protocol: Protocol) -> Iterator[Image.Image]:
    if protocol.name == "multi-scale":
        whole = [shorter_side(picture, scale) for scale in protocol.scales]
    else:
        resized = shorter_side(picture, protocol.resize or 0)
        if protocol.corners == "square":
            resized = centre(resized, protocol.resize or 0)
        ten = protocol.name == "ten-crop"
        whole = list(five(resized, protocol.size)) if ten else [centre(resized, protocol.size)]
    for view in whole:
        yield view
        if protocol.flips:
            yield view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def directly(model: ResNet, picture: Image.Image, protocol: Protocol) -> Tensor:
    """(K,) averaged probabilities or logits of one image."""
    said = []
    for view in shown(picture, protocol):
        with torch.inference_mode():
            maps = model.features(as_tensor(view))[-1]
            weight = model.classifier.weight[:, :, None, None]
            logits = torch.nn.functional.conv2d(maps, weight, model.classifier.bias)[0].double()  # (K, h, w)
        if protocol.positions == "probabilities":
            at_once = logits.softmax(0).mean((1, 2)).log()
        else:
            at_once = logits.mean((1, 2))
        said.append(at_once.softmax(0) if protocol.average == "probabilities" else at_once)
    return torch.stack(said).mean(0)


PROTOCOLS = {
    "one crop": ONCE,
    "one crop and its mirror image": replace(ONCE, flips=True),
    "ten crops, the paper's": ten_crop(ONCE),
    "ten crops, fb.resnet.torch's": replace(ten_crop(ONCE), corners="image", average="logits"),
    "ten crops, corners of the image, probabilities": replace(ten_crop(ONCE), corners="image"),
    "five scales": multi_scale(ONCE),
    "five scales without flips, logits": replace(multi_scale(ONCE), flips=False, average="logits"),
    "five scales, probabilities of positions": replace(multi_scale(ONCE), positions="probabilities"),
    "two scales": replace(multi_scale(ONCE), scales=(40, 70)),
    "a larger crop": at_size(ONCE, 72),
    "a tighter crop": at_size(ONCE, 64, 0.95),
}


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS.keys())
def test_scores_are_those_of_one_crop_at_a_time(
    protocol: Protocol, narrow: ResNet, photographs: ImageFiles, pictures: list[Image.Image]
):
    scores = score_views(narrow, photographs, PREPROCESSING, protocol)
    expected = torch.stack([directly(narrow, picture, protocol) for picture in pictures])
    found = scores.logits.double()
    found = found.softmax(1) if protocol.average == "probabilities" else found
    assert torch.allclose(found, expected, atol=TOLERANCE, rtol=0)
    assert scores.protocol == protocol


def test_the_protocols_can_be_told_apart_at_this_tolerance(narrow: ResNet, photographs: ImageFiles):
    """Or agreement with the direct implementation would say nothing."""
    every = [score_views(narrow, photographs, PREPROCESSING, protocol).probabilities for protocol in PROTOCOLS.values()]
    for place, one in enumerate(every):
        for other in every[:place]:
            assert (one - other).abs().max() > 100 * TOLERANCE


# --- laws ----------------------------------------------------------------------------------------------------


def in_memory(photographs: ImageFiles) -> Images:
    """As a data set keeps them: squares of 64 pixels."""
    return Images(
        pixels=torch.from_numpy(np.stack(list(stored(photographs)))),
        labels=photographs.labels,
        classes=photographs.classes,
        names=photographs.names,
    )


@pytest.mark.parametrize("protocol", [ONCE, replace(ONCE, flips=True), ten_crop(ONCE)], ids=["one", "flips", "ten"])
def test_squares_in_memory_are_as_good_as_files_where_they_hold_all(
    protocol: Protocol, narrow: ResNet, photographs: ImageFiles
):
    """Files are decoded as squares, or whole (another filter asked for by a second member): the same scores."""
    small = score_views(narrow, in_memory(photographs), PREPROCESSING, protocol)
    assert torch.equal(small.logits, score_views(narrow, photographs, PREPROCESSING, protocol).logits)
    one, other = (
        Member(model=narrow, preprocessing=PREPROCESSING, protocol=each)
        for each in (protocol, replace(protocol, interpolation="bicubic"))
    )
    whole = torch.cat([combined(said[:1], protocol.average) for said in look([one, other], photographs)])
    assert torch.equal(small.logits, whole)


def test_one_crop_is_what_score_measures(narrow: ResNet, photographs: ImageFiles):
    images = in_memory(photographs)
    expected = score(narrow, images, PREPROCESSING)
    found = score_views(narrow, images, PREPROCESSING, ONCE)
    assert torch.allclose(found.logits, expected.logits, atol=TOLERANCE)
    assert found.protocol == expected.protocol == ONCE


@pytest.mark.parametrize("held", [1, 200_000])
def test_scores_do_not_depend_on_how_many_views_wait(
    held: int, narrow: ResNet, photographs: ImageFiles, monkeypatch: pytest.MonkeyPatch
):
    protocol = multi_scale(ONCE)
    expected = score_views(narrow, photographs, PREPROCESSING, protocol).logits
    monkeypatch.setattr("residual.evaluate.look.HELD", held)
    monkeypatch.setattr("residual.evaluate.look.PIXELS_AT_ONCE", 10_000)
    member = Member(model=narrow, preprocessing=PREPROCESSING, protocol=protocol)
    said = list(look([member], photographs))
    assert len(said) > 1
    found = torch.cat([combined(views, "probabilities") for views in said])
    assert torch.allclose(found, expected, atol=TOLERANCE)


def test_members_say_together_what_they_say_alone(narrow: ResNet, photographs: ImageFiles):
    protocols = (ONCE, ten_crop(ONCE), replace(multi_scale(ONCE), scales=(60,)))
    members = [Member(model=narrow, preprocessing=PREPROCESSING, protocol=protocol) for protocol in protocols]
    (together,) = look(members, photographs)
    for member, said in zip(members, together, strict=True):
        ((alone,),) = look([member], photographs)
        assert torch.equal(said, alone)
    assert [said.shape[1] for said in together] == [1, 10, 2]


def test_an_ensemble_counts_every_network_the_same():
    """However many views one has; and softmax of the result is the mean of the probabilities."""
    many, one = torch.randn(4, 10, 7), torch.randn(4, 1, 7)
    means = (many.double().softmax(2).mean(1) + one.double().softmax(2)[:, 0]) / 2
    assert torch.allclose(combined([many, one], "probabilities").double().softmax(1), means, atol=1e-6)
    assert torch.allclose(combined([many, one], "logits"), (many.mean(1) + one[:, 0]) / 2, atol=1e-6)


def test_certainty_beyond_float32_stays_finite_and_nothing_else_does():
    sure = torch.tensor([[[0.0, 2000.0], [0.0, 2000.0]]])
    assert torch.isfinite(combined([sure], "probabilities")).all()
    assert combined([torch.full((1, 2, 2), torch.nan)], "probabilities").isnan().all()


def test_logits_averaged_over_positions_are_those_of_averaged_features(narrow: ResNet):
    """So a network as it is, on a larger image, is fully convolutional already."""
    images = torch.randn(2, 3, 90, 130)
    with torch.inference_mode():
        maps = dense(narrow, images)
        assert maps.shape == (2, 7, 3, 5)
        assert torch.allclose(maps.mean((2, 3)), narrow(images), atol=TOLERANCE)


def test_a_mean_image_is_taken_off_at_its_own_size_and_its_channels_means_elsewhere(
    narrow: ResNet, photographs: ImageFiles
):
    generator = torch.Generator().manual_seed(0)
    picture = 255 * torch.rand(3, 56, 56, generator=generator, dtype=torch.float64)
    per_pixel = replace(PREPROCESSING, mean=tuple(picture.flatten().tolist()))
    flat = replace(PREPROCESSING, mean=tuple(picture.mean((1, 2)).tolist()))
    assert per_channel(per_pixel).mean == pytest.approx(flat.mean)
    assert per_channel(flat) == flat
    larger = at_size(ONCE, 72)
    expected = score_views(narrow, photographs, flat, larger).logits
    assert torch.allclose(score_views(narrow, photographs, per_pixel, larger).logits, expected, atol=1e-4)
    first = next(stored(photographs))[4:60, 4:60]
    by_hand = (torch.from_numpy(first).permute(2, 0, 1) - picture) / torch.tensor(PREPROCESSING.std).view(3, 1, 1)
    with torch.inference_mode():
        expected = narrow(by_hand.float()[None])[0]
    assert torch.allclose(score_views(narrow, photographs, per_pixel, ONCE).logits[0], expected, atol=1e-4)


def test_bfloat16_is_near_and_not_the_same(narrow: ResNet, photographs: ImageFiles):
    exact = score_views(narrow, photographs, PREPROCESSING, ONCE).logits
    half = score_views(narrow, photographs, PREPROCESSING, replace(ONCE, precision="bfloat16")).logits
    assert not torch.equal(exact, half)
    assert torch.allclose(exact, half, atol=0.05 * float(exact.abs().max()))


def test_the_model_is_left_as_it_was(narrow: ResNet, photographs: ImageFiles):
    before = {name: value.clone() for name, value in narrow.state_dict().items()}
    narrow.train()
    try:
        score_views(narrow, photographs, PREPROCESSING, ten_crop(ONCE))
        assert narrow.training
    finally:
        narrow.eval()
    assert all(torch.equal(value, before[name]) for name, value in narrow.state_dict().items())


def test_progress_counts_images(narrow: ResNet, photographs: ImageFiles, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("residual.evaluate.look.MOST_AT_ONCE", 4)
    told: list[tuple[int, int]] = []
    member = Member(model=narrow, preprocessing=PREPROCESSING, protocol=ONCE)
    said = with_progress(look([member], photographs), 6, lambda done, total: told.append((done, total)))
    assert [len(views[0]) for views in said] == [4, 2]
    assert told == [(4, 6), (6, 6)]


def test_outputs_follow_the_classes_of_the_first_network():
    assert class_order(("a", "b"), ("a", "b")) is None
    order = class_order(("b", "c", "a"), ("a", "b", "c"))
    assert order is not None
    assert order.tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match="only one has 'b'"):
        class_order(("a", "c"), ("a", "b"))


# --- refusals ------------------------------------------------------------------------------------------------


def test_positions_of_a_network_that_cannot_be_asked_are_refused(photographs: ImageFiles):
    foreign = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 7))
    protocol = replace(multi_scale(ONCE), positions="probabilities")
    with pytest.raises(ValueError, match="positions"):
        score_views(foreign, photographs, PREPROCESSING, protocol)


def test_colour_is_refused_by_a_network_for_grey_images(narrow: ResNet, photographs: ImageFiles):
    grey = Preprocessing(size=56, resize=64, channels="L", mean=(0,), std=(1,))
    with pytest.raises(ValueError, match="3 channels"):
        score_views(narrow, photographs, grey, one_crop(grey))
