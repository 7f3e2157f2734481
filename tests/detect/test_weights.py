"""A detector's file can be used by whoever has it, and by nobody who has something else."""

import time
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from residual.detect import weights
from residual.detect.card import DetectorCard, card_of, from_json, to_json
from residual.detect.catalog import describe_detector
from residual.detect.detector import Detector, find_together
from residual.detect.procedure import Procedure

CLASSES = ("a", "b", "c")
SIDE = 48


def made(name: str = "faster_rcnn_small_c4", *, seed: int = 0, **changes) -> Detector:
    torch.manual_seed(seed)
    described = describe_detector(name, CLASSES, side=SIDE, norm="group")
    about = {"name": name, "classes": CLASSES, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.2)}
    card = card_of(described, procedure=Procedure(side=SIDE, longest=2 * SIDE), **about)
    return Detector(replace(card, **changes)).eval()


def picture(height: int = 50, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", ["faster_rcnn_small_c4", "mask_rcnn_small_c4", "mnc_small", "localizer_small"])
def test_what_was_saved_answers_as_before(tmp_path, name):
    detector = made(name)
    weights.save(tmp_path / "one.safetensors", detector.net.state_dict(), detector.card)
    random = torch.random.get_rng_state()
    again = weights.load(tmp_path / "one.safetensors")
    assert torch.equal(random, torch.random.get_rng_state())  # no random number was drawn
    one, other = detector.find(picture()), again.find(picture())
    assert torch.equal(one.boxes, other.boxes)
    assert torch.equal(one.scores, other.scores)
    assert weights.holds_detector(tmp_path / "one.safetensors")


def test_answers_lie_on_the_image_whatever_its_size():
    detector = made("mask_rcnn_small_c4")
    for size in ((1, 1), (3, 400), (300, 7), (50, 80)):
        found = detector.find(picture(*size))
        assert found.masks.shape[1:] == size
        assert bool((found.boxes >= 0).all())
        assert bool((found.boxes <= torch.tensor([size[1], size[0]] * 2)).all())
        assert bool((found.scores[:-1] >= found.scores[1:]).all())


@pytest.mark.parametrize("name", ["faster_rcnn_small_c4", "mask_rcnn_small_c4", "mnc_small", "localizer_small"])
def test_the_faster_copy_answers_as_the_network_and_is_no_part_of_the_state(name):
    detector = made(name)
    before = set(detector.state_dict())
    assert type(detector.quick) is type(detector.net)
    assert set(detector.state_dict()) == before
    found = detector.find(picture())
    detector._quick[:] = [detector.net]
    slow = detector.find(picture())
    assert len(found) == len(slow)
    assert torch.allclose(found.scores, slow.scores, atol=1e-4)
    assert torch.allclose(found.boxes, slow.boxes, atol=1e-2)
    detector.to(torch.device("cpu"))
    assert detector._quick == []


def test_a_localizer_tells_different_classes_the_surest_first():
    found = made("localizer_small").find(picture())
    assert sorted(found.labels.tolist()) == [0, 1, 2]
    assert bool((found.scores[:-1] >= found.scores[1:]).all())


def test_an_ensemble_of_one_is_that_one_and_of_strangers_is_refused():
    one, other = made(), made(seed=1)
    assert torch.equal(find_together([one, one], picture()).boxes, one.find(picture()).boxes)
    assert not torch.equal(find_together([one, other], picture()).scores, one.find(picture()).scores)
    with pytest.raises(ValueError, match="what is subtracted"):
        find_together([one, made(mean=(0.1, 0.1, 0.1))], picture())
    with pytest.raises(ValueError, match="no Faster R-CNN"):
        find_together([one, made("mnc_small")], picture())


def test_other_tensors_than_the_cards_are_neither_written_nor_read(tmp_path):
    detector, path = made(), tmp_path / "odd.safetensors"
    state = detector.net.state_dict()
    short = {name: value for name, value in state.items() if name != "head.score.bias"}
    with pytest.raises(ValueError, match=r"head\.score\.bias"):
        weights.save(path, short, detector.card)
    assert not path.exists()
    safetensors.torch.save_file(short, path, {weights.KEY: to_json(detector.card)})
    with pytest.raises(ValueError, match=r"odd\.safetensors.*head\.score\.bias"):
        weights.load(path)
    broken = state | {"head.score.bias": state["head.score.bias"].fill_(float("nan"))}
    safetensors.torch.save_file(broken, path, {weights.KEY: to_json(detector.card)})
    with pytest.raises(ValueError, match="not finite"):
        weights.load(path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_what_is_no_detector_is_refused_by_name(tmp_path, content):
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    assert not weights.holds_detector(path)
    with pytest.raises(ValueError, match=r"file\.safetensors"):
        weights.load(path)


def test_an_unfinished_run_says_how_to_go_on(tmp_path):
    with pytest.raises(ValueError, match="--resume"):
        weights.load(tmp_path)
    with pytest.raises(ValueError, match="there is no"):
        weights.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    "change, words",
    [
        ('"format":1', '"format":2'),
        ('"mean":[0.4', '"mean":[1e999'),
        ('"classes":["a","b","c"],', '"classes":["a","b"],'),
        ('"name":', '"nom":'),
    ],
)
def test_a_card_that_cannot_be_is_refused(change, words):
    text = to_json(made().card)
    assert change in text
    with pytest.raises(ValueError):
        from_json(text.replace(change, words, 1))


GIANTS = {
    "blocks": ("faster_rcnn_small_c4", '"depths":[2,2]', '"depths":[3000000,2]', "3,000,002 blocks"),
    "one stage": ("faster_rcnn_small_c4", '"depths":[2,2],"widths":[64,128]', '"depths":[2],"widths":[64]', "1 stages"),
    "widths": ("faster_rcnn_small_c4", '"widths":[64,128]', '"widths":[64,99999999999]', "widths"),
    "dims": ("faster_rcnn_small_c4", '"dims":2', '"dims":3', "pictures"),
    "anchors": ("faster_rcnn_small_c4", '"shapes":[1.0]', f'"shapes":{[1.0] * 999}', "anchors"),
    "the cut": ("faster_rcnn_small_c4", '"pooled":8', '"pooled":9999', r"regions\.pooled"),
    "proposals": ("faster_rcnn_small_c4", '"after":[100,100]', '"after":[100,1000000000]', r"proposals\.after"),
    "convolutions": ("mask_rcnn_small_fpn", '"convs":2', '"convs":3000000', r"masks\.convs"),
    "neurons": ("mask_rcnn_small_fpn", '"hidden":256', '"hidden":1000000000000', r"pyramid\.hidden"),
    "the warped": ("mnc_small", '"warped":16', '"warped":8000', "warped"),
    "a mask": ("mnc_small", '"mask":15', '"mask":15000', "mask"),
    "no side": ("mnc_small", '"pooled":8,', '"pooled":0,', "cannot be read"),
    "the cut out": ("localizer_small", '"side":24', '"side":24000', "side"),
    "the image": ("faster_rcnn_small_c4", '"side":48', '"side":1000000000', "at most"),
}


@pytest.mark.parametrize("name, change, words, said", GIANTS.values(), ids=GIANTS)
def test_a_card_of_what_nobody_can_build_is_refused_at_once(tmp_path, name, change, words, said):
    text = to_json(made(name).card)
    assert change in text
    path = tmp_path / "giant.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, path, {weights.KEY: text.replace(change, words)})
    begun = time.process_time()
    with pytest.raises(ValueError, match=rf"giant\.safetensors.*{said}"):
        weights.load(path)
    assert time.process_time() - begun < 1


def test_a_card_describes_one_network():
    card = made().card
    with pytest.raises(ValueError, match="one network"):
        replace(card, detector=None)
    with pytest.raises(ValueError, match="one network"):
        replace(card, cascade=made("mnc_small").card.cascade)
    assert isinstance(card, DetectorCard)
