"""A detector's file: safetensors whose metadata holds the `DetectorCard` under the key "residual_detector"."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from residual.detect.card import DetectorCard, from_json, to_json
from residual.detect.detector import Detector
from residual.records import write_durably

KEY = "residual_detector"
WEIGHTS = "model.safetensors"  # in a run folder


def save(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], card: DetectorCard) -> None:
    """Write a detector's weights (a state dict of its `net`) and its card, durably (law 4); refuses any other."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    refuse_strangers(kept, card, path)
    write_durably(Path(path), safetensors.torch.save(kept, {KEY: to_json(card)}))


def load(source: str | os.PathLike[str]) -> Detector:
    """The detector of a run folder or a file of ours, in evaluation mode on the CPU.

    Raises ValueError for whatever is not exactly a detector with its card.
    """
    path = located(source)
    try:
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
            if text is None:
                raise ValueError(
                    f"{path} holds no detector: residual detect uses what residual train has made of data with objects"
                )
            card = from_json(text)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (safetensors.SafetensorError, OSError) as problem:
        raise ValueError(f"{path} cannot be read: {problem}") from None
    except ValueError as problem:
        raise ValueError(str(problem) if str(path) in str(problem) else f"{path}: {problem}") from None
    refuse_strangers(tensors, card, path)
    with torch.random.fork_rng(devices=[]):  # the weights that are replaced at once
        detector = Detector(card)
    detector.net.load_state_dict(tensors)
    return detector.eval()


def holds_detector(source: str | os.PathLike[str]) -> bool:
    """Whether a run folder or a file is a detector of ours, by content."""
    path = Path(source)
    path = path / WEIGHTS if path.is_dir() else path
    if not path.is_file():
        return False
    try:
        with safetensors.safe_open(path, "pt") as file:
            return KEY in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False


def located(source: str | os.PathLike[str]) -> Path:
    """The file itself: in a run folder, its model.safetensors."""
    path = Path(source)
    if path.is_dir():
        path = path / WEIGHTS
        if not path.is_file():
            raise ValueError(
                f"{source} holds no {WEIGHTS}: it is no run folder, or its training has not ended; go on with: "
                f"residual train --resume --out {source}"
            )
    if not path.is_file():
        raise ValueError(f"there is no {source}; give the folder of a run or a file of a detector's weights")
    return path


def refuse_strangers(tensors: Mapping[str, Tensor], card: DetectorCard, path: Any) -> None:
    """Refuse tensors that are not those of the card's network, and values that are not finite."""
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in Detector(card).net.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    if odd := sorted(wanted.items() ^ given.items()):
        name = odd[0][0]
        raise ValueError(
            f"{path}: {name!r} has the shape {given.get(name, 'none')}, its card's network {wanted.get(name, 'none')}"
        )
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{path}: {name!r} holds numbers that are not finite; the file is damaged")
