import http.client
import json
import urllib.response
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from residual.weights.safetensors import read


def test_a_file_of_ours_says_what_it_expects(say: Callable[..., Any], trained: Path):
    said = say("weights", "inspect", trained)
    assert (said.code, said.err) == (0, "")
    for words in ("layout   residual", "network  resnet8: basic", "classes  10: 0, 1, 2", "images   L, 8x8", "recipe"):
        assert words in said.out
    assert said.out.splitlines()[-1] == f"Next: residual evaluate {trained} --data DIR"


def test_json_of_an_inspection_parses(say: Callable[..., Any], trained: Path):
    found = json.loads(say("weights", "inspect", trained / "model.safetensors", "--json").out)
    assert found["layout"] == "residual"
    assert {"name": "classifier.weight", "shape": [10, 64]} in found["tensors"]


def test_a_file_of_nobody_we_know_is_described_and_refused(say: Callable[..., Any], quiet_place: Path):
    torch.save({"some.weight": torch.zeros(2, 3)}, quiet_place / "some.pth")
    said = say("weights", "inspect", "some.pth")
    assert said.code == 2
    assert "layout   unknown (torch.save)" in said.out
    assert "some.weight" in said.err
    said = say("weights", "inspect", "some.pth", "--json")
    assert said.code == 2
    assert json.loads(said.out)["layout"] == "unknown"


def test_converted_weights_are_the_same(say: Callable[..., Any], trained: Path):
    said = say("weights", "convert", trained, "new.safetensors")
    assert (said.code, said.err) == (0, "")
    (ours, card), (theirs, other) = read(Path("new.safetensors")), read(trained / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert card.classes == other.classes


def test_published_weights_are_converted(say: Callable[..., Any], shared_data: Path):
    file = next((shared_data / "weights").glob("*.th"), None)
    if file is None:
        pytest.skip("no published weights there")
    assert say("weights", "inspect", file).out.count("akamaster") > 0
    said = say("weights", "convert", file, "resnet20.safetensors")
    assert (said.code, said.out.splitlines()[0]) == (0, "resnet20.safetensors: resnet20, 10 classes")


@pytest.fixture
def theirs(quiet_place: Path) -> Path:
    """A file as torchvision's users have it."""
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=2).state_dict(), quiet_place / "theirs.pth")
    return Path("theirs.pth")


def test_somebody_s_file_is_inspected_converted_and_written_back(say: Callable[..., Any], theirs: Path):
    said = say("weights", "inspect", theirs)
    assert (said.code, said.err) == (0, "")
    for words in (
        "layout   torchvision (torch.save)",
        "network  resnet18: basic",
        "centre cropped, bilinear)",
        "classes  2",
        "assumed: images as",
    ):
        assert words in said.out
    assert said.out.splitlines()[-1] == "Next: residual weights convert theirs.pth theirs-ours.safetensors"

    said = say("weights", "convert", theirs, "theirs.safetensors")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[0] == "theirs.safetensors: resnet18, 2 classes"
    assert said.out.splitlines()[1].startswith("Assumed, for the file does not say: ")
    assert said.out.splitlines()[-1] == "Next: residual evaluate theirs.safetensors --data DIR"

    said = say("weights", "export", "theirs.safetensors", "back.pth", "--to", "torchvision")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[-1] == "Next: residual weights inspect back.pth --layout torchvision"
    before, after = (torch.load(path, weights_only=True) for path in (theirs, "back.pth"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_shapes_do_not_tell_is_said(say: Callable[..., Any], quiet_place: Path):
    their = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=2)
    torch.save(their.state_dict(), "theirs.pth")
    said = say("weights", "inspect", "theirs.pth")
    assert "bottleneck blocks (1, 1, 1, 1), shortcut B, stride in the 3x3\n" in said.out


def test_whose_names_they_are_can_be_said(say: Callable[..., Any], theirs: Path):
    found = json.loads(say("weights", "inspect", theirs, "--layout", "timm", "--json").out)
    assert found["card"]["preprocessing"]["interpolation"] == "bicubic"


@pytest.mark.parametrize(
    "words, reason",
    [
        (("inspect", "theirs.pth", "--layout", "nobody"), "no layout is called 'nobody'; there are: akamaster"),
        (("export", "theirs.pth", "x.pth", "--to", "nobody"), "there are: torchvision, timm"),
        (("export", "theirs.pth", "theirs.pth", "--to", "timm"), "exists and is not overwritten"),
        (("convert", "theirs.pth", "theirs.pth"), "exists and is not overwritten"),
        (("download", "resnet50", "nobody"), "there are: torchvision/IMAGENET1K_V2"),
        (("download", "lenet", "torchvision"), "no published weights of 'lenet'"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_way_out(
    words: tuple[str, ...], reason: str, say: Callable[..., Any], theirs: Path
):
    before = theirs.read_bytes()
    said = say("weights", *words)
    assert said.code == 2
    assert reason in said.err
    assert theirs.read_bytes() == before
    assert list(Path().iterdir()) == [theirs]


def test_a_published_file_is_fetched_checked_and_inspected(
    say: Callable[..., Any], shared_data: Path, monkeypatch: pytest.MonkeyPatch
):
    def answer(opener: object, request: Any, timeout: float) -> Any:
        assert request.full_url.endswith("/resnet20-12fca82f.th")
        file = (shared_data / "weights" / "resnet20-12fca82f.th").open("rb")
        return urllib.response.addinfourl(file, http.client.HTTPMessage(), request.full_url, 200)

    monkeypatch.setattr("urllib.request.OpenerDirector.open", answer)
    said = say("weights", "download", "resnet20", "akamaster")
    assert (said.code, said.err) == (0, "")
    path, step = said.out.splitlines()
    assert step == f"Next: residual weights inspect {path}"
    assert "claimed  resnet20 akamaster/cifar10: top-1 error 8.27 % (akamaster" in say("weights", "inspect", path).out


def test_what_can_be_fetched_is_listed_with_what_is_claimed(say: Callable[..., Any]):
    said = say("weights", "list")
    assert (said.code, said.err) == (0, "")
    assert "resnet50          torchvision/IMAGENET1K_V1    23.87   7.14   torchvision" in said.out
    rows = json.loads(say("weights", "list", "--json").out)
    assert {row["network"]: row["top1_error"] for row in rows}["resnet20"] == 8.27


def test_our_form_is_not_written_under_a_name_of_torch_save_s(say: Callable[..., Any], trained: Path):
    said = say("weights", "convert", trained, "mine.pth")
    assert said.code == 2
    assert "call it mine.safetensors" in said.err
    assert not Path("mine.pth").exists()
