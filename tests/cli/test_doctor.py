import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from residual.data.shapes import draw_shapes
from residual.data.transforms import Normalize, Preprocessing, prepare
from residual.models.description import Description
from residual.models.resnet import ResNet
from residual.weights.card import Card
from residual.weights.safetensors import read, save

CARD = Card(
    name="small",
    model=Description(
        block="bottleneck",
        depths=(1, 1),
        widths=(8, 8),
        stem="imagenet",
        stem_width=16,
        stride_in="middle",
        classes=10,
        image=32,
    ),
    classes=("circle", "cross", "heart", "hexagon", "moon", "ring", "square", "star", "stripes", "triangle"),
    preprocessing=Preprocessing(
        size=32, resize=36, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
    ),
)  # fmt: skip
TURNED = replace(CARD.preprocessing, channels="BGR", mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395))


@pytest.fixture
def drawn(quiet_place: Path) -> Path:
    """A folder of forty drawn shapes by class, more red than blue, and a file that is no image."""
    shapes = draw_shapes(40, size=48, seed=3)
    pixels = (shapes.pixels * torch.tensor([1.0, 0.8, 0.5])).to(torch.uint8).numpy()
    for number, (picture, label) in enumerate(zip(pixels, shapes.labels.tolist(), strict=True)):
        folder = quiet_place / "drawn" / shapes.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number}.png")
    return quiet_place / "drawn"


@pytest.fixture
def mistaken(drawn: Path, quiet_place: Path) -> Path:
    """Untrained weights whose norms remember these images, with a card that takes red for blue."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(CARD.model)
    pictures = [torch.from_numpy(_opened(path)) for path in sorted(drawn.rglob("*.png"))]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(Normalize(CARD.preprocessing)(torch.stack(pictures)))
    save(quiet_place / "mistaken.safetensors", model.state_dict(), replace(CARD, preprocessing=TURNED))
    (drawn / "notes.txt").write_text("no image")
    return quiet_place / "mistaken.safetensors"


def _opened(path: Path) -> Any:
    with Image.open(path) as picture:
        import numpy as np

        return prepare(np.asarray(picture), CARD.preprocessing)


def test_a_fault_is_named_and_a_corrected_file_written(say: Callable[..., Any], mistaken: Path, drawn: Path):
    said = say("weights", "doctor", mistaken.name, "--images", drawn.name, "--count", 40, "--workers", 0)
    assert (said.code, said.err) == (0, "")
    assert "faulty       channels        BGR -> RGB" in said.out
    assert said.out.count("faulty") == 1
    assert said.out.splitlines()[-1] == (
        "Next: residual weights doctor mistaken.safetensors --images drawn --count 40 --out "
        "mistaken-corrected.safetensors"
    )
    said = say(
        *("weights", "doctor", mistaken.name, "--images", drawn.name, "--count", 40, "--workers", 0),
        *("--out", "right.safetensors"),
    )
    assert said.out.splitlines()[-1] == "Next: residual evaluate right.safetensors --data DIR"
    tensors, card = read("right.safetensors")
    assert (card.preprocessing, card.model, card.classes) == (CARD.preprocessing, CARD.model, CARD.classes)
    assert card.history["corrected"] == {"channels": "BGR -> RGB"}
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read(mistaken)[0].items())
    said = say("weights", "doctor", "right.safetensors", "--images", drawn.name, "--workers", 0, "--out", "more.st")
    assert "faulty" not in said.out
    assert "There is nothing to correct" in said.out
    assert not Path("more.st").exists()


def test_json_of_an_examination_parses(say: Callable[..., Any], mistaken: Path, drawn: Path):
    found = json.loads(say("weights", "doctor", mistaken, "--data", drawn, "--workers", 0, "--json").out)
    verdicts = {one["setting"]: one["verdict"] for one in found["findings"]}
    assert verdicts["channels"] == "faulty"
    assert verdicts["class order"] == "cannot tell"  # it was never trained
    assert found["labelled"] is True
    assert found["images"] == 40
    assert found["corrected"]["preprocessing"]["channels"] == "RGB"


def test_what_a_user_can_get_wrong_is_said(say: Callable[..., Any], mistaken: Path, drawn: Path):
    said = say("weights", "doctor", mistaken)
    assert (said.code, "add --images DIR" in said.err) == (2, True)
    assert say("weights", "doctor", mistaken, "--images", drawn, "--data", drawn).code == 2
    said = say("weights", "doctor", mistaken, "--images", mistaken)
    assert (said.code, "is no folder" in said.err) == (2, True)
    said = say("weights", "doctor", mistaken, "--images", drawn / "moon", "--workers", 0)
    assert (said.code, "4 images are too few" in said.err) == (2, True)
    said = say("weights", "doctor", mistaken, "--images", drawn, "--out", mistaken)
    assert (said.code, "is not overwritten" in said.err) == (2, True)


def test_a_published_network_is_sound(say: Callable[..., Any], shared_data: Path):
    file = next((shared_data / "weights").glob("*.th"), None)
    if file is None or not (shared_data / "cifar10_small" / "test").is_dir():
        pytest.skip("no published weights there")
    said = say("weights", "doctor", file, "--data", shared_data / "cifar10_small", "--count", 128, "--workers", 0)
    assert said.code == 0
    assert "faulty" not in said.out
    for setting in ("channels", "mean and scale", "class order"):
        assert f"sound        {setting}" in said.out
