"""Whose file is this?  One door to every layout we read: a network that is ready to use, with its card."""

import hashlib
import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from residual.models.catalog import catalog
from residual.models.resnet import ResNet
from residual.weights import akamaster, safetensors
from residual.weights.architecture import as_float32, check_values
from residual.weights.card import Card
from residual.weights.pickles import BadWeights, Value, naming, open_file, read_tensors

WEIGHTS = "model.safetensors"  # in a run folder
NESTS = (
    "state_dict",
    "model",
    "net",
    "model_state_dict",
    "state_dict_ema",
)  # where checkpoints keep their tensors
CHUNK = 1 << 20


class Loaded(ResNet):
    """A network with the card it came with."""

    card: Card

    def __init__(self, card: Card) -> None:
        super().__init__(card.model)
        self.card = card


def load(source: str | os.PathLike[str], *, sha256: str | None = None) -> Loaded:
    """The network of a weights file or a run folder, in eval mode on the CPU, with its `.card`.

    source: a .safetensors file of ours, a run folder, or an akamaster .th or .pth file.
    sha256: refuse the file unless this is its hash, or begins it.
    Draws no random numbers.  Refuses, as `BadWeights`, whatever is not exactly a network we know.
    """
    path = locate(source)
    if sha256 is not None and not (found := _hash(path)).startswith(sha256.lower()):
        raise BadWeights(f"{str(path)!r} has sha256 {found}, expected {sha256}: another file, or damaged")
    tensors, card = read(path)
    with torch.device("meta"):  # shapes only: no memory, no random numbers
        model = Loaded(card)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def read(source: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Card]:
    """Tensors under our names, and their card, of any layout we know."""
    path = locate(source)
    if _is_safetensors(path):
        return safetensors.read(path)
    with naming(path):
        theirs = named_tensors(read_tensors(path))
        if not akamaster.recognises(theirs):
            raise BadWeights(_whose(theirs))
        tensors, others = as_float32(theirs)
        tensors, card = akamaster.convert(tensors)
        check_values(tensors, card.model)
    history = {**card.history, "file": path.name, "sha256": _hash(path)}
    if others:
        history["stored_as"] = ", ".join(others)
    return tensors, replace(card, history=history)


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Card:
    """Write somebody's weights as a file of ours, and return its card."""
    tensors, card = read(source)
    safetensors.save(target, tensors, card)
    return card


def inspect(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Whose file this is and what it expects, as plain JSON values.

    `layout` is "residual", "akamaster" or "unknown"; an unknown one has a `problem` and no card.
    """
    path = locate(source)
    found: dict[str, Any] = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": _hash(path),
        "layout": "unknown",
    }
    if _is_safetensors(path):
        found["container"] = "safetensors"
        with naming(path), open_file(path) as file:
            shapes, metadata = safetensors.read_header(file.read())
        if safetensors.KEY in metadata:
            found["layout"] = "residual"
        else:
            found["problem"] = f"{_whose(shapes)}; it carries no card of residual"
    else:
        found["container"] = "torch.save"
        with naming(path):
            theirs = named_tensors(read_tensors(path))
        shapes = {name: tuple(tensor.shape) for name, tensor in theirs.items()}
        if akamaster.recognises(theirs):
            found["layout"] = "akamaster"
        else:
            found["problem"] = _whose(theirs)
    found["tensors"] = [{"name": name, "shape": list(shape)} for name, shape in shapes.items()]
    if found["layout"] != "unknown":
        try:
            found["card"] = msgspec.to_builtins(read(path)[1])
        except BadWeights as problem:
            found["problem"] = str(problem)
    return found


def locate(source: str | os.PathLike[str]) -> Path:
    """The file of weights itself: in a run folder, its model.safetensors."""
    path = Path(source)
    with naming(source):
        if path.is_dir():
            weights = path / WEIGHTS
            if weights.is_file():
                return weights
            if (path / "run.json").is_file():
                raise BadWeights(
                    f"this run has no {WEIGHTS} yet, its training has not finished; go on with it: "
                    f"residual train --resume --out {shlex.quote(os.fspath(source))}"
                )
            raise BadWeights("it is neither a file of weights nor a run folder: it has no run.json")
        if not path.exists() and os.fspath(source) in catalog:
            raise BadWeights(
                "no weights are published under this name; residual.create_model makes the network untrained, "
                "residual train trains it"
            )
        if not path.exists():
            raise BadWeights(
                "there is no such file; a run folder, a .safetensors file or an akamaster .th file is loaded by "
                "its path"
            )
    return path


def named_tensors(value: Mapping[str | int, Value]) -> dict[str, Tensor]:
    """The state dict in a file of torch.save, alone or in a checkpoint; "module." taken away."""
    for nest in NESTS:
        inner = value.get(nest)
        if isinstance(inner, dict):
            value = inner
            break
    tensors = {str(name): tensor for name, tensor in value.items() if isinstance(tensor, Tensor)}
    if not tensors:
        held = ", ".join(sorted(map(str, value))[:5]) or "nothing"
        raise BadWeights(f"there are no named tensors in it (it holds {held[:200]}); save the network's state_dict()")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _whose(names: Mapping[str, object]) -> str:
    """What can be said of a layout that is not converted."""
    if {"conv1.weight", "layer1.0.conv1.weight", "fc.weight"} <= names.keys():
        return "it has the names of torchvision and timm ResNets, which are not converted yet"
    if {"stem.conv.weight", "classifier.weight"} <= names.keys():
        return "it has our names but no card; save it with residual.weights.safetensors.save"
    few = ", ".join(sorted(names)[:3])
    return f"its names ({few[:200]}, ...) are of no layout we convert; akamaster's CIFAR networks are"


def _is_safetensors(path: Path) -> bool:
    """By content, not by name: eight bytes of length, then a JSON object."""
    with naming(path), open_file(path) as file:
        return file.read(9)[8:] == b"{"


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with naming(path), open_file(path) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
