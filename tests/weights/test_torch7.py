"""Files of Torch7 are read as data: the values that were saved, bounded work, and never a call."""

import json
import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from residual.weights import torch7
from residual.weights.files import BadWeights
from residual.weights.torch7 import Object, flatten, network, read, read_value, recognises


def saved(content: bytes, tmp_path: Path):  # type: ignore[no-untyped-def]
    path = tmp_path / "x.t7"
    path.write_bytes(content)
    return read_value(path)


# --- what Lua's torch.save writes comes back ----------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -3, 1.5, math.inf, 2.0**60, "", "text", "\0\xff", {},
        {"a": 1, 2: "b", 2.5: None, True: False}, {"deep": {"deeper": {"x": 1}}}, {"last": {}},
    ],
)  # fmt: skip
def test_values_come_back(value: object, lua, tmp_path: Path) -> None:
    assert saved(lua.write(value), tmp_path) == value


@pytest.mark.parametrize(
    "kind",
    ["Byte", "Char", "Short", "Int", "Long", "Half", "Float", "Double", "Cuda", "CudaDouble", "CudaHalf", "CudaLong"],
)
def test_every_type_of_tensor_comes_back(kind: str, lua, tmp_path: Path) -> None:
    numbers = np.arange(24).reshape(2, 3, 4)
    found = saved(lua.write(lua.tensor(numbers, kind)), tmp_path)
    assert np.array_equal(found, numbers)
    assert found.dtype == np.dtype(lua.DTYPES[kind])


def test_a_tensor_is_a_view_of_its_storage(lua, tmp_path: Path) -> None:
    storage = lua.Storage(np.arange(20, dtype="<f4"))
    part = lua.Tensor(storage, (2, 3), (1, 4), 6)
    turned, whole = saved(lua.write({"a": part, "b": lua.Tensor(storage, (20,), (1,))}), tmp_path).values()
    assert np.array_equal(turned, [[5, 9, 13], [6, 10, 14]])
    assert np.shares_memory(turned, whole)


def test_empty_tensors_come_back(lua, tmp_path: Path) -> None:
    none, zero = lua.Tensor(None, (), ()), lua.Tensor(lua.Storage(np.zeros(0, "<f4")), (3, 0), (1, 1))
    found = saved(lua.write({"none": none, "zero": zero}), tmp_path)
    assert (found["none"].shape, found["zero"].shape) == ((0,), (3, 0))


def test_what_was_met_before_is_the_same_object(lua, tmp_path: Path) -> None:
    tensor, table = lua.tensor([1.0, 2.0]), {"x": 1}
    held = lua.Object("nn.Holder", {"first": tensor, "table": table})
    held.fields["self"] = held
    found = saved(lua.write({"a": held, "b": tensor, "c": table}), tmp_path)
    assert found["a"].fields["first"] is found["b"]
    assert found["a"].fields["table"] is found["c"]
    assert found["a"].fields["self"] is found["a"]


def test_objects_from_before_versions_are_read(lua, tmp_path: Path) -> None:
    assert saved(lua.write(lua.Object("nn.Old", {"p": 0.5}, version=None)), tmp_path).kind == "nn.Old"


@pytest.mark.parametrize("type_", [6, 7, 8])
def test_a_function_is_stepped_over(type_: int, lua, tmp_path: Path) -> None:
    """Its bytecode is whatever string.dump wrote, and is not looked at."""
    code = lua.Code(b"\x1bLJ\x02\x02 os.execute", {"name": "print"}, type_)
    found = saved(lua.write({"hook": code, "after": 7}), tmp_path)
    assert found["after"] == 7
    assert isinstance(found["hook"], Object)
    assert not found["hook"].fields


def test_a_long_list_of_nested_lists_needs_no_recursion(lua, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep: object = "end"
    for _ in range(torch7.MAX_DEPTH):
        deep = {"x": deep}
    found = saved(lua.write(deep), tmp_path)
    for _ in range(torch7.MAX_DEPTH):
        found = found["x"]
    assert found == "end"
    with pytest.raises(BadWeights, match="deeper than 200"):
        saved(lua.write({"one more": deep}), tmp_path)


def test_a_file_is_recognised_by_its_first_value(lua) -> None:
    path = "unused"
    assert recognises(lua.write(lua.module("nn.Sequential")), path)
    assert recognises(lua.write({"model": 1}), path)
    for other in (b"", b"PK\x03\x04", b"\x80\x02}q\x00.", lua.write("text"), b"4\n1\n3\nV 1\n13\nnn.Sequential"):
        assert not recognises(other, path)


# --- what a file claims is checked --------------------------------------------------------------------------

HEAD = struct.pack("<iii3si", 4, 1, 3, b"V 1", 17) + b"torch.FloatTensor"
STORAGE = struct.pack("<iii3si", 4, 2, 3, b"V 1", 18) + b"torch.FloatStorage"


def view(size: list[int], stride: list[int], offset: int = 1, count: int = 4, source: bytes = STORAGE) -> bytes:
    shape = struct.pack(f"<i{2 * len(size) + 1}q", len(size), *size, *stride, offset)
    return HEAD + shape + source + struct.pack("<q", count) + bytes(16)


def test_a_hand_written_tensor_is_read(tmp_path: Path) -> None:
    assert saved(view([2, 2], [1, 2]), tmp_path).shape == (2, 2)
    assert saved(view([4], [1]), tmp_path).shape == (4,)
    assert saved(view([1, 4], [1 << 62, 1]), tmp_path).shape == (1, 4)  # where an axis has length 1, its stride is idle


@pytest.mark.parametrize(
    "content, reason",
    [
        (view([5], [1]), "outside its storage"),
        (view([4], [1], 2), "outside its storage"),
        (view([2], [4]), "outside its storage"),
        (view([4], [1], 0), "negative"),
        (view([4], [1], -(1 << 63)), "negative"),
        (view([2], [-1], 3), "negative"),
        (view([-2], [1]), "negative"),
        (view([2, 2], [1 << 62, 1 << 62]), "outside its storage"),
        (view([1 << 62, 4], [0, 1]), "outside its storage"),
        (view([8], [0]), "outside its storage"),
        (view([0, 1 << 40, 1 << 40], [1, 1, 1]), "outside its storage"),
        (view([4], [1], count=5), "more than fit"),
        (view([4], [1], count=-1), "more than fit"),
        (view([4], [1], count=1 << 61), "more than fit"),
        (view([4], [1], count=3), "outside its storage"),
        (HEAD + struct.pack("<i", 9) + bytes(200), "9 axes"),
        (HEAD + struct.pack("<i", -1) + bytes(200), "-1 axes"),
        (HEAD + struct.pack("<iqqqi", 1, 4, 1, 1, 0), "without a storage"),
        (HEAD + struct.pack("<iqqqii", 1, 4, 1, 1, 4, 1), "without a storage"),  # itself
        (view([4], [1], source=STORAGE.replace(b"Float", b"Short")), "without a storage of its own type|bytes after"),
        (struct.pack("<i", 9), "type 9"),
        (struct.pack("<i", -1), "type -1"),
        (b"4\n1\n3\nV 1\n13\nnn.Sequential\n", "64-bit|type"),
        (struct.pack("<ii", 2, 5) + b"four", "cut short"),
        (struct.pack("<ii", 2, -1), "cut short"),
        (struct.pack("<iii", 3, 1, 1 << 30), "entries"),
        (struct.pack("<iii", 3, 1, -1), "entries"),
        (struct.pack("<iiiii", 3, 1, 1, 0, 0), "keys"),
        (struct.pack("<iiiidi", 3, 1, 1, 1, math.nan, 0), "keys"),
        (struct.pack("<iiiiiiiiiii", 3, 1, 2, 5, 1, 0, 5, 1, 0, 0, 0), "twice"),
        (struct.pack("<iiiiiiii", 3, 1, 1, 5, 1, 4, 1, 0), "called an object, and was a table"),
        (struct.pack("<iii", 3, 0, 0), "index 0"),
        (struct.pack("<iii", 3, -5, 0), "index -5"),
        (struct.pack("<iii3si7si", 4, 1, 3, b"V 1", 7, b"nn.Evil", 0), "no table of fields"),
        (struct.pack("<iiii", 8, 1, 1 << 30, 0), "cut short"),
        (struct.pack("<iii", 3, 1, 0) + b"\0", "1 bytes after"),
        (b"", "cut short"),
    ],
)
def test_a_file_that_lies_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match=reason):
        saved(content, tmp_path)


def test_the_counts_are_bounded(lua, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = lua.write({i: {"x": lua.tensor([1.0])} for i in range(10)})
    monkeypatch.setattr(torch7, "MAX_VALUES", 50)
    with pytest.raises(BadWeights, match="more than 50 values"):
        saved(content, tmp_path)


def test_every_truncation_is_refused(lua, tmp_path: Path) -> None:
    whole = lua.write(lua.module("nn.Sequential", lua.module("nn.Linear", weight=lua.tensor(np.ones((2, 3))))))
    for length in range(len(whole)):
        with pytest.raises(BadWeights):
            saved(whole[:length], tmp_path)


def test_pipes_folders_and_absent_files_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in [("pipe", "pipe"), (".", "folder"), ("absent", "No such file")]:
        with pytest.raises(BadWeights, match=reason):
            read(tmp_path / name)


# --- from values to a network -------------------------------------------------------------------------------


def test_modules_and_tensors_are_named_by_their_place(lua, tmp_path: Path) -> None:
    inner = lua.module("nn.Sequential", lua.module("cudnn.ReLU"), lua.module("nn.Linear", weight=lua.tensor([[1.0]])))
    net = lua.module("nn.Sequential", lua.module("nn.SpatialConvolution", kW=3, bias=lua.tensor([2.0])), inner)
    (tmp_path / "x.t7").write_bytes(lua.write(net))
    found = read(tmp_path / "x.t7")
    modules = json.loads(found.pop(torch7.TREE).tobytes())
    assert {name: array.tolist() for name, array in found.items()} == {"1.bias": [2.0], "2.2.weight": [[1.0]]}
    assert list(modules) == ["", "1", "2", "2.1", "2.2"]
    assert modules["1"] == {"class": "nn.SpatialConvolution", "kW": 3}


def test_a_network_is_found_in_a_checkpoint_and_behind_several_gpus(lua, tmp_path: Path) -> None:
    net = lua.module("nn.Sequential", lua.module("nn.ReLU"))
    spread = lua.module("nn.DataParallelTable", net)
    for value in (net, {"epoch": 3, "model": net}, spread, {"net": spread}):
        assert network(saved(lua.write(value), tmp_path)).kind == "nn.Sequential"
    for value in (
        1,
        {},
        {"epoch": 3},
        {"model": 3},
        {"model": {}},
        lua.module("nn.DataParallelTable"),
        lua.tensor([1.0]),
    ):
        with pytest.raises(BadWeights, match="no network"):
            network(saved(lua.write(value), tmp_path))


def test_a_network_that_holds_itself_is_refused() -> None:
    net = Object("nn.Sequential")
    net.fields["modules"] = {1: net}
    with pytest.raises(BadWeights, match="32 within each other"):
        flatten(net)


def test_a_network_that_unfolds_to_billions_is_refused() -> None:
    net = Object("nn.ReLU")
    for _ in range(12):
        net = Object("nn.Sequential", {"modules": dict.fromkeys(range(1, 11), net)})
    with pytest.raises(BadWeights, match="20,000 modules"):
        flatten(net)


@pytest.mark.parametrize("table", [3, {2: Object("nn.ReLU")}, {1: 5}, {"one": Object("nn.ReLU")}])
def test_modules_that_are_no_list_are_refused(table: object) -> None:
    with pytest.raises(BadWeights, match="modules of its"):
        flatten(Object("nn.Sequential", {"modules": table}))  # type: ignore[dict-item]
