"""Our file of weights: a .safetensors file whose metadata holds the `Card` under the key "residual".

Any reader of safetensors can open it.  The format holds no code, and its parser (the `safetensors` package,
audited in 2023) checks that sizes, offsets and types agree; we check that the tensors are the network's.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from residual.records import write_durably
from residual.weights.architecture import check_shapes, check_values
from residual.weights.card import Card, from_json, to_json
from residual.weights.pickles import BadWeights, naming, open_file

KEY = "residual"
MAX_HEADER = 100_000_000  # bytes, as the safetensors package itself


def save(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], card: Card) -> None:
    """Write weights and their card, durably (law 4).

    tensors: a state dict of the network the card describes.  Refuses any other, and values not finite.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        check_shapes({name: tuple(tensor.shape) for name, tensor in kept.items()}, card.model)
        check_values(kept, card.model)
    except BadWeights as problem:
        raise BadWeights(f"{os.fspath(path)!r} was not written: {problem}") from None
    write_durably(Path(path), safetensors.torch.save(kept, {KEY: to_json(card)}))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Card]:
    """Weights and card of a file written by `save`; everything is checked first."""
    with naming(path):
        with open_file(path) as file:
            data = file.read()
        shapes, metadata = read_header(data)
        if KEY not in metadata:
            raise BadWeights(
                "it carries no card, so residual did not write it and nothing says what network it is for: "
                "residual weights inspect FILE"
            )
        card = from_json(metadata[KEY])
        check_shapes(shapes, card.model)
        try:
            tensors = safetensors.torch.load(data)
        except SafetensorError as problem:
            raise BadWeights(f"it is not a sound safetensors file: {problem}; fetch it again") from None
        check_values(tensors, card.model)
        return tensors, card


def read_header(data: bytes) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes by name, and the metadata."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, MAX_HEADER):
        raise BadWeights(
            "it is not a sound safetensors file: its header is longer than the file or cut short; fetch it again"
        )
    try:
        header = msgspec.json.decode(data[8 : 8 + length], type=dict[str, dict[str, Any]])
        metadata = msgspec.convert(header.pop("__metadata__", {}), dict[str, str])
        shapes = {name: msgspec.convert(entry.get("shape"), tuple[int, ...]) for name, entry in header.items()}
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as problem:
        raise BadWeights(f"it is not a sound safetensors file: {problem}; fetch it again") from None
    if any(side < 0 for shape in shapes.values() for side in shape):
        raise BadWeights("it is not a sound safetensors file: a shape is negative")
    return shapes, metadata
