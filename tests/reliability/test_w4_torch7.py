"""W4: hostile .t7 files are refused with a reason, and no tensor ever reaches outside its storage.

40 files made by hand, each wrong in one thing, and mutations of a sound one, most of which stay readable.
"""

import runpy
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.lib.array_utils import byte_bounds

from residual.weights import torch7
from residual.weights.files import BadWeights
from residual.weights.sources import load

NIL, TABLE, TORCH, FUNCTION = 0, 3, 4, 8
HUGE = 1 << 62


@pytest.fixture(scope="session")
def lua() -> SimpleNamespace:
    """The writer of tests/weights/lua.py."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "weights" / "lua.py")))


def ints(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)


def longs(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}q", *numbers)


def text(value: bytes) -> bytes:
    return ints(len(value)) + value


def begin(kind: bytes, index: int) -> bytes:
    return ints(TORCH, index) + text(b"V 1") + text(kind)


def view(size: list[int], stride: list[int], offset: int = 1, *, rank: int | None = None) -> bytes:
    """A network whose one weight is seen like this in a storage of eight numbers."""
    shape = ints(len(size) if rank is None else rank) + longs(*size, *stride, offset)
    return net(begin(b"torch.FloatTensor", 3) + shape + storage(8))


def storage(count: int, kind: bytes = b"torch.FloatStorage") -> bytes:
    return begin(kind, 4) + longs(count) + bytes(32)


def net(weight: bytes) -> bytes:
    return begin(b"nn.Linear", 1) + ints(TABLE, 2, 1, 2) + text(b"weight") + weight


def weight_of(rest: bytes) -> bytes:
    """The same, but for the storage."""
    return net(begin(b"torch.FloatTensor", 3) + ints(1) + longs(8, 1, 1) + rest)


def cases(lua: SimpleNamespace) -> dict[str, bytes]:
    itself = lua.module("nn.Sequential")
    itself.fields["modules"] = {1: itself}
    unfolding = lua.module("nn.ReLU")
    for _ in range(12):
        unfolding = lua.module("nn.Sequential", *[unfolding] * 10)
    deep = b"".join(ints(TABLE, index, 1, 1) + struct.pack("<d", 1) for index in range(1, 100_000))
    return {
        "one number too many": view([9], [1]),
        "begins too late": view([8], [1], 2),
        "stride too long": view([2], [8]),
        "begins at 0": view([8], [1], 0),
        "begins before": view([8], [1], -7),
        "begins at the least number": view([8], [1], -(1 << 63)),
        "stride backwards": view([8], [-1], 8),
        "size below zero": view([-8], [1]),
        "sizes that multiply to 2^64": view([1 << 32, 1 << 32], [0, 0]),
        "stride that overflows": view([2, 2], [HUGE, HUGE]),
        "offset that overflows": view([8], [1], (1 << 63) - 1),
        "all from one number": view([1 << 40], [0]),
        "more than the storage by repeating": view([3, 3], [1, 1]),
        "empty and endless": view([0, HUGE, HUGE], [1, 1, 1]),
        "nine axes": view([1] * 9, [1] * 9),
        "a billion axes": view([8], [1], rank=1 << 30),
        "axes below zero": view([8], [1], rank=-1),
        "storage longer than the file": weight_of(begin(b"torch.FloatStorage", 4) + longs(9) + bytes(32)),
        "storage of 2^62": weight_of(storage(HUGE)),
        "storage below zero": weight_of(storage(-1)),
        "storage of another type": weight_of(storage(4, b"torch.DoubleStorage")),
        "storage that is a table": weight_of(ints(TABLE, 4, 0)),
        "storage that is the tensor": weight_of(ints(TORCH, 3)),
        "storage that is the module": weight_of(ints(TORCH, 1)),
        "no storage": weight_of(ints(NIL)),
        "table of 2^30": ints(TABLE, 1, 1 << 30),
        "table below zero": ints(TABLE, 1, -1),
        "key nil": ints(TABLE, 1, 1, NIL, NIL),
        "key that is no number": ints(TABLE, 1, 1, 1) + struct.pack("<d", float("nan")) + ints(NIL),
        "key twice": ints(TABLE, 1, 2) + (ints(5, 1) + ints(NIL)) * 2,
        "text of 2^30": ints(TABLE, 1, 1, 2, 1 << 30),
        "text below zero": ints(TABLE, 1, 1, 2, -1),
        "bytecode of 2^30": ints(TABLE, 1, 1, FUNCTION, 2, 1 << 30),
        "an unknown type": ints(TABLE, 1, 1, 9),
        "index below one": ints(TABLE, 1, 1, TABLE, 0, 0, NIL),
        "an object that was a table": ints(TABLE, 1, 1) + ints(5, 1) + ints(TORCH, 1),
        "an object without fields": begin(b"tds.Vec", 1) + ints(3, NIL),
        "100,000 tables within each other": deep,
        "a network within itself": lua.write(itself),
        "a network of 10^12 modules": lua.write(unfolding),
    }


def outside(array: Any) -> bool:
    """Whether an array reaches outside the storage that it is a view of."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    (low, high), (least, most) = byte_bounds(array), byte_bounds(root)
    return bool(array.size) and (low < least or high > most)


def test_40_hostile_files_are_refused(tmp_path: Path, lua: SimpleNamespace, row: Callable[..., None]) -> None:
    files, slowest, refused, untyped = cases(lua), 0.0, 0, []
    for name, content in files.items():
        path = tmp_path / f"{name}.t7"
        path.write_bytes(content)
        began = time.monotonic()
        try:
            torch7.read(path)
            untyped.append(f"{name}: read")
        except BadWeights:
            refused += 1
        except Exception as problem:
            untyped.append(f"{name}: {type(problem).__name__}")
        slowest = max(slowest, time.monotonic() - began)
    row(
        "W4",
        "hostile .t7 files",
        f"{refused}/{len(files)} refused with a reason, slowest {slowest:.2f} s",
        refused == len(files) == 40,
    )
    assert not untyped


def seen(folder: Path, lua: SimpleNamespace, row: Callable[..., None], count: int) -> None:
    """Views of a storage with random and often absurd shapes, and files with bytes changed."""
    rng = np.random.default_rng(0)
    path, numbers, readable, wrong, untyped = folder / "x.t7", np.arange(64, dtype="<f4"), 0, 0, set()
    sound = lua.write(lua.module("nn.Sequential", lua.module("nn.Linear", weight=lua.tensor(np.ones((4, 6))))))
    for number in range(count):
        if number % 2:
            rank = int(rng.integers(1, 5))
            size, stride = (tuple(int(n) for n in rng.integers(0, 9, rank)) for _ in range(2))
            tensor = lua.Tensor(lua.Storage(numbers), size, stride, int(rng.integers(1, 40)))
            content = lua.write(lua.module("nn.Linear", weight=tensor))
        else:
            mutated = bytearray(sound)
            for place in rng.integers(0, len(sound), rng.integers(1, 4)).tolist():
                mutated[place] = int(rng.integers(0, 256))
            content = bytes(mutated)
        path.write_bytes(content)
        try:
            arrays = torch7.read(path)
        except BadWeights:
            continue
        except Exception as problem:
            untyped.add(type(problem).__name__)
            continue
        readable += 1
        wrong += any(outside(array) for array in arrays.values())
    row(
        "W4",
        "views of .t7 storages",
        f"{count} files: {readable} readable, {wrong} views outside their storage, {len(untyped)} untyped errors",
        wrong == 0 and not untyped and readable > count // 20,
    )


def test_views_stay_inside_their_storage(quick_folder: Path, lua: SimpleNamespace, row: Callable[..., None]) -> None:
    seen(quick_folder, lua, row, 4000)


@pytest.mark.reliability
def test_many_views_stay_inside_their_storage(
    quick_folder: Path, lua: SimpleNamespace, row: Callable[..., None]
) -> None:
    seen(quick_folder, lua, row, 40_000)


@pytest.mark.reliability
def test_40_hostile_files_are_refused_by_the_door(
    tmp_path: Path, lua: SimpleNamespace, row: Callable[..., None]
) -> None:
    files = cases(lua)
    refused = 0
    for content in files.values():
        (tmp_path / "x.t7").write_bytes(content)
        with pytest.raises(BadWeights):
            load(tmp_path / "x.t7")
        refused += 1
    row("W4", "hostile .t7 files, load", f"{refused}/{len(files)} refused with a reason", refused == 40)
