"""Files of torch.save are read as data, by whatever part: the same tensors, bounded work, and never a call."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from residual.weights import files, pickle_machine, pickle_values, pickles
from residual.weights.arrays import BFLOAT16, Array
from residual.weights.files import BadWeights
from residual.weights.pickles import read_tensors

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(value: object, path: Path, zipped: bool, **settings: object) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped, **settings)
    return path


def wrap(program: bytes, path: Path, zipped: bool, storages: dict[str, bytes] | None = None) -> Path:
    """A file around a hand-written pickle, sound in everything else."""
    storages = storages or {}
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", program)
            archive.writestr("a/byteorder", b"little")
            for key, content in storages.items():
                archive.writestr(f"a/data/{key}", content)
            archive.writestr("a/version", b"3\n")
        return path
    parts = [pickle.dumps(part, 2) for part in (pickles.MAGIC, pickles.PROTOCOL, {"little_endian": True})]
    parts += [program, pickle.dumps(list(storages), 2)]
    parts += [struct.pack("<q", len(content) // 4) + content for content in storages.values()]
    path.write_bytes(b"".join(parts))
    return path


def as_torch(array: Array) -> Tensor:
    """The same numbers in PyTorch, which alone knows bfloat16."""
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array["bfloat16"].view("<i2").copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    content = pickle.encode_long(value)
    return b"\x8a" + bytes([len(content)]) + content


def storage(kind: str = "FloatStorage", key: str = "0", count: int = 4) -> bytes:
    return (
        b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + number(count) + b"tQ"
    )


def tensor(size: list[int], stride: list[int], offset: int = 0, source: bytes | None = None) -> bytes:
    sizes, strides = (b"(" + b"".join(map(number, values)) + b"t" for values in (size, stride))
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + (source or storage()) + number(offset) + sizes + strides
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def dict_of(value: bytes) -> bytes:
    return b"\x80\x02}" + text("w") + value + b"s."


FOUR = {"0": np.arange(4, dtype="<f4").tobytes()}


# --- what torch.save writes comes back ----------------------------------------------------------------------


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_checkpoint_comes_back_as_it_was_saved(zipped: bool, protocol: int, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(2, 3, 6, 6)).sum().backward()
    optimizer.step()
    saved = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "note": "é\n",
        "best": -1.5,
    }
    read = read_tensors(save(saved, tmp_path / "x.pth", zipped, pickle_protocol=protocol))
    assert list(read) == list(saved)
    assert (read["epoch"], read["note"], read["best"]) == (3, "é\n", -1.5)
    weights, momenta = read["model"], read["optimizer"]
    assert list(weights) == list(model.state_dict())
    for name, expected in model.state_dict().items():
        assert torch.equal(as_torch(weights[name]), expected)
        assert as_torch(weights[name]).dtype == expected.dtype
    assert momenta["param_groups"] == optimizer.state_dict()["param_groups"]
    for number_, state in optimizer.state_dict()["state"].items():
        momentum = momenta["state"][number_]["momentum_buffer"]
        assert torch.equal(as_torch(momentum), state["momentum_buffer"])


@FORMATS
@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.int16, torch.int32,
     torch.int64, torch.bool],
    ids=str,
)  # fmt: skip
def test_every_type_and_shape_comes_back(zipped: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    base = (torch.arange(24) % 2 if dtype == torch.bool else torch.arange(24)).to(dtype)
    saved = {
        "whole": base, "scalar": base[5].clone(), "empty": torch.zeros(0, 3, dtype=dtype),
        "turned": base.view(4, 6).t(), "part": base[7:13].view(2, 3),
        "channels-last": base.view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
    }  # fmt: skip
    read = read_tensors(save(saved, tmp_path / "x.pt", zipped))
    for name, expected in saved.items():
        assert torch.equal(as_torch(read[name]), expected), name
        if expected.numel():
            assert read[name].strides == tuple(dtype.itemsize * step for step in expected.stride()), name


@FORMATS
def test_parameters_are_read_as_numbers(zipped: bool, tmp_path: Path) -> None:
    saved = OrderedDict(w=torch.nn.Parameter(torch.ones(2)))
    read = read_tensors(save(saved, tmp_path / "x.pt", zipped))
    assert type(read["w"]) is np.ndarray
    assert read["w"].tolist() == [1.0, 1.0]


@FORMATS
def test_tied_weights_stay_tied(zipped: bool, tmp_path: Path) -> None:
    shared = torch.zeros(3)
    read = read_tensors(save({"a": shared, "b": shared}, tmp_path / "x.pt", zipped))
    assert np.shares_memory(read["a"], read["b"])


def test_somebody_elses_file_from_2018_is_read_as_torch_reads_it(shared_data: Path) -> None:
    path = shared_data / "weights" / "resnet20-12fca82f.th"
    read, expected = read_tensors(path), torch.load(path, map_location="cpu", weights_only=True)
    assert read["best_prec1"] == expected["best_prec1"]
    weights = read["state_dict"]
    assert list(weights) == list(expected["state_dict"])
    assert all(torch.equal(as_torch(weights[name]), value) for name, value in expected["state_dict"].items())


# --- bare pickles of arrays ---------------------------------------------------------------------------------


ARRAYS = {
    "matrix": np.arange(12, dtype="f4").reshape(3, 4),
    "columns first": np.asfortranarray(np.arange(12, dtype="f8").reshape(3, 4)),
    "big-endian": np.arange(5, dtype=">f4"),
    "halves": np.linspace(0, 1, 7, dtype="f2"),
    "numbers": np.arange(-3, 3, dtype="i8"),
    "bytes": np.frombuffer(bytes(range(256)), "u1"),
    "choices": np.array([True, False, True]),
    "none": np.zeros((0, 3), "f4"),
    "one": np.array(2.5, "f4"),
    "long": np.arange(50_000, dtype="f4"),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_bare_pickle_of_arrays_is_read_as_python_reads_it(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    saved = {"model": ARRAYS, "again": ARRAYS["matrix"], "best": np.float64(76.5), "by": "é", "known": True}
    path.write_bytes(pickle.dumps(saved, protocol))
    read = read_tensors(path)
    assert (read["best"], read["by"], read["known"]) == (76.5, "é", True)
    assert read["again"] is read["model"]["matrix"]
    for name, expected in ARRAYS.items():
        found = read["model"][name]
        assert found.dtype.str[1:] == expected.dtype.str[1:], name
        assert np.array_equal(found, expected), name
    assert sorted(pickles.read(path)) == sorted(ARRAYS)


def test_arrays_in_a_file_of_torch_save_are_read(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "mean": np.arange(3.0), "best": np.float32(1.5)}, tmp_path / "x.pth")
    read = read_tensors(tmp_path / "x.pth")
    assert (read["mean"].tolist(), read["best"]) == ([0.0, 1.0, 2.0], 1.5)


def array(shape: bytes = b"K\4\x85", kind: str = "f4", content: bytes = bytes(16), order: bytes = b"U\1<") -> bytes:
    """A hand-written array of four numbers."""
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R"
    dtype = (
        b"cnumpy\ndtype\n" + text(kind) + b"\x89\x88\x87R(K\3" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    return made + b"(K\1" + shape + dtype + b"\x89B" + struct.pack("<I", len(content)) + content + b"tb"


def test_a_hand_written_array_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(dict_of(array(content=FOUR["0"])))
    assert read_tensors(tmp_path / "x.pkl")["w"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "program, reason",
    [
        (array(b"K\5\x85"), "has 16 bytes"),
        (array(b"K\3\x85"), "has 16 bytes"),
        (array(b"J\xff\xff\xff\xff\x85"), "has the shape"),
        (array(b"G\x40\x10\0\0\0\0\0\0\x85"), "has the shape"),
        (array(b"(" + b"K\1" * 9 + b"t", content=bytes(4)), "has the shape"),
        (array(b"K\0" + number(1 << 30) + number(1 << 30) + b"\x87", content=b""), "larger than any file"),
        (array(number(1 << 62) + number(4) + b"\x86"), "has the shape"),
        (array(kind="O8"), "arguments"),
        (array(kind="V4"), "arguments"),
        (array(kind="f16"), "arguments"),
        (array(kind="S4"), "arguments"),
        (array(kind="b1", content=b"\0\1\2\1"), "true and false"),
        (array(order=b"U\1?"), "sets attributes"),
        (array() + b"N\x85b", "sets attributes"),
        (array() + array()[array().index(b"(K\1") :], "sets attributes"),  # its state twice
        (array()[: array().index(b"(K\1")], "name, bytes"),  # no state at all
        (b"cnumpy\nndarray\n", "a name"),
        (b"cnumpy\ndtype\n" + text("f4") + b"\x89\x88\x87R", "a name"),
        (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\0\x85C\1b\x87R", "arguments"),
        (b"cnumpy.core.multiarray\nfromfile\n" + text("/etc/passwd") + b"\x85R", "asks for"),
        (b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R", "arguments"),
        (b"c_codecs\nencode\n" + text("\u20ac") + text("latin1") + b"\x86R", "other characters|damaged"),
        (b"c_codecs\nencode\n" + text("a") + text("latin1") + b"\x86R", "bytes"),
    ],
)
def test_a_bare_pickle_that_lies_is_refused(program: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(dict_of(program))
    with pytest.raises(BadWeights, match=reason):
        read_tensors(tmp_path / "x.pkl")


def test_bytes_made_of_text_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that is named again and again, and made bytes each time."""
    call = b"c_codecs\nencode\nh\0" + text("latin1") + b"\x86R0"
    with monkeypatch.context() as patch:
        patch.setattr(pickle_machine, "MAX_FILE", 5000)
        (tmp_path / "x.pkl").write_bytes(b"\x80\x02" + text("a" * 1000) + b"q\0" + call.replace(b"R0", b"R") * 6 + b".")
        with pytest.raises(BadWeights, match="out of text"):
            read_tensors(tmp_path / "x.pkl")


def test_a_bare_pickle_needs_neither_storages_nor_more(tmp_path: Path) -> None:
    for content, reason in [
        (dict_of(tensor([4], [1])), "storages"),
        (dict_of(array()) + b"x", "bytes after"),
        (b"\x80\x02]q\0h\0a.", "no weights are saved like this"),
        (b"\x80\x02" + array() + b".", "no weights are saved like this"),
    ]:
        (tmp_path / "x.pkl").write_bytes(content)
        with pytest.raises(BadWeights, match=reason):
            read_tensors(tmp_path / "x.pkl")


# --- nothing in the file is executed ------------------------------------------------------------------------


class Reduces:
    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.function, self.arguments


def attacks(sentinel: str) -> dict[str, bytes]:
    """Programs that would create the sentinel, were anything run."""
    command = f"touch {sentinel}"
    call = b"cposix\nsystem\n(" + text(command) + b"tR"
    inner = pickle.dumps(Reduces(os.system, command), 2)
    return {
        "global": b"\x80\x02" + call + b".",
        "in a dict": dict_of(call),
        "as an argument of a known function": dict_of(b"ccollections\nOrderedDict\n(" + call + b"tR"),
        "stack global": b"\x80\x04" + text("posix") + text("system") + b"\x93(" + text(command) + b"tR.",
        "stack global, memoised": b"\x80\x04" + text("posix") + b"\x94" + text("system")
        + b"\x94\x930h\x00h\x01\x93("
        + text(command) + b"tR.",
        "dotted name": b"\x80\x04" + text("collections") + text("OrderedDict.__init__.__globals__")
        + b"\x93.",
        "inst": b"(" + text(command) + b"iposix\nsystem\n.",
        "obj": b"(cposix\nsystem\n" + text(command) + b"o.",
        "newobj": b"\x80\x02cposix\nsystem\n" + text(command) + b"\x85\x81.",
        "newobj_ex": b"\x80\x04cposix\nsystem\n" + text(command) + b"\x85}\x92.",
        "extension": b"\x80\x02\x82\x01" + text(command) + b"\x85R.",
        "extension 4": b"\x80\x02\x84\x01\x00\x00\x00" + text(command) + b"\x85R.",
        "build on a dict": b"\x80\x02ccollections\nOrderedDict\n)R}" + text("__class__") + call + b"sb.",
        "build on a name": b"\x80\x02ccollections\nOrderedDict\n}" + text("__setstate__") + call + b"sb.",
        "reduce on text": b"\x80\x02" + text("posix.system") + text(command) + b"\x85R.",
        "persistent id": b"P" + command.encode() + b"\n.",
        "persistent call": dict_of(call + b"Q"),
        "builtins eval": pickle.dumps({"w": Reduces(eval, f"open({sentinel!r}, 'w')")}, 2),
        "getattr": b"\x80\x02cbuiltins\ngetattr\n(cposix\n__dict__\n" + text("system") + b"tR" + text(command)
        + b"\x85R.",
        "a pickle inside": pickle.dumps({"w": Reduces(pickle.loads, inner)}, 4),
        "torch.load inside": dict_of(b"ctorch\nload\n" + text(sentinel) + b"\x85R"),
        "numpy": dict_of(b"cnumpy.testing._private.utils\nrunstring\n" + text(command) + b"}\x86R"),
        "a rebuild function of torch": dict_of(b"ctorch._utils\n_rebuild_device_tensor_from_numpy\n(tR"),
        "a call kept in the memo": b"\x80\x02" + call + b"q\x000}.",
        "python 2": b"c__builtin__\neval\n(S'open(" + sentinel.encode() + b")'\ntR.",
    }  # fmt: skip


ATTACKS = sorted(attacks(""))


@FORMATS
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_code_from_a_file_ever_runs(attack: str, zipped: bool, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    path = wrap(attacks(str(sentinel))[attack], tmp_path / "x.pth", zipped)
    with pytest.raises(BadWeights, match=r"x\.pth.* was not read: .{20}"):
        read_tensors(path)
    assert not sentinel.exists()


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """Guards the test above: Python's own pickle runs one of them."""
    sentinel = tmp_path / "sentinel"
    pickle.loads(attacks(str(sentinel))["a pickle inside"])
    assert sentinel.exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_code_from_a_bare_pickle_ever_runs(attack: str, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    path = tmp_path / "x.pth"
    path.write_bytes(attacks(str(sentinel))[attack])
    with pytest.raises(BadWeights, match=r"x\.pth.* was not read: .{20}"):
        read_tensors(path)
    assert not sentinel.exists()


@FORMATS
def test_a_whole_pickled_model_is_refused_with_the_way_out(zipped: bool, tmp_path: Path) -> None:
    path = save({"model": torch.nn.Linear(2, 2)}, tmp_path / "x.pt", zipped)
    with pytest.raises(BadWeights, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict\(\)"):
        read_tensors(path)


# --- what a pickle claims is checked ------------------------------------------------------------------------


@FORMATS
def test_a_hand_written_tensor_is_read(zipped: bool, tmp_path: Path) -> None:
    read = read_tensors(wrap(dict_of(tensor([2, 2], [1, 2])), tmp_path / "x.pt", zipped, FOUR))
    assert read["w"].tolist() == [[0.0, 2.0], [1.0, 3.0]]


@FORMATS
@pytest.mark.parametrize(
    "program, reason",
    [
        (tensor([5], [1]), "outside its storage"),
        (tensor([4], [1], 1), "outside its storage"),
        (tensor([2], [4]), "outside its storage"),
        (tensor([1 << 20, 1 << 20], [0, 0]), "larger than any file"),
        (tensor([8], [0]), "outside its storage"),
        (tensor([2, 2], [1 << 63, 1 << 63]), "outside its storage"),
        (tensor([0, 1 << 40, 1 << 40], [1, 1, 1]), "larger than any file"),
        (tensor([-1], [1]), "negative"),
        (tensor([2], [-1], 3), "negative"),
        (tensor([2], [1], -1), "negative"),
        (tensor([2, 2], [1]), "axes"),
        (tensor([1] * 9, [1] * 9), "axes"),
        (tensor([4], [1], source=storage(count=5)), "storage"),
        (tensor([4], [1], source=storage(count=1 << 62)), "more than any file"),
        (tensor([4], [1], source=storage(count=-4)), "more than any file"),
        (tensor([4], [1], source=storage(kind="ComplexFloatStorage")), "ComplexFloatStorage"),
        (tensor([4], [1], source=storage(kind="Size")), "type of a storage"),
        (tensor([4], [1], source=storage(key="1")), "storage"),
        (tensor([4], [1], source=storage(key="../data.pkl")), "storage"),
        (tensor([4], [1], source=text("storage")), "arguments torch.save does not write"),
        (tensor([4], [1]) + b"}" + text("x") + b"Ksb", "damaged|attributes"),
        (tensor([4], [1]) + text("a") + b"K\x01s", "no dict"),
        (tensor([4], [1]) + b"K\x01a", "no list"),
        (b"](K\x01K\x02u", "no dict"),
        (storage(), "bare storage"),
        (b"ctorch\nSize\n", "a name"),
        (b"}" + tensor([4], [1]) + b"K\x01s", "keys"),
        (b"}))s", "keys"),
        (b"}" + (text("a") + b"Ns") * 2, "twice"),
        (b"h\x09", "never stored"),
        (b"0", "POP"),
        (b"(R", "takes more"),
        (b"(" * 65, "deeper"),
        (b"N" + b"\x85" * 70, "deeper"),
        (b"N" + b"\x85" * 100_000, "deeper"),
        (b"]q\x00h\x00a", "deeper"),  # a list that holds itself
        (b"\x8b" + struct.pack("<i", 1000) + b"\x7f" * 1000, "127 bits"),
        (b"I" + b"9" * 5000 + b"\n", "damaged"),
        (b"C\x01a", "holds a name, bytes"),
        (b"T\xff\xff\xff\xff", "damaged"),
        (b"\x8e" + b"\xff" * 8, "damaged"),
        (b"\x8f", "EMPTY_SET"),
        (b"\xff", "damaged"),
    ],
)
def test_a_pickle_that_lies_is_refused(program: bytes, reason: str, zipped: bool, tmp_path: Path) -> None:
    path = wrap(dict_of(program), tmp_path / "x.pt", zipped, FOUR if b"FloatStorage" in program else None)
    with pytest.raises(BadWeights, match=reason):
        read_tensors(path)


@FORMATS
def test_shared_lists_that_unfold_to_billions_are_refused(zipped: bool, tmp_path: Path) -> None:
    laughs = b"]q\x00" + b"".join(b"](" + b"h%c" % i * 10 + b"eq%c" % (i + 1) for i in range(12))
    with pytest.raises(BadWeights, match="more than 100,000 values"):
        read_tensors(wrap(dict_of(b"(" + laughs + b"t"), tmp_path / "x.pt", zipped))


@FORMATS
def test_the_counts_are_bounded(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save({str(i): torch.zeros(1) for i in range(12)}, tmp_path / "x.pt", zipped)
    for module, limit, small, reason in [
        (pickle_values, "MAX_TENSORS", 11, "11 tensors"), (pickle_machine, "MAX_MEMO", 20, "20 values"),
        (pickle_machine, "MAX_INSTRUCTIONS", 50, "50 instructions"),
        (pickle_values, "MAX_VALUES", 5, "5 values"), (files, "MAX_FILE", 100, "the limit is 100"),
    ]:  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, small)
            with pytest.raises(BadWeights, match=reason):
                read_tensors(path)


# --- damaged files ------------------------------------------------------------------------------------------


@FORMATS
def test_every_truncation_is_refused(zipped: bool, tmp_path: Path) -> None:
    whole = save({"a": torch.ones(3), "b": torch.zeros(2, 2)}, tmp_path / "x.pt", zipped).read_bytes()
    path = tmp_path / "cut.pt"
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(BadWeights):
            read_tensors(path)


@FORMATS
def test_a_flipped_bit_is_refused_or_changes_only_values(zipped: bool, tmp_path: Path) -> None:
    whole = save({"a": torch.ones(3), "b": torch.zeros(2, 2)}, tmp_path / "x.pt", zipped).read_bytes()
    path = tmp_path / "flipped.pt"
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            read = read_tensors(path)
        except BadWeights:
            refused += 1
        else:
            assert isinstance(read, dict)
    assert refused > 40


def test_a_flipped_bit_in_a_zipped_tensor_is_always_found(tmp_path: Path) -> None:
    whole = save({"a": torch.ones(512)}, tmp_path / "x.pt", True).read_bytes()
    start = whole.index(struct.pack("<f", 1.0) * 512)
    path = tmp_path / "flipped.pt"
    for place in range(start, start + 2048, 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(BadWeights, match="CRC"):
            read_tensors(path)


def test_bytes_after_the_last_storage_are_refused(tmp_path: Path) -> None:
    path = save({"a": torch.ones(3)}, tmp_path / "x.pt", False)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(BadWeights, match="after its last storage"):
        read_tensors(path)


# --- other files --------------------------------------------------------------------------------------------


GOOD = dict_of(tensor([4], [1]))


@pytest.mark.parametrize(
    "entries, reason",
    [
        ({"data/0": FOUR["0"]}, "without a data.pkl"),
        ({"data.pkl": GOOD}, "missing"),
        ({"data.pkl": GOOD, "data/0": FOUR["0"] + b"\0"}, "17 bytes"),
        ({"data.pkl": GOOD, "data/0": FOUR["0"][:-1]}, "15 bytes"),
        ({"data.pkl": GOOD, "data/0": FOUR["0"], "byteorder": b"big"}, "big-endian"),
        ({"data.pkl": GOOD, "constants.pkl": b""}, "TorchScript"),
        ({"data.pkl": GOOD, "data/0": FOUR["0"], "../data/1": b""}, "not inside one top folder"),
    ],
)
def test_a_zip_archive_torch_would_not_write_is_refused(entries: dict[str, bytes], reason: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"a/{name}", content)
    with pytest.raises(BadWeights, match=reason):
        read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "content", [b"", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\0" * 5000, os.urandom(5000), b"<html>"]
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(BadWeights):
        read_tensors(path)


def test_a_tar_archive_is_refused_by_its_age(tmp_path: Path) -> None:
    import tarfile

    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as made:
        made.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    with pytest.raises(BadWeights, match=r"before PyTorch 0\.2"):
        read_tensors(path)


def test_pipes_folders_and_absent_files_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in [("pipe", "pipe"), (".", "folder"), ("absent", "No such file"), ("a\0b", "null")]:
        with pytest.raises(BadWeights, match=reason):
            read_tensors(tmp_path / name)
