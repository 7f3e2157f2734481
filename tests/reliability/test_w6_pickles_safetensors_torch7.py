"""W6, three of its targets: mutated files of torch.save, safetensors and Torch7 are read, or refused with a reason.

The mutator changes bytes, numbers and lengths of small sound files, and of what became of those that stayed readable.
Of an archive it also changes what is inside, and packs it again, so that a checksum does not end the search.
"""

import contextlib
import io
import pickle
import random
import runpy
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from residual.weights import pickles, torch7
from residual.weights.safetensors import read_bare
from tests.reliability.conftest import fuzz, mutated

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.int64), "c": torch.zeros(0, 3)}


def saved(value: Any, **settings: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **settings)
    return stream.getvalue()


def pickle_seeds() -> list[bytes]:
    """Both containers of torch.save, and bare pickles of arrays for both Pythons."""
    nested = {"state_dict": TENSORS, "epoch": 3, "best": 1.5, "note": ["x", (1, None)]}
    arrays = {"model": {"w": np.arange(4, dtype="f4"), "v": np.ones((2, 2), ">f8")}, "by": "x", "n": np.float32(2)}
    legacy = [saved(nested, _use_new_zipfile_serialization=False, pickle_protocol=p) for p in (2, 4)]
    return [saved(nested), *legacy, *[pickle.dumps(arrays, protocol) for protocol in (2, 3, 5)]]


def safetensors_seeds() -> list[bytes]:
    return [safetensors.torch.save(TENSORS, {"format": "pt"}), safetensors.torch.save({"x": torch.ones(3).half()})]


def torch7_seeds() -> list[bytes]:
    """A network with every part that the reader knows: tensors that share, functions, settings, several GPUs."""
    lua = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "weights" / "lua.py")))
    storage = lua.Storage(np.arange(8, dtype="<f4"))
    part, other = lua.Tensor(storage, (2, 2), (2, 1), 3), lua.Tensor(storage, (4,), (2,))
    convolution = lua.module("cudnn.SpatialConvolution", kW=3, padW=1, weight=part, bias=other, hook=lua.Code(b"\x1bL"))
    norm = lua.module("nn.SpatialBatchNormalization", eps=1e-5, running_mean=lua.tensor([1.0], "Double"), affine=True)
    net = lua.module("nn.Sequential", convolution, lua.module("nn.Sequential", norm, convolution))
    return [lua.write(net), lua.write({"epoch": 1, "model": lua.module("nn.DataParallelTable", net)})]


def repacked(archive: bytes, other: bytes, rng: random.Random) -> bytes:
    """The archive with what is in it changed, and its checksums right."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as read, zipfile.ZipFile(made, "w") as written:
        for entry in read.infolist():
            content = read.read(entry)
            if entry.filename.endswith("data.pkl") or rng.random() < 0.1:
                content = mutated(content, other, rng)
            written.writestr(entry.filename, content)
    return made.getvalue()


def length_mended(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """A safetensors file with a changed header of the length that it says."""
    (length,) = struct.unpack("<Q", content[:8]) if len(content) >= 8 else (0,)
    header = mutated(content[8 : 8 + length], other[8:], rng)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def changed(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Half of the time what a container holds, and otherwise the file as it is."""
    within = rng.random() < 0.5
    if within and data.startswith(b"PK"):
        with contextlib.suppress(Exception):  # of zipfile's, where it was changed before
            return repacked(data, other, rng)
    if within and data[8:9] == b"{":
        return length_mended(data, other, rng)
    return mutated(data, other, rng)


def from_file(read: Callable[[Path], dict[str, Any]], path: Path) -> Callable[[bytes], dict[str, Any]]:
    """The reader, of bytes that it finds in a file."""

    def read_bytes(data: bytes) -> dict[str, Any]:
        path.write_bytes(data)
        return read(path)

    return read_bytes


TARGETS = [
    pytest.param("torch.save", pickles.read, pickle_seeds, id="torch.save"),
    pytest.param("safetensors", read_bare, safetensors_seeds, id="safetensors"),
    pytest.param("Torch7", torch7.read, torch7_seeds, id="Torch7"),
]


@pytest.mark.parametrize("name, read, seeds", TARGETS)
def test_a_second_of_mutated_files(name, read, seeds, quick_folder, row):
    figures, rate = fuzz(from_file(read, quick_folder / "x"), seeds(), 1, mutate=changed, held=False)
    row("W6", f"fuzzing {name}", figures, rate > 100)  # how fast is for the whole run to say


@pytest.mark.reliability
@pytest.mark.parametrize("name, read, seeds", TARGETS)
def test_a_minute_of_mutated_files(name, read, seeds, quick_folder, row):
    figures, rate = fuzz(from_file(read, quick_folder / "x"), seeds(), 60, mutate=changed, held=False)
    row("W6", f"fuzzing {name}", figures, rate >= 1_000)


@pytest.mark.parametrize("name, read, seeds", TARGETS)
def test_the_seeds_are_sound(name, read, seeds, quick_folder):
    for seed in seeds():
        (quick_folder / "x").write_bytes(seed)
        assert read(quick_folder / "x")
