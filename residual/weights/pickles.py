"""Tensors out of files written by `torch.save` or `pickle.dump`, read as data: nothing in the file is ever called.

A pickle is a program for a small stack machine.  We run the few instructions that are needed to write tensors,
NumPy arrays, numbers, strings, lists and dicts; the names it mentions are compared with `KNOWN`, never imported.
Everything else, however harmless, is refused.  Three containers are read: the zip archive of PyTorch 1.6 and
later, the older file of several pickles followed by raw storages, and a bare pickle of arrays (protocol 2 or later,
of Python 2 as well), as Detectron's are.
"""

import io
import os
import pickletools
import stat
import struct
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np

from residual.weights.arrays import BFLOAT16, MAX_DIMENSIONS, MAX_TENSORS, Array
from residual.weights.files import MAX_FILE, BadWeights, naming, open_file

NAME = "torch.save"  # and pickle.dump

Value: TypeAlias = "Array | str | int | float | list[Value] | tuple[Value, ...] | dict[str | int, Value] | None"

MAX_ENTRIES = 10_000  # files in one zip archive
MAX_DIRECTORY = 4 << 20  # bytes of a zip archive's list of entries
MAX_PICKLE = 64 << 20  # bytes of instructions
MAX_INSTRUCTIONS = 1_000_000
MAX_MEMO = 100_000
MAX_DEPTH = 64
MAX_VALUES = 100_000  # in the whole tree, each counted as often as it is mentioned
MAX_INTEGER = 1 << 127
MAX_LINE = 1 << 16  # bytes of an instruction's argument in text
MAX_TEXT = 1 << 16  # bytes of Python 2's strings that may be text; longer ones are numbers

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before PyTorch 1.6
PROTOCOL = 1001  # the second

STORAGES: dict[str, np.dtype[Any]] = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": BFLOAT16,
    "torch.ByteStorage": np.dtype("u1"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.BoolStorage": np.dtype("?"),
}
ARRAY, ARRAY_OF_BUFFER, SCALAR = (  # NumPy 2 moved them
    {f"numpy.core.{name}", f"numpy._core.{name}"}
    for name in ("multiarray._reconstruct", "numeric._frombuffer", "multiarray.scalar")
)
TYPES = {code: np.dtype(code) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")}
OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
LENGTHS = {"BINSTRING": "<i", "BINBYTES": "<I", "BINBYTES8": "<Q", "BYTEARRAY8": "<Q"}  # before their argument
KNOWN = {
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_tensor",  # PyTorch 0.3
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    *STORAGES,
    *ARRAY,
    *ARRAY_OF_BUFFER,
    *SCALAR,
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",  # bytes, in a pickle for Python 2,
    "__builtin__.bytes",  # and no bytes
}


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
    return head.startswith((b"PK\x03\x04", b"\x80")) or head[257:262] == b"ustar"


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
    still do.  Refuses, as `BadWeights`, whatever else the file holds and what exceeds this module's limits.
    """
    with naming(path), open_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pickletools on odd escapes in text
        if file.read(4) == b"PK\x03\x04":
            return _read_archive(file)
        return _read_pickles(file)


# --- the three containers -------------------------------------------------------------------------------------


def _read_archive(file: BinaryIO) -> dict[str | int, Value]:
    """A zip archive: NAME/data.pkl says what there is, NAME/data/KEY holds the bytes of one storage."""
    _check_directory_size(file)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = _check_entries(archive, os.fstat(file.fileno()).st_size)
            if "data.pkl" not in entries:
                raise BadWeights("it is a zip archive without a data.pkl, so torch.save did not write it")
            if "constants.pkl" in entries:
                raise BadWeights(
                    "it is a TorchScript program, not a file of weights; "
                    "load it where it was made and save its state_dict()"
                )
            if "byteorder" in entries and _entry(archive, entries["byteorder"]) != b"little":
                raise BadWeights("its numbers are big-endian; save it again on a little-endian machine")
            if entries["data.pkl"].file_size > MAX_PICKLE:
                raise BadWeights(f"its data.pkl has more than {MAX_PICKLE:,} bytes")
            machine = _Machine()
            tree = machine.run(io.BytesIO(_entry(archive, entries["data.pkl"])))
            contents = {}
            for key, storage in machine.storages.items():
                entry = entries.get(f"data/{key}")
                if entry is None:
                    raise BadWeights(f"the bytes of storage {key!r} are missing")
                if entry.file_size != storage.length:
                    raise BadWeights(
                        f"storage {key!r} has {entry.file_size:,} bytes, but its pickle speaks of {storage.length:,}"
                    )
                contents[key] = storage.fill(_entry(archive, entry))
    except BadWeights:
        raise
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        ValueError,
        struct.error,
    ) as problem:
        raise BadWeights(f"it is not a sound zip archive: {problem}") from None
    return _Tree(contents).root(tree)


def _check_directory_size(file: BinaryIO) -> None:
    """Refuse a huge list of entries before `zipfile` builds it in memory."""
    tail = 56 + 20 + 22  # the 64-bit end record and its locator, which may be absent; the end record
    file.seek(max(file.seek(0, io.SEEK_END) - tail, 0))
    wide, locator, end = (part := file.read(tail).rjust(tail))[:56], part[56:76], part[76:]
    if end[:4] != b"PK\x05\x06" or end[20:] != b"\x00\x00":
        raise BadWeights("it is not a sound zip archive: it does not end with an end record, so it may be cut short")
    entries, directory = struct.unpack("<HL", end[10:16])
    if locator[:4] == b"PK\x06\x07":
        if wide[:4] != b"PK\x06\x06":
            raise BadWeights("it is not a sound zip archive: its 64-bit end record is missing")
        entries, directory = struct.unpack("<QQ", wide[32:48])
    if entries > MAX_ENTRIES or directory > MAX_DIRECTORY:
        raise BadWeights(
            f"its zip directory speaks of {entries:,} entries in {directory:,} bytes; "
            f"the limits are {MAX_ENTRIES:,} and {MAX_DIRECTORY:,}"
        )
    file.seek(0)


def _check_entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by their names below the one top folder.

    Refused: compression (torch.save does not compress, bombs do), encryption, links, two entries of one name,
    entries that share bytes, names that lead out of the folder.
    """
    found = archive.infolist()
    if len(found) > MAX_ENTRIES:
        raise BadWeights(f"it has {len(found):,} zip entries; the limit is {MAX_ENTRIES:,}")
    entries: dict[str, zipfile.ZipInfo] = {}
    tops = set()
    end = 0
    for entry in sorted(found, key=lambda entry: entry.header_offset):
        top, _, name = entry.filename.partition("/")
        tops.add(top)
        problem = None
        if not name or top in ("", ".", "..") or ".." in name.split("/") or "\\" in entry.filename:
            problem = "is not inside one top folder"
        elif name in entries:
            problem = "is there twice"
        elif entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            problem = "is compressed; torch.save stores"
        elif entry.flag_bits & ~0x808:  # sizes after the data, names in UTF-8: what torch.save sets
            problem = "is encrypted or of an unknown kind"
        elif stat.S_ISLNK(entry.external_attr >> 16):
            problem = "is a symbolic link"
        elif entry.header_offset < end:
            problem = "shares bytes with another entry"
        if problem:
            raise BadWeights(f"its zip entry {entry.filename[:200]!r} {problem}")
        end = entry.header_offset + 30 + entry.file_size
        entries[name] = entry
    if end > size:
        raise BadWeights("its zip entries speak of more bytes than the file has")
    if len(tops) != 1:
        raise BadWeights(f"its zip entries lie in {len(tops)} top folders; torch.save writes one")
    return entries


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as stream:
        content = stream.read(entry.file_size + 1)  # reading to the end checks the checksum
    if len(content) != entry.file_size:
        raise BadWeights(f"its zip entry {entry.filename[:200]!r} is shorter than it says")
    return content


def _read_pickles(file: BinaryIO) -> dict[str | int, Value]:
    """One pickle that is all there is, or the first of PyTorch's."""
    file.seek(0)
    head = file.read(512)
    if head[257:262] == b"ustar":
        raise BadWeights(
            "it is a tar archive from before PyTorch 0.2; load and save it again with a PyTorch of its time"
        )
    file.seek(0)
    stream = _Stream(file, os.fstat(file.fileno()).st_size)
    machine = _Machine()
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
    return _Tree({}).root(first)


def _read_legacy(file: BinaryIO, stream: "_Stream") -> dict[str | int, Value]:
    """Five pickles (magic number, protocol, machine, the object, the keys of its storages), then storages."""
    if _Machine().run(stream) != PROTOCOL:
        raise BadWeights(f"its protocol is not {PROTOCOL}, the only one PyTorch wrote before 1.6")
    machine_info = _Machine().run(stream)
    if not isinstance(machine_info, dict) or machine_info.get("little_endian") is not True:
        raise BadWeights("its numbers are not little-endian; save it again on a little-endian machine")
    machine = _Machine()
    tree = machine.run(stream)
    keys = _Machine().run(stream)
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
    return _Tree(contents).root(tree)


class _Stream:
    """A file to read instructions from, that is never asked for more than it has."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def tell(self) -> int:
        return self.file.tell()

    def read(self, count: int) -> bytes:
        return self.file.read(max(0, min(count, self.size - self.file.tell())))

    def readline(self) -> bytes:
        return self.file.readline(MAX_LINE)


# --- the stack machine --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Name:
    """A name the pickle mentions; it stays a name."""

    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]
    count: int  # numbers

    @property
    def length(self) -> int:
        """Bytes."""
        return self.count * self.dtype.itemsize

    def fill(self, content: bytes) -> Array:
        if len(content) != self.length:
            raise BadWeights(f"storage {self.key!r} has {len(content):,} bytes instead of {self.length:,}")
        if self.dtype == np.bool_ and content.strip(b"\x00\x01"):
            raise BadWeights(f"storage {self.key!r} should hold true and false, but holds other bytes")
        return np.frombuffer(content, dtype=self.dtype)


@dataclass(frozen=True)
class _View:
    """A tensor, not yet made: numbers of a storage, seen with a shape."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        """Every element lies inside the storage, in Python's unbounded integers."""
        rank = len(self.size)
        if not all(type(n) is int for n in (self.offset, *self.size, *self.stride)):
            raise BadWeights("a tensor has a shape or strides that are not whole numbers")
        if rank > MAX_DIMENSIONS or len(self.stride) != rank:
            raise BadWeights(
                f"a tensor has {rank} axes and {len(self.stride)} strides; at most {MAX_DIMENSIONS}, of each"
            )
        if self.offset < 0 or any(n < 0 for n in self.size) or any(n < 0 for n in self.stride):
            raise BadWeights("a tensor has a negative size, stride or offset")
        if prod(max(n, 1) for n in self.size) > MAX_FILE:
            raise BadWeights(f"a tensor of shape {self.size} is larger than any file we read")
        count = prod(self.size)
        reach = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if count > self.storage.count or (count and reach >= self.storage.count):
            raise BadWeights(
                f"a tensor of shape {self.size} reaches outside its storage of {self.storage.count:,} numbers"
            )

    def on(self, storage: Array) -> Array:
        if 0 in self.size:
            return np.empty(self.size, dtype=storage.dtype)
        width = storage.dtype.itemsize
        stride = [width * min(step, MAX_FILE) for step in self.stride]  # only where an axis has length 1 is it larger
        return np.ndarray(self.size, storage.dtype, storage, width * self.offset, stride)


@dataclass
class _Type:
    """A type of NumPy's; its byte order comes after it."""

    dtype: np.dtype[Any]


@dataclass
class _Array:
    """An array of NumPy's, whose numbers come after it."""

    array: Array | None = None


@dataclass
class _Machine:
    """One run of the stack machine; `storages` are those the pickle mentions."""

    storages: dict[str, _Storage] = field(default_factory=dict)
    encoded: int = 0  # bytes made from text
    stack: list[object] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)  # heights of the stack
    memo: dict[int, object] = field(default_factory=dict)

    def run(self, stream: "io.BytesIO | _Stream") -> object:
        """Run the pickle that begins here, and leave the stream behind it."""
        for number, (name, argument, position) in enumerate(_instructions(stream)):
            if number >= MAX_INSTRUCTIONS:
                raise BadWeights(f"its pickle has more than {MAX_INSTRUCTIONS:,} instructions")
            if name == "STOP":
                break
            try:
                self.step(name, argument)
            except BadWeights as problem:
                raise BadWeights(f"{problem} (byte {position} of its pickle)") from None
        if len(self.stack) != 1 or self.marks:
            raise BadWeights("its pickle ends with values left over")
        return self.stack[0]

    def step(self, name: str, argument: object) -> None:
        push = self.stack.append
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                if len(self.marks) >= MAX_DEPTH:
                    raise BadWeights(f"its pickle nests deeper than {MAX_DEPTH}")
                self.marks.append(len(self.stack))
            case "BINPUT" | "LONG_BINPUT":
                assert isinstance(argument, int)
                self.remember(argument)
            case "MEMOIZE":
                self.remember(len(self.memo))
            case "BINGET" | "LONG_BINGET":
                if argument not in self.memo:
                    raise BadWeights("its pickle recalls what it never stored")
                push(self.memo[argument])
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT"
                | "BINSTRING" | "SHORT_BINSTRING" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8"
                | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8"
            ):  # fmt: skip
                if isinstance(argument, int) and abs(argument) > MAX_INTEGER:
                    raise BadWeights("it holds an integer of more than 127 bits")
                push(argument)
            case "NONE":
                push(None)
            case "NEWTRUE":
                push(True)
            case "NEWFALSE":
                push(False)
            case "EMPTY_TUPLE":
                push(())
            case "EMPTY_LIST":
                push([])
            case "EMPTY_DICT":
                push({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self.pop(int(name[-1]))))
            case "TUPLE":
                push(tuple(self.pop_mark()))
            case "APPEND":
                self.extend(self.pop(1))
            case "APPENDS":
                self.extend(self.pop_mark())
            case "SETITEM":
                self.set_items(self.pop(2))
            case "SETITEMS":
                self.set_items(self.pop_mark())
            case "GLOBAL":
                push(_known(str(argument).replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                module, attribute = self.pop(2)
                if not isinstance(module, str) or not isinstance(attribute, str):
                    raise BadWeights("its pickle asks for a name that is no text")
                push(_known(f"{module}.{attribute}"))
            case "REDUCE":
                function, arguments = self.pop(2)
                push(self.reduce(function, arguments))
            case "BUILD":
                (state,) = self.pop(1)
                self.build(self.stack[-1] if self.stack else None, state)
            case "BINPERSID":
                push(self.storage(self.pop(1)[0]))
            case _:
                raise BadWeights(
                    f"its pickle uses {name}, which torch.save never needs for tensors; "
                    "save a state_dict() of plain tensors, or a .safetensors file"
                )

    def remember(self, slot: int) -> None:
        if len(self.memo) >= MAX_MEMO:
            raise BadWeights(f"its pickle remembers more than {MAX_MEMO:,} values")
        self.memo[slot] = self.pop(1)[0]
        self.stack.append(self.memo[slot])

    def pop(self, count: int) -> list[object]:
        floor = self.marks[-1] if self.marks else 0
        if len(self.stack) - count < floor:
            raise BadWeights("its pickle takes more from the stack than is there")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def pop_mark(self) -> list[object]:
        if not self.marks:
            raise BadWeights("its pickle closes what it never opened")
        mark = self.marks.pop()
        taken = self.stack[mark:]
        del self.stack[mark:]
        return taken

    def extend(self, values: list[object]) -> None:
        if not self.stack or type(self.stack[-1]) is not list:
            raise BadWeights("its pickle appends to something that is no list")
        self.stack[-1].extend(values)

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1] if self.stack else None
        if type(target) is not dict or len(items) % 2:
            raise BadWeights("its pickle sets items of something that is no dict")
        _fill(target, list(zip(items[::2], items[1::2], strict=True)))

    def reduce(self, function: object, arguments: object) -> object:
        """What calling `function` would have made, for those we know, without calling anything."""
        match function, arguments:
            case _Name("_codecs.encode"), (str(text), "latin1"):
                return self.encode(text)
            case _Name(name), (_Type(dtype), (str() | bytes()) as numbers) if name in SCALAR:
                return _numbers(self.encode(numbers), (), dtype, "C").item()
        return _reduce(function, arguments)

    def build(self, target: object, state: object) -> None:
        """Give an object its state.  That of a dict, such as a state dict's `_metadata`, is dropped."""
        match target, state:
            case dict(), dict():
                pass
            case _Type(dtype), (3 | 4, ("<" | ">" | "|" | "=") as order, None, None, None, -1, -1, 0, *_):
                target.dtype = dtype.newbyteorder(order)
            case _Array(None), (1, tuple(shape), _Type(dtype), bool() | 0 | 1 as columns, (str() | bytes()) as numbers):
                target.array = _numbers(self.encode(numbers), shape, dtype, "F" if columns else "C")
            case _:
                raise BadWeights("its pickle sets attributes of something that has none, or others than it has")

    def encode(self, text: str | bytes) -> bytes:
        """Bytes, which Python 2 and pickles for it write as text."""
        if isinstance(text, bytes):
            return text
        self.encoded += len(text)
        if self.encoded > MAX_FILE:
            raise BadWeights(f"its pickle makes more than {MAX_FILE:,} bytes out of text")
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            raise BadWeights("its pickle takes for bytes a text with other characters") from None

    def storage(self, identity: object) -> _Storage:
        """A storage from its persistent id: ("storage", type, key, device, count), in old files a view."""
        match identity:
            case ("storage", _Name(name), str(key), str(), int(count), *view):
                pass
            case _:
                raise BadWeights("its pickle names a storage in a form torch.save does not use")
        if name not in STORAGES:
            raise BadWeights(f"its pickle takes {name} for the type of a storage")
        if view not in ([], [None]):
            raise BadWeights(
                "it holds a storage that is part of another; load and save it again with PyTorch 1.6 or later"
            )
        if not 0 <= count <= MAX_FILE:
            raise BadWeights(f"its pickle speaks of a storage of {count:,} numbers, more than any file we read")
        storage = _Storage(key, STORAGES[name], count)
        if self.storages.setdefault(key, storage) != storage:
            raise BadWeights(f"its pickle describes storage {key!r} twice, differently")
        return storage


def _instructions(stream: "io.BytesIO | _Stream") -> Iterator[tuple[str, object, int]]:
    """Name, argument and position of every instruction; `pickletools` parses, and runs nothing.

    What may be long, we read ourselves: as the bytes it is, without a copy.
    """
    start = stream.tell()
    while True:
        position = stream.tell() - start
        code = stream.read(1)
        opcode = OPCODES.get(code.decode("latin-1"))
        if opcode is None:
            raise BadWeights(f"its pickle is damaged or cut short: {code!r} at byte {position} is no instruction")
        argument: object = None
        try:
            if opcode.name in LENGTHS:
                layout = LENGTHS[opcode.name]
                (length,) = struct.unpack(layout, stream.read(struct.calcsize(layout)))
                content = stream.read(max(length, 0))
                if length != len(content):
                    raise ValueError(f"{length:,} bytes should follow, and do not")
                text = opcode.name == "BINSTRING" and length <= MAX_TEXT
                argument = content.decode("latin-1") if text else content
            elif opcode.arg is not None:
                argument = opcode.arg.reader(stream)  # type: ignore[arg-type]
        except (ValueError, OverflowError, struct.error) as problem:
            raise BadWeights(f"its pickle is damaged or cut short: {str(problem)[:200]}") from None
        yield opcode.name, argument, position


def _known(name: str) -> _Name:
    if name in KNOWN:
        return _Name(name)
    raise BadWeights(
        f"it asks for {name[:200]!r}, and only tensors, numbers and text are read; if you trust the file, "
        "load it where it was made and save its state_dict() of plain tensors"
    )


def _reduce(function: object, arguments: object) -> object:
    match function, arguments:
        case _Name("numpy.dtype"), (str(code), bool() | 0 | 1, bool() | 0 | 1) if code in TYPES:
            return _Type(TYPES[code])
        case _Name(name), (_Name("numpy.ndarray"), (0,), "b" | b"b") if name in ARRAY:
            return _Array()
        case _Name(name), (bytes(numbers), _Type(dtype), tuple(shape), ("C" | "F") as order) if name in ARRAY_OF_BUFFER:
            return _Array(_numbers(numbers, shape, dtype, order))
        case _Name("__builtin__.bytes"), ():
            return b""
        case _Name("collections.OrderedDict"), ():
            return {}
        case _Name("collections.OrderedDict"), (list(pairs),):  # Python 2
            made: dict[object, object] = {}
            _fill(made, [tuple(pair) if isinstance(pair, list | tuple) else () for pair in pairs])
            return made
        case _Name("torch.Size"), (tuple(size),):
            return size
        case _Name("torch._utils._rebuild_parameter"), (_View() as view, bool(), dict(hooks)) if not hooks:
            return view
        case (
            _Name("torch._utils._rebuild_tensor"),
            (_Storage() as storage, int(offset), tuple(size), tuple(stride)),
        ):
            return _View(storage, offset, size, stride)
        case (
            _Name("torch._utils._rebuild_tensor_v2"),
            (_Storage() as storage, int(offset), tuple(size), tuple(stride), bool(), dict(hooks), *metadata),
        ) if not hooks and metadata in ([], [None], [{}]):
            return _View(storage, offset, size, stride)
    what = function.name if isinstance(function, _Name) else "something that is no function"
    raise BadWeights(f"its pickle calls {what} with arguments torch.save does not write")


def _numbers(content: bytes, shape: tuple[object, ...], dtype: np.dtype[Any], order: Literal["C", "F"]) -> Array:
    """An array on these bytes, which are exactly its numbers."""
    sides = [side for side in shape if type(side) is int and 0 <= side <= MAX_FILE]
    if len(sides) != len(shape) or len(sides) > MAX_DIMENSIONS:
        raise BadWeights(f"an array has the shape {str(shape)[:200]}; at most {MAX_DIMENSIONS} whole numbers")
    if prod(sides) * dtype.itemsize != len(content):
        raise BadWeights(f"an array of shape {tuple(sides)} and type {dtype} has {len(content):,} bytes")
    if dtype == np.bool_ and content.strip(b"\x00\x01"):
        raise BadWeights("an array should hold true and false, but holds other bytes")
    if not content:
        if prod(max(side, 1) for side in sides) > MAX_FILE:
            raise BadWeights(f"an array of shape {tuple(sides)} is larger than any file we read")
        return np.empty(sides, dtype)
    return np.frombuffer(content, dtype).reshape(sides, order=order)


def _fill(target: dict[object, object], pairs: list[tuple[object, ...]]) -> None:
    for pair in pairs:
        if len(pair) != 2 or type(pair[0]) not in (str, int):
            raise BadWeights("it holds a dict whose keys are not all text or whole numbers")
        if pair[0] in target:
            raise BadWeights(f"it holds a dict with the key {str(pair[0])[:200]!r} twice")
        target[pair[0]] = pair[1]


# --- from the machine's values to tensors -------------------------------------------------------------------


@dataclass
class _Tree:
    """The values of a pickle with tensors in place; sharing is unfolded, so its size is counted."""

    contents: dict[str, Array]
    values: int = 0
    tensors: int = 0

    def root(self, value: object) -> dict[str | int, Value]:
        if type(value) is not dict:
            raise BadWeights(f"it holds a {type(value).__name__.strip('_').lower()}, not a dict of named tensors")
        made = self.build(value, 0)
        assert isinstance(made, dict)
        return made

    def build(self, value: object, depth: int) -> Value:
        self.values += 1
        if depth > MAX_DEPTH:
            raise BadWeights(f"its values nest deeper than {MAX_DEPTH}")
        if self.values > MAX_VALUES:
            raise BadWeights(f"it holds more than {MAX_VALUES:,} values")
        match value:
            case None | str() | int() | float():
                return value
            case _View():
                self.tensors += 1
                if self.tensors > MAX_TENSORS:
                    raise BadWeights(f"it holds more than {MAX_TENSORS:,} tensors")
                return value.on(self.contents[value.storage.key])
            case _Array(np.ndarray() as array):
                self.tensors += 1
                if self.tensors > MAX_TENSORS:
                    raise BadWeights(f"it holds more than {MAX_TENSORS:,} tensors")
                return array
            case list():
                return [self.build(item, depth + 1) for item in value]
            case tuple():
                return tuple(self.build(item, depth + 1) for item in value)
            case dict():
                return {key: self.build(item, depth + 1) for key, item in value.items()}
        raise BadWeights("it holds a name, bytes or a bare storage where a tensor, a number or text should be")
