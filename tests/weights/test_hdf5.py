"""HDF5 files come back as h5py wrote them; what we do not read is refused by name."""

import io
import struct
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.weights.files import BadWeights
from residual.weights.hdf5 import read, read_data, recognises


def written(fill, **how):
    """The bytes of a file that `fill` fills."""
    stream = io.BytesIO()
    with h5py.File(stream, "w", **how) as file:
        fill(file)
    return stream.getvalue()


def texts(array):
    """The texts in an attribute."""
    flat = array.reshape(-1, array.shape[-1])
    return [bytes(row).rstrip(b"\0").decode() for row in flat]


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8"])
@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (3, 3, 4, 5), (1,) * 8])
def test_every_type_and_shape_comes_back(kind, shape):
    array = np.random.default_rng(0).integers(0, 100, shape).astype(kind)
    found = read_data(written(lambda file: file.create_dataset("a", data=array)))["a"]
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_chunks_come_back(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    chunks = tuple(data.draw(st.integers(1, side)) for side in shape)
    how = data.draw(
        st.sampled_from([{}, {"compression": "gzip"}, {"shuffle": True}, {"compression": 9, "shuffle": True}])
    )
    kind = data.draw(st.sampled_from(["<f2", "<f4", "<f8", "i1"]))
    array = np.random.default_rng(0).integers(-100, 100, shape).astype(kind)
    found = read_data(written(lambda file: file.create_dataset("a", data=array, chunks=chunks, **how)))["a"]
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text("abcdefgh", min_size=1, max_size=6), st.integers(0, 5), max_size=80))
def test_groups_come_back_whatever_their_number(names):
    def fill(file):
        for name, size in names.items():
            file.create_group(name).create_dataset("inner/kernel:0", data=np.full(size, size, np.float32))

    found = read_data(written(fill))
    assert {name: len(array) for name, array in found.items()} == {
        f"{name}/inner/kernel:0": size for name, size in names.items()
    }


@pytest.mark.parametrize("how", [{}, {"libver": "v108"}, {"libver": "latest"}], ids=str)
def test_texts_of_groups_come_back_in_every_form(how):
    def fill(file):
        file.attrs["one"] = "tensorflow"
        file.attrs["many"] = ["a", "bcd", "", "häß"]
        file.attrs["fixed"] = np.array([b"ab", b"c"])
        file.attrs["number"] = 3  # no text, so it is left out
        file.create_group("g").attrs["weight_names"] = [b"g/kernel:0"]

    found = read_data(written(fill, **how))
    assert {name: texts(array) for name, array in found.items()} == {
        "@one": ["tensorflow"],
        "@many": ["a", "bcd", "", "häß"],
        "@fixed": ["ab", "c"],
        "g@weight_names": ["g/kernel:0"],
    }


@pytest.mark.parametrize("libver", ["v108", "latest"])
def test_newer_headers_are_read(libver):
    array = np.arange(6, dtype=np.float32)
    found = read_data(written(lambda file: file.create_dataset("a/b", data=array), libver=libver))
    assert np.array_equal(found["a/b"], array)


def test_an_array_in_one_piece_is_a_view_of_the_file():
    data = written(lambda file: file.create_dataset("a", data=np.arange(1000.0)))
    assert np.shares_memory(read_data(data)["a"], np.frombuffer(data, np.uint8))


def many_links(file):
    for number in range(20):
        file.create_group(f"g{number}")


def with_hard_link(file):
    file["a"] = file.create_group("b")


def with_circle(file):
    group = file.create_group("a/b/c")
    group["up"] = file["a"]


def external_data(file):
    file.create_dataset("a", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (4,))
    file.create_virtual_dataset("a", layout)


@pytest.mark.parametrize(
    "fill, how, problem",
    [
        (lambda file: file.create_dataset("a", data=np.arange(3, dtype=">f4")), {}, "little-endian"),
        (lambda file: file.create_dataset("a", data=np.array([b"text"])), {}, "little-endian"),
        (lambda file: file.create_dataset("a", data=np.zeros(3, complex)), {}, "little-endian"),
        (lambda file: file.create_dataset("a", (3,), "f4"), {}, "never written"),
        (lambda file: file.create_dataset("a", (30,), "f4", chunks=(3,)), {}, "never written"),
        (lambda file: file.create_dataset("a", data=np.zeros((9, 9)), compression="lzf"), {}, "filter 32000"),
        (lambda file: file.create_dataset("a", data=np.zeros((9, 9)), fletcher32=True), {}, "filter 3;"),
        (lambda file: file.create_dataset("a", data=np.zeros((9, 9)), chunks=True), {"libver": "latest"}, "version 4"),
        (lambda file: file.__setitem__("a", h5py.SoftLink("/b")), {}, "not followed"),
        (lambda file: file.__setitem__("a", h5py.ExternalLink("/etc/passwd", "/b")), {}, "other files"),
        (lambda file: file.__setitem__("a", np.dtype("f4")), {}, "neither a group nor an array"),
        (lambda file: file.create_dataset("a" * 999 + "/bb", data=0), {}, "longer than 1000"),
        (lambda file: file.create_group("/".join("a" * 20)), {}, "deeper than 16"),
        (many_links, {"libver": "latest"}, "newest way"),
        (with_hard_link, {}, "another name already"),
        (with_circle, {}, "another name already"),
        (external_data, {}, "another file"),
        (virtual, {"libver": "latest"}, "version|way"),
    ],
)
def test_what_is_not_read_is_refused_by_name(fill, how, problem):
    with pytest.raises(BadWeights, match=problem):
        read_data(written(fill, **how))


def plain(file):
    """A file with every part that we read."""
    file.attrs["layer_names"] = [b"conv", b"dense"]
    file.attrs["backend"] = "tensorflow"
    file.create_dataset("conv/conv/kernel:0", data=np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    file.create_dataset("dense", data=np.zeros((20, 20), np.float32), chunks=(7, 7), compression="gzip", shuffle=True)


def test_every_beginning_of_a_file_is_refused():
    data = written(plain)
    whole = read_data(data)
    refused = 0
    for end in range(len(data)):
        try:
            found = read_data(data[:end])
        except BadWeights:
            refused += 1
        else:  # only bytes that nothing points to are missing
            assert all(np.array_equal(found[name], whole[name]) for name in whole)
    assert refused > len(data) // 2


def test_a_tree_that_leads_to_itself_is_refused():
    data = written(plain)
    at = data.index(b"TREE")
    node = bytearray(data)
    node[at + 5] = 1  # a level above the lowest
    child = at + 8 + 16 + 8
    node[child : child + 8] = struct.pack("<Q", at)
    with pytest.raises(BadWeights, match=r"circle|level"):
        read_data(bytes(node))


def test_a_header_that_continues_in_itself_is_refused():
    def fill(file):
        for number in range(30):  # more than the header's first block holds
            file.attrs[f"a{number}"] = "text"

    data = written(fill)
    message = struct.pack("<HHB3x", 0x10, 16, 0)
    at = data.index(message) + len(message)
    header = struct.unpack_from("<Q", data, 64)[0]
    circle = data[:at] + struct.pack("<Q", header) + data[at + 8 :]
    with pytest.raises(BadWeights, match="circle"):
        read_data(circle)


def test_a_chunk_that_inflates_without_end_is_stopped():
    """gzip makes a thousand bytes of one; we make as many as the chunk's shape says, and one that is too many."""

    def fill(file):
        array = file.create_dataset("a", (1024,), "<f8", chunks=(1024,), compression="gzip")
        array.id.write_direct_chunk((0,), zlib.compress(bytes(1 << 26)))

    with pytest.raises(BadWeights, match="8,193 bytes instead of 8,192"):
        read_data(written(fill))


def test_arrays_of_zeros_much_larger_than_the_file_are_refused():
    def fill(file):
        file.create_dataset("a", data=np.zeros(10 << 20), chunks=(1 << 20,), compression=9)

    with pytest.raises(BadWeights, match="times as large as the file"):
        read_data(written(fill))


def test_the_file_is_known_by_its_first_bytes(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(written(plain))
    assert recognises(path.read_bytes()[:4096], path)
    assert not recognises(b"PK\x03\x04", path)
    assert read(path).keys() == read_data(path.read_bytes()).keys()
