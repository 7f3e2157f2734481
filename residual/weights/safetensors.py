"""Our file of weights: a .safetensors file whose metadata holds the `Card` under the key "residual".

Any reader of safetensors can open it.  The format holds no code, and its parser (the `safetensors` package,
audited in 2023) checks that sizes, offsets and types agree; we check that the tensors are the network's.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from residual.records import write_durably
from residual.weights.architecture import as_float32, check_shapes, check_values
from residual.weights.arrays import MAX_DIMENSIONS, MAX_TENSORS
from residual.weights.card import Card, from_json, to_json
from residual.weights.files import MAX_FILE, BadWeights, naming, open_file

NAME = "safetensors"
KEY = "residual"
MAX_HEADER = 16 << 20  # bytes: a hundred times what ResNet-1202 needs; JSON grows tenfold when it is read


def save(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], card: Card) -> None:
    """Write weights and their card, durably (law 4), in float32.

    tensors: a state dict of the network the card describes.  Refuses any other, and values not finite.
    """
    write_durably(Path(path), safetensors.torch.save(_checked(path, tensors, card), {KEY: to_json(card)}))


def save_half(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], card: Card) -> None:
    """The same in float16: half of the size, each weight rounded to 11 bits.  `read` gives float32 again.

    Refuses weights larger than float16 has numbers for.
    """
    halved = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in _checked(path, tensors, card).items()
    }
    if large := [name for name, tensor in halved.items() if not tensor.isfinite().all()]:
        raise BadWeights(
            f"{os.fspath(path)!r} was not written: {large[0]!r} has values above 65,504, the largest of float16; "
            "write it in float32"
        )
    card = replace(card, history=card.history | {"stored_as": "float16"})
    write_durably(Path(path), safetensors.torch.save(halved, {KEY: to_json(card)}))


def _checked(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], card: Card) -> dict[str, Tensor]:
    """The tensors as they are written, if they are the network's."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        check_shapes({name: tuple(tensor.shape) for name, tensor in kept.items()}, card.model)
        check_values(kept, card.model)
    except BadWeights as problem:
        raise BadWeights(f"{os.fspath(path)!r} was not written: {problem}") from None
    return kept


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Card]:
    """Weights, in float32, and card of a file written by `save` or `save_half`; everything is checked first."""
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
        tensors = _tensors(data)
        if all(tensor.dtype == torch.float16 for tensor in tensors.values() if tensor.is_floating_point()):
            tensors, _ = as_float32(tensors)
        check_values(tensors, card.model)
        return tensors, card


def header(path: str | os.PathLike[str]) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes by name, and the metadata, of anybody's safetensors file."""
    with open_file(path) as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(0)
        return read_header(file.read(8 + min(length, MAX_HEADER)), size=os.fstat(file.fileno()).st_size)


def read_bare(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of anybody's safetensors file."""
    with open_file(path) as file:
        data = file.read()
    read_header(data)
    return _tensors(data)


def save_bare(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Write a state dict without a card, for other people's programs."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_durably(Path(path), safetensors.torch.save(kept, {"format": "pt"}))


def read_header(data: bytes, size: int | None = None) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes by name, and the metadata.

    data: the file, or its beginning; size: of the whole file, bytes.
    """
    length, size = int.from_bytes(data[:8], "little"), len(data) if size is None else size
    if size < 8 or length > size - 8:
        raise BadWeights(
            "it is not a sound safetensors file: its header is longer than the file or cut short; fetch it again"
        )
    if length > MAX_HEADER:
        raise BadWeights(f"its header has {length:,} bytes; the limit is {MAX_HEADER:,}")
    try:
        text = data[8 : 8 + length].decode()
        header = msgspec.convert(json.loads(text, object_pairs_hook=_once), dict[str, dict[str, Any]])
        metadata = msgspec.convert(header.pop("__metadata__", {}), dict[str, str])
        shapes = {name: msgspec.convert(entry.get("shape"), tuple[int, ...]) for name, entry in header.items()}
    except BadWeights:
        raise
    except (ValueError, RecursionError) as problem:
        raise BadWeights(f"it is not a sound safetensors file: {problem}; fetch it again") from None
    if any(side < 0 for shape in shapes.values() for side in shape):
        raise BadWeights("it is not a sound safetensors file: a shape is negative")
    if len(shapes) > MAX_TENSORS or any(len(shape) > MAX_DIMENSIONS for shape in shapes.values()):
        raise BadWeights(f"it has more than {MAX_TENSORS:,} tensors, or more than {MAX_DIMENSIONS} axes in one")
    if any(prod(max(side, 1) for side in shape) > MAX_FILE for shape in shapes.values()):
        raise BadWeights("a tensor in it is larger than any file we read")
    return shapes, metadata


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; parsers do not agree which of two entries of one name counts."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise BadWeights("it is not a sound safetensors file: a name is there twice")
    return made


def _tensors(data: bytes) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load(data))
    except SafetensorError as problem:
        raise BadWeights(f"it is not a sound safetensors file: {problem}; fetch it again") from None
    except KeyError as kind:
        raise BadWeights(f"it holds numbers of type {kind}, which PyTorch does not have; save it as F32") from None
