import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

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
    assert "layout   unknown" in said.out
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
