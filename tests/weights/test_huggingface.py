"""transformers' names for torchvision's network: renamed here by hand, so that the answers must stay."""

import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision.models

from residual.weights import huggingface
from residual.weights.files import BadWeights
from residual.weights.sources import inspect, load


def their_name(name: str) -> str:
    """transformers' name of one of torchvision's tensors (convert_resnet_to_pytorch.py there does the same)."""
    for pattern, made in (
        (r"conv1\.(.*)", r"resnet.embedder.embedder.convolution.\1"),
        (r"bn1\.(.*)", r"resnet.embedder.embedder.normalization.\1"),
        (r"fc\.(.*)", r"classifier.1.\1"),
    ):
        if found := re.fullmatch(pattern, name):
            return found.expand(made)
    stage, block, rest = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", name).groups()
    place = f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}"
    if found := re.fullmatch(r"downsample\.([01])\.(.*)", rest):
        return f"{place}.shortcut.{('convolution', 'normalization')[int(found[1])]}.{found[2]}"
    kind, number, field = re.fullmatch(r"(conv|bn)(\d)\.(.*)", rest).groups()
    return f"{place}.layer.{int(number) - 1}.{'convolution' if kind == 'conv' else 'normalization'}.{field}"


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_it_answers_as_the_network_under_their_names(name: str, tmp_path: Path, foreign: Any) -> None:
    theirs = foreign.perturbed(getattr(torchvision.models, name)(num_classes=6))
    state = {their_name(key): tensor for key, tensor in theirs.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    torch.save(state, tmp_path / "pytorch_model.bin")
    for file in ("model.safetensors", "pytorch_model.bin"):
        assert inspect(tmp_path / file)["layout"] == "transformers"
        assert foreign.difference(load(tmp_path / file), theirs) < 1e-5


def test_a_bare_backbone_is_refused(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    kept = {their_name(key): tensor for key, tensor in state.items() if not key.startswith("fc")}
    with pytest.raises(BadWeights, match=r"'classifier\.weight' .* is missing"):
        huggingface.convert(kept)


@pytest.mark.parametrize(
    "name", ["resnet.encoder.stages.0.layers.00.layer.0.convolution.weight", "classifier.weight", "resnet.pooler", ""]
)
def test_other_names_are_not_theirs(name: str) -> None:
    assert huggingface.ours(name) is None
