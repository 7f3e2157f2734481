"""W6, three of its targets: mutated files of torch.save, safetensors and Torch7 are read, or refused with a reason.

The mutator changes bytes, numbers and lengths of small sound files, and of what became of those that stayed readable.
Of an archive it also changes what is inside, and packs it again, so that a checksum does not end the search.
"""

import io
import pickle
import random
import runpy
import struct
import time
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
from residual.weights.files import BadWeights
from residual.weights.safetensors import read_bare

EDGES = (
    0,
    1,
    2,
    8,
    127,
    128,
    255,
    256,
    1 << 15,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 63,
    (1 << 64) - 1,
)
KEPT = 200  # readable files that the mutator goes on from
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


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to three changes; `other` gives pieces to paste."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                width = rng.choice((1, 2, 4, 8))
                number = rng.choice((*EDGES, len(changed), rng.randrange(64)))
                changed[at : at + width] = (number & (1 << 8 * width) - 1).to_bytes(width, "little")
            case 2:
                del changed[at : at + rng.choice((1, 2, 4, 8, 32))]
            case 3:
                start = rng.randrange(len(other) + 1)
                changed[at:at] = other[start : start + rng.choice((1, 4, 16, 64))]
            case 4:
                start = rng.randrange(len(changed) + 1)
                piece = changed[start : start + rng.choice((1, 4, 8, 24))]
                changed[at : at + len(piece)] = piece
            case _ if rng.random() < 0.2:
                del changed[at:]
    return bytes(changed)


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


def inside(array: Any) -> bool:
    """Whether an array of NumPy's lies within the memory that it is a view of."""
    if not isinstance(array, np.ndarray) or not array.size:
        return True
    root: Any = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    (first, last), (start, end) = np.lib.array_utils.byte_bounds(array), np.lib.array_utils.byte_bounds(root)
    return bool(start <= first <= last <= end)


def fuzz(read: Callable[[Path], dict[str, Any]], seeds: list[bytes], seconds: float, folder: Path) -> tuple[str, float]:
    """Figures, and files per second.  Whatever is raised beside BadWeights ends the test with its file."""
    rng, path = random.Random(0), folder / "x"
    kept: list[bytes] = []
    runs, slowest = 0, 0.0
    sound = 0
    begun = time.monotonic()
    while (now := time.monotonic()) < begun + seconds:
        seed, other = rng.choice(kept if kept and rng.random() < 0.5 else seeds), rng.choice(seeds)
        kind = rng.random() < 0.5
        if kind and seed.startswith(b"PK"):
            data = repacked(seed, other, rng)
        elif kind and seed[8:9] == b"{":
            data = length_mended(seed, other, rng)
        else:
            data = mutated(seed, other, rng)
        path.write_bytes(data)
        runs += 1
        try:
            found = read(path)
        except BadWeights:
            pass
        except Exception as problem:
            raise AssertionError(f"{type(problem).__name__}: {problem}, from {data!r}") from problem
        else:
            sound += 1
            assert all(map(inside, found.values())), data
            if len(data) < 2 * len(max(seeds, key=len)) and not data.startswith(b"PK"):
                kept = [*kept, data][-KEPT:]
        slowest = max(slowest, time.monotonic() - now)
    rate = runs / seconds
    return f"{runs:,} files at {rate:,.0f}/s, {sound:,} sound, 0 crashes, slowest {slowest:.2f} s", rate


TARGETS = [
    pytest.param("torch.save", pickles.read, pickle_seeds, id="torch.save"),
    pytest.param("safetensors", read_bare, safetensors_seeds, id="safetensors"),
    pytest.param("Torch7", torch7.read, torch7_seeds, id="Torch7"),
]


@pytest.mark.parametrize("name, read, seeds", TARGETS)
def test_a_second_of_mutated_files(name, read, seeds, quick_folder, row):
    figures, rate = fuzz(read, seeds(), 1, quick_folder)
    row("W6", f"fuzzing {name}", figures, rate > 100)  # how fast is for the whole run to say


@pytest.mark.reliability
@pytest.mark.parametrize("name, read, seeds", TARGETS)
def test_a_minute_of_mutated_files(name, read, seeds, quick_folder, row):
    figures, rate = fuzz(read, seeds(), 60, quick_folder)
    row("W6", f"fuzzing {name}", figures, rate >= 1_000)


@pytest.mark.parametrize("name, read, seeds", TARGETS)
def test_the_seeds_are_sound(name, read, seeds, quick_folder):
    for seed in seeds():
        (quick_folder / "x").write_bytes(seed)
        assert read(quick_folder / "x")
