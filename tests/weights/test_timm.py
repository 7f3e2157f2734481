"""timm's networks answer here as they do there."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from residual.weights.sources import inspect, load, read

timm = pytest.importorskip("timm")


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_it_answers_as_theirs_does(name: str, tmp_path: Path, foreign: Any) -> None:
    theirs = foreign.perturbed(timm.create_model(name, num_classes=20))
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    assert foreign.difference(load(tmp_path / "model.safetensors"), theirs) < 1e-5


def test_safetensors_with_these_names_are_taken_for_timm_s_unless_said_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(timm.create_model("resnet18", num_classes=2).state_dict(), path)
    found = inspect(path)
    assert (found["layout"], found["container"]) == ("timm", "safetensors")
    assert (found["card"]["preprocessing"]["interpolation"], found["card"]["preprocessing"]["resize"]) == (
        "bicubic",
        235,
    )
    _, card = read(path, layout="torchvision")
    assert (card.preprocessing.interpolation, card.history["layout"]) == ("bilinear", "torchvision")


def test_what_most_of_timm_s_resnets_expect_is_what_the_card_assumes() -> None:
    """By timm's own table: the recipe that most of its files share."""
    from timm.data import create_transform, resolve_data_config

    from residual.weights import imagenet

    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg("resnet50.a1_in1k").to_dict())
    resize, crop, *_ = create_transform(**config).transforms
    assert (resize.size, resize.interpolation.value) == (imagenet.TIMM.resize, imagenet.TIMM.interpolation)
    assert tuple(crop.size) == (imagenet.TIMM.size,) * 2
    assert torch.allclose(torch.tensor(config["mean"]) * 255, torch.tensor(imagenet.TIMM.mean))
    assert torch.allclose(torch.tensor(config["std"]) * 255, torch.tensor(imagenet.TIMM.std))
