"""W6, two of its targets: mutated .caffemodel and HDF5 files end in arrays or in a typed refusal, nothing else.

A mutator that knows numbers (edges, lengths, addresses) works on small sound files and on what it has made of them.
"""

import io
import struct

import h5py
import numpy as np
import pytest

from residual.weights import hdf5, protobuf
from tests.reliability.conftest import fuzz


def caffe_seeds() -> list[bytes]:
    """A network with every part that the reader knows: packed and single numbers, both shapes, settings."""
    packed = b"\x3a\x04\x0a\x02\x02\x02\x2a\x10" + struct.pack("<4f", 1, 2, 3, 4)
    single = b"\x3a\x03\x0a\x01\x03" + b"".join(b"\x2d" + struct.pack("<f", n) for n in (1, 2, 3))
    double = b"\x08\x01\x10\x01\x18\x01\x20\x02\x42\x10" + struct.pack("<2d", 1, 2)

    def part(key: bytes, content: bytes) -> bytes:
        return key + bytes([len(content)]) + content

    settings = part(b"\xd2\x06", b"\x18\x03\x30\x02\x90\x01\x01") + part(b"\xda\x08", b"\x1d" + struct.pack("<f", 1e-5))
    new = part(b"\x0a", b"conv") + part(b"\x3a", packed) + part(b"\x3a", single)
    old = part(b"\x22", b"old") + part(b"\x32", double) + part(b"\x32", packed)
    other = part(b"\x0a", b"pool") + part(b"\xca\x07", b"\x08\x00\x10\x03\x18\x02")
    layers = [part(b"\xa2\x06", new + settings), part(b"\x12", old), part(b"\xa2\x06", other)]
    return [part(b"\x0a", b"net") + b"".join(layers), layers[0], layers[1]]


def hdf5_seeds() -> list[bytes]:
    """Files with every part that the reader knows: both kinds of headers, links and texts, and chunks."""

    def fill(file: h5py.File) -> None:
        file.attrs["layer_names"] = [b"conv", b"dense"]
        file.attrs["backend"] = "tensorflow"
        file.create_dataset("conv/kernel:0", data=np.arange(6, dtype=np.float32).reshape(2, 3))

    def chunked(file: h5py.File) -> None:
        file.create_dataset("a", data=np.ones((5, 5), np.float16), chunks=(2, 3), compression="gzip", shuffle=True)

    seeds = []
    for part, how in ((fill, {}), (fill, {"libver": "v108"}), (fill, {"libver": "latest"}), (chunked, {})):
        stream = io.BytesIO()
        with h5py.File(stream, "w", **how) as file:
            part(file)
        seeds.append(stream.getvalue())
    return seeds


TARGETS = [
    pytest.param(protobuf.NAME, protobuf.read_net, caffe_seeds, id="caffemodel"),
    pytest.param(hdf5.NAME, hdf5.read_data, hdf5_seeds, id="hdf5"),
]


@pytest.mark.parametrize("name, read, seeds", TARGETS)
def test_a_second_of_mutated_files(name, read, seeds, row):
    figures, rate = fuzz(read, seeds(), 1)
    row("W6", f"fuzzing {name}", figures, rate > 100)  # how fast is for the whole run to say


@pytest.mark.reliability
@pytest.mark.parametrize("name, read, seeds", TARGETS)
def test_a_minute_of_mutated_files(name, read, seeds, row):
    figures, rate = fuzz(read, seeds(), 60)
    row("W6", f"fuzzing {name}", figures, rate >= 1_000)


@pytest.mark.parametrize("name, read, seeds", TARGETS)
def test_the_seeds_are_sound(name, read, seeds):
    assert all(read(seed) for seed in seeds())
