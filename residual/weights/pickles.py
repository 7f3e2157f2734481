"""Tensors out of files written by `torch.save`, read as data: nothing in the file is ever called.

A pickle is a program for a small stack machine.  We run the few instructions that `torch.save` needs to write
tensors, numbers, strings, lists and dicts; the names it mentions are compared with `KNOWN`, never imported.
Everything else, however harmless, is refused.  Both containers are read: the zip archive of PyTorch 1.6 and
later, and the older file of several pickles followed by raw storages.
"""

import io
import os
import pickletools
import stat
import struct
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import BinaryIO, TypeAlias

import torch
from torch import Tensor

Value: TypeAlias = "Tensor | str | int | float | list[Value] | tuple[Value, ...] | dict[str | int, Value] | None"

MAX_FILE = 2 << 30  # bytes
MAX_ENTRIES = 10_000  # files in one zip archive
MAX_DIRECTORY = 4 << 20  # bytes of a zip archive's list of entries
MAX_PICKLE = 64 << 20  # bytes of instructions
MAX_INSTRUCTIONS = 2_000_000
MAX_MEMO = 100_000
MAX_DEPTH = 64
MAX_TENSORS = 20_000
MAX_VALUES = 100_000  # in the whole tree, each counted as often as it is mentioned
MAX_DIMENSIONS = 8
MAX_INTEGER = 1 << 127

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before PyTorch 1.6
PROTOCOL = 1001  # the second

STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.ShortStorage": torch.int16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.BoolStorage": torch.bool,
}
KNOWN = {
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_tensor",  # PyTorch 0.3
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    *STORAGES,
}


class BadWeights(ValueError):
    """A file of weights that is broken, unsafe, or not what was asked for."""


def read_tensors(path: str | os.PathLike[str]) -> dict[str | int, Value]:
    """The dict that was given to `torch.save`: tensors, numbers, strings, and lists and dicts of them.

    Attributes of an OrderedDict (a state dict's `_metadata`) are dropped.  Tensors that shared a storage
    still do.  Refuses, as `BadWeights`, whatever else the file holds and what exceeds this module's limits.
    """
    with naming(path), open_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pickletools on odd escapes in text
        if file.read(4) == b"PK\x03\x04":
            return _read_archive(file)
        return _read_legacy(file)


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever goes wrong with a file of weights is a `BadWeights` that begins with its path."""
    name = repr(os.fspath(path))
    try:
        yield
    except OSError as problem:
        raise BadWeights(f"{name} was not read: {problem.strerror or problem}") from None
    except ValueError as problem:
        if str(problem).startswith(name):
            raise
        raise BadWeights(f"{name} was not read: {problem}") from None


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file of bounded size; `BadWeights` for anything else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not block us
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise BadWeights("it is a folder, not a file of weights")
        if not stat.S_ISREG(status.st_mode):
            raise BadWeights("it is a pipe or a device; weights are read from regular files only")
        if status.st_size > MAX_FILE:
            raise BadWeights(f"it has {status.st_size:,} bytes; the limit is {MAX_FILE:,}")
        return os.fdopen(descriptor, "rb")
    except BadWeights:
        os.close(descriptor)
        raise


# --- the two containers -------------------------------------------------------------------------------------


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


def _read_legacy(file: BinaryIO) -> dict[str | int, Value]:
    """Five pickles (magic number, protocol, machine, the object, the keys of its storages), then storages."""
    file.seek(0)
    window = io.BytesIO(file.read(MAX_PICKLE))
    if window.getvalue()[257:262] == b"ustar":
        raise BadWeights(
            "it is a tar archive from before PyTorch 0.2; load and save it again with a PyTorch of its time"
        )
    try:
        magic = _Machine().run(window)
    except BadWeights:
        magic = None
    if magic != MAGIC:
        start = window.getvalue()[:8]
        raise BadWeights(f"torch.save did not write it (it begins with {start!r}); give what it or safetensors wrote")
    if _Machine().run(window) != PROTOCOL:
        raise BadWeights(f"its protocol is not {PROTOCOL}, the only one PyTorch wrote before 1.6")
    machine_info = _Machine().run(window)
    if not isinstance(machine_info, dict) or machine_info.get("little_endian") is not True:
        raise BadWeights("its numbers are not little-endian; save it again on a little-endian machine")
    machine = _Machine()
    tree = machine.run(window)
    keys = _Machine().run(window)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise BadWeights("its list of storages is broken")
    if len(set(keys)) != len(keys) or set(keys) != machine.storages.keys():
        raise BadWeights("its list of storages is not the one its pickle speaks of")
    file.seek(window.tell())
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


# --- the stack machine --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Name:
    """A name the pickle mentions; it stays a name."""

    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    count: int  # numbers

    @property
    def length(self) -> int:
        """Bytes."""
        return self.count * self.dtype.itemsize

    def fill(self, content: bytes) -> Tensor:
        if len(content) != self.length:
            raise BadWeights(f"storage {self.key!r} has {len(content):,} bytes instead of {self.length:,}")
        if self.dtype == torch.bool and content.strip(b"\x00\x01"):
            raise BadWeights(f"storage {self.key!r} should hold true and false, but holds other bytes")
        if not content:
            return torch.empty(0, dtype=self.dtype)
        return torch.frombuffer(bytearray(content), dtype=self.dtype)


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

    def on(self, storage: Tensor) -> Tensor:
        if 0 in self.size:
            return torch.empty(self.size, dtype=storage.dtype)
        stride = [min(step, MAX_FILE) for step in self.stride]  # only where an axis has length 1 is it larger
        return storage.as_strided(self.size, stride, self.offset)


@dataclass
class _Machine:
    """One run of the stack machine; `storages` are those the pickle mentions."""

    storages: dict[str, _Storage] = field(default_factory=dict)
    stack: list[object] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)  # heights of the stack
    memo: dict[int, object] = field(default_factory=dict)

    def run(self, stream: io.BytesIO) -> object:
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
                push(_reduce(function, arguments))
            case "BUILD":
                (state,) = self.pop(1)
                if not self.stack or type(self.stack[-1]) is not dict or type(state) is not dict:
                    raise BadWeights("its pickle sets attributes of something that has none")
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


def _instructions(stream: io.BytesIO) -> Iterator[tuple[str, object, int]]:
    """Name, argument and position of every instruction; `pickletools` parses, and runs nothing."""
    start = stream.tell()
    try:
        for opcode, argument, position in pickletools.genops(stream):
            yield opcode.name, argument, (position or start) - start
    except BadWeights:
        raise
    except (ValueError, OverflowError, struct.error) as problem:
        raise BadWeights(f"its pickle is damaged or cut short: {str(problem)[:200]}") from None


def _known(name: str) -> _Name:
    if name in KNOWN:
        return _Name(name)
    raise BadWeights(
        f"it asks for {name[:200]!r}, and only tensors, numbers and text are read; if you trust the file, "
        "load it where it was made and save its state_dict() of plain tensors"
    )


def _reduce(function: object, arguments: object) -> object:
    """What calling `function` would have made, for the five functions we know, without calling anything."""
    match function, arguments:
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

    contents: dict[str, Tensor]
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
            case list():
                return [self.build(item, depth + 1) for item in value]
            case tuple():
                return tuple(self.build(item, depth + 1) for item in value)
            case dict():
                return {key: self.build(item, depth + 1) for key, item in value.items()}
        raise BadWeights("it holds a name or a bare storage where a tensor, a number or text should be")
