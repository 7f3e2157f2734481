"""Tensors out of files written by `torch.save` or `pickle.dump`, read as data: nothing in the file is ever called.

Three containers are read: the zip archive of PyTorch 1.6 and later, the older file of several pickles followed by raw
storages, and a bare pickle of arrays (protocol 2 or later, of Python 2 as well), as Detectron's are.

A pickle is a program for a small stack machine.  `pickle_machine` runs the few instructions that are needed to write
tensors, NumPy arrays, numbers, strings, lists and dicts, and refuses everything else; `pickle_values` checks that
what it claims fits the bytes that are there.
"""

import io
import os
import struct
import warnings
from typing import BinaryIO

import numpy as np

from residual.weights import archive
from residual.weights.arrays import Array
from residual.weights.files import BadWeights, naming, open_file
from residual.weights.pickle_machine import Machine, Stream
from residual.weights.pickle_values import Tree, Value

NAME = "torch.save"  # and pickle.dump

MAX_PICKLE = 64 << 20  # bytes of instructions
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before PyTorch 1.6
PROTOCOL = 1001  # the second
NESTS = (  # where checkpoints keep their tensors
    "state_dict",
    "model",
    "net",
    "model_state_dict",
    "state_dict_ema",
    "blobs",
)


def recognises(head: bytes, path: str | os.PathLike[str]) -> bool:
    """Whether a file is an archive, or begins like a pickle of protocol 2 or later."""
    return head.startswith((archive.SIGNATURE, b"\x80")) or head[257:262] == b"ustar"


def read(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The tensors of a state dict by name, alone or in a checkpoint; "module." taken away."""
    value = read_tensors(path)
    for nest in NESTS:
        inner = value.get(nest)
        if isinstance(inner, dict):
            value = inner
            break
    tensors = {str(name): tensor for name, tensor in value.items() if isinstance(tensor, np.ndarray)}
    if not tensors:
        held = ", ".join(sorted(map(str, value))[:5]) or "nothing"
        raise BadWeights(f"there are no named tensors in it (it holds {held[:200]}); save the network's state_dict()")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def read_tensors(path: str | os.PathLike[str]) -> dict[str | int, Value]:
    """The dict that was saved: tensors and arrays, numbers, strings, and lists and dicts of them.

    Attributes of an OrderedDict (a state dict's `_metadata`) are dropped.  Tensors that shared a storage
    still do.  Refuses, as `BadWeights`, whatever else the file holds and what exceeds our limits.
    """
    with naming(path), open_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pickletools on odd escapes in text
        if file.read(4) == archive.SIGNATURE:
            return _read_archive(file)
        return _read_pickles(file)


# --- the three containers -------------------------------------------------------------------------------------


def _read_archive(file: BinaryIO) -> dict[str | int, Value]:
    """A zip archive: NAME/data.pkl says what there is, NAME/data/KEY holds the bytes of one storage."""
    with archive.opened(file) as entries:
        if "data.pkl" not in entries:
            raise BadWeights("it is a zip archive without a data.pkl, so torch.save did not write it")
        if "constants.pkl" in entries:
            raise BadWeights(
                "it is a TorchScript program, not a file of weights; "
                "load it where it was made and save its state_dict()"
            )
        if "byteorder" in entries and entries.read("byteorder") != b"little":
            raise BadWeights("its numbers are big-endian; save it again on a little-endian machine")
        if entries.size("data.pkl") > MAX_PICKLE:
            raise BadWeights(f"its data.pkl has more than {MAX_PICKLE:,} bytes")
        machine = Machine()
        tree = machine.run(io.BytesIO(entries.read("data.pkl")))
        contents = {}
        for key, storage in machine.storages.items():
            name = f"data/{key}"
            if name not in entries:
                raise BadWeights(f"the bytes of storage {key!r} are missing")
            if entries.size(name) != storage.length:
                raise BadWeights(
                    f"storage {key!r} has {entries.size(name):,} bytes, but its pickle speaks of {storage.length:,}"
                )
            contents[key] = storage.fill(entries.read(name))
    return Tree(contents).root(tree)


def _read_pickles(file: BinaryIO) -> dict[str | int, Value]:
    """One pickle that is all there is, or the first of PyTorch's."""
    file.seek(0)
    head = file.read(512)
    if head[257:262] == b"ustar":
        raise BadWeights(
            "it is a tar archive from before PyTorch 0.2; load and save it again with a PyTorch of its time"
        )
    file.seek(0)
    stream = Stream(file, os.fstat(file.fileno()).st_size)
    machine = Machine()
    try:
        first = machine.run(stream)
    except BadWeights:
        if head.startswith(b"\x80"):
            raise
        first = None
    if first == MAGIC and type(first) is int:
        return _read_legacy(file, stream)
    if type(first) is not dict:
        raise BadWeights(f"no weights are saved like this (it begins with {head[:8]!r}); give what torch.save wrote")
    if machine.storages:
        raise BadWeights("it speaks of storages, and has none")
    if stream.read(1):
        raise BadWeights("there are bytes after its pickle")
    return Tree({}).root(first)


def _read_legacy(file: BinaryIO, stream: Stream) -> dict[str | int, Value]:
    """Five pickles (magic number, protocol, machine, the object, the keys of its storages), then storages."""
    if Machine().run(stream) != PROTOCOL:
        raise BadWeights(f"its protocol is not {PROTOCOL}, the only one PyTorch wrote before 1.6")
    machine_info = Machine().run(stream)
    if not isinstance(machine_info, dict) or machine_info.get("little_endian") is not True:
        raise BadWeights("its numbers are not little-endian; save it again on a little-endian machine")
    machine = Machine()
    tree = machine.run(stream)
    keys = Machine().run(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise BadWeights("its list of storages is broken")
    if len(set(keys)) != len(keys) or set(keys) != machine.storages.keys():
        raise BadWeights("its list of storages is not the one its pickle speaks of")
    contents = {}
    for key in keys:
        storage = machine.storages[key]
        header = file.read(8)
        if len(header) < 8 or struct.unpack("<q", header)[0] != storage.count:
            raise BadWeights(f"storage {key!r} does not begin with its size, {storage.count:,} numbers")
        if storage.length > os.fstat(file.fileno()).st_size - file.tell():
            raise BadWeights(f"it is cut short: storage {key!r} should have {storage.length:,} bytes")
        contents[key] = storage.fill(file.read(storage.length))
    if file.read(1):
        raise BadWeights("there are bytes after its last storage")
    return Tree(contents).root(tree)
