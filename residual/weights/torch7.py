"""Networks out of Torch7's binary .t7 files, read as data: nothing in the file is ever called.  No torch.

Such a file is one Lua value: numbers, text, tables, tensors, and objects of Lua classes; a value that was met
before is named by its index.  A network is an object whose table `modules` holds further ones.  Lua functions
come as bytecode, which Torch7 itself would load; we step over it.  (The format is that of torch/torch7, File.lua.)
"""

import io
import json
import math
import os
import struct
from collections.abc import Generator
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeAlias, cast

import numpy as np

from residual.weights.arrays import MAX_DIMENSIONS, MAX_TENSORS, Array
from residual.weights.files import MAX_FILE, BadWeights, naming, open_file

NAME = "Torch7 (.t7)"
TREE = "network.json"  # the name of an array of text: the modules of a network

NIL, NUMBER, STRING, TABLE, TORCH, BOOLEAN, OLD_FUNCTION, LEGACY_FUNCTION, FUNCTION = range(9)
CALLED = {TABLE: "a table", TORCH: "an object", LEGACY_FUNCTION: "a function", FUNCTION: "a function"}  # by index

MAX_VALUES = 1_000_000
MAX_DEPTH = 200  # tables and objects within each other
MAX_LEVELS = 32  # modules within each other
MAX_MODULES = 20_000

TYPES: dict[str, np.dtype[Any]] = {
    "Byte": np.dtype("u1"),
    "Char": np.dtype("i1"),
    "Short": np.dtype("<i2"),
    "Int": np.dtype("<i4"),
    "Long": np.dtype("<i8"),
    "Half": np.dtype("<f2"),
    "Float": np.dtype("<f4"),
    "Double": np.dtype("<f8"),
}
CLASSES = {f"torch.{place}{name}": dtype for name, dtype in TYPES.items() for place in ("", "Cuda")}
CLASSES["torch.Cuda"] = TYPES["Float"]
TENSORS = {f"{name}Tensor": dtype for name, dtype in CLASSES.items()}
STORAGES = {f"{name}Storage": dtype for name, dtype in CLASSES.items()}

NESTS = ("model", "net", "network")  # where checkpoints keep their network
NUMBERS = ("weight", "bias", "running_mean", "running_var", "running_std")  # fields of a module that its output needs,
SETTINGS = (  # as it needs these
    "kW", "kH", "dW", "dH", "padW", "padH", "padding", "groups", "ceil_mode", "eps", "dimension", "constant_scalar",
)  # fmt: skip

Table: TypeAlias = "dict[str | int | float, Value]"
Value: TypeAlias = "Array | Object | Table | str | int | float | None"
Reading: TypeAlias = "Generator[None, Value, Value]"  # yields to be sent each value within its own


@dataclass(eq=False)
class Object:
    """An object of a Lua class that is no tensor."""

    kind: str  # the name of its class
    fields: Table = field(default_factory=dict)


FUNCTION_HERE = Object("function")  # stands for every Lua function; nothing of it is kept


def recognises(head: bytes, path: str | os.PathLike[str]) -> bool:
    """Whether a file begins like a .t7 file of a table or an object, which has the index 1."""
    return head[:8] in (struct.pack("<ii", TABLE, 1), struct.pack("<ii", TORCH, 1))


def read(path: str | os.PathLike[str]) -> dict[str, Array]:
    """A network's tensors, named by their place ("5.2.1.3.weight"), and under TREE its modules as JSON."""
    with naming(path):
        modules, arrays = flatten(network(read_value(path)))
    text = json.dumps(modules, separators=(",", ":")).encode()
    return {**arrays, TREE: np.frombuffer(text, np.uint8)}


def read_value(path: str | os.PathLike[str]) -> Value:
    """The value that was given to Lua's `torch.save`.

    Tensors that shared a storage still do.  Refuses, as `BadWeights`, what is damaged or beyond our limits.
    """
    with naming(path), open_file(path) as file:
        return _Reader(cast(io.BufferedReader, file), os.fstat(file.fileno()).st_size).run()


# --- from bytes to values -----------------------------------------------------------------------------------


@dataclass
class _Reader:
    file: io.BufferedIOBase
    left: int  # bytes
    seen: dict[int, tuple[str, Value]] = field(default_factory=dict)  # by index: what it was called, and is
    values: int = 0

    def run(self) -> Value:
        """Without recursion: `waiting` holds the tables and objects that are not yet complete."""
        waiting: list[Reading] = []
        while True:
            found = self.value()
            while True:
                if isinstance(found, Generator):
                    if len(waiting) >= MAX_DEPTH:
                        raise BadWeights(f"its values nest deeper than {MAX_DEPTH}")
                    waiting.append(found)
                    found = None
                elif not waiting:
                    if self.left:
                        raise BadWeights(f"there are {self.left:,} bytes after its value")
                    return found
                try:
                    waiting[-1].send(found)
                    break
                except StopIteration as end:
                    waiting.pop()
                    found = end.value

    def value(self) -> "Value | Reading":
        """The next value; of one that holds others, the beginning."""
        self.values += 1
        if self.values > MAX_VALUES:
            raise BadWeights(f"it holds more than {MAX_VALUES:,} values")
        kind = self.integer()
        if kind == NIL:
            return None
        if kind == NUMBER:
            (number,) = struct.unpack("<d", self.take(8))
            return int(number) if number.is_integer() and abs(number) < 2**53 else float(number)
        if kind == STRING:
            return self.text()
        if kind == BOOLEAN:
            return self.integer() == 1
        if kind == OLD_FUNCTION:
            return self.function(None)
        if kind not in CALLED:
            raise BadWeights(
                f"it has a value of type {kind}, which Torch7 does not know; it is damaged, or was not saved in "
                "binary form on a 64-bit machine"
            )
        index = self.integer()
        if index in self.seen:
            before, value = self.seen[index]
            if before != CALLED[kind]:
                raise BadWeights(f"its value {index} is called {CALLED[kind]}, and was {before} before")
            return value
        if index < 1:
            raise BadWeights(f"it gives a value the index {index}; the first is 1")
        if kind == TABLE:
            return self.table(index)
        return self.object(index) if kind == TORCH else self.function(index)

    def table(self, index: int) -> Reading:
        table: Table = {}
        self.seen[index] = CALLED[TABLE], table
        count = self.integer()
        if not 0 <= count <= self.left:
            raise BadWeights(f"it has a table of {count:,} entries, more than fit into the rest of the file")
        for _ in range(count):
            key = yield
            if not isinstance(key, str | int | float) or key != key:
                raise BadWeights("it has a table whose keys are not all text or numbers")
            if key in table:
                raise BadWeights(f"it has a table with the key {str(key)[:200]!r} twice")
            table[key] = yield
        return table

    def object(self, index: int) -> Reading:
        kind = self.text()
        if kind.startswith("V "):  # files from before versions begin with the name
            kind = self.text()
        if kind in TENSORS:
            return (yield from self.tensor(index, TENSORS[kind]))
        if kind in STORAGES:
            return self.storage(index, STORAGES[kind])
        made = Object(kind)
        self.seen[index] = CALLED[TORCH], made
        fields = yield
        if not isinstance(fields, dict):
            raise BadWeights(f"its object of class {kind[:200]!r} has no table of fields")
        made.fields = fields
        return made

    def function(self, index: int | None) -> Reading:
        if index is not None:
            self.seen[index] = CALLED[FUNCTION], FUNCTION_HERE
        self.take(self.integer())  # its bytecode
        yield  # the variables around it
        return FUNCTION_HERE

    def storage(self, index: int, dtype: np.dtype[Any]) -> Array:
        count = self.long()
        if not 0 <= count * dtype.itemsize <= self.left:
            raise BadWeights(f"it has a storage of {count:,} numbers, more than fit into the rest of the file")
        numbers = np.empty(count, dtype)
        if self.file.readinto(numbers.view(np.uint8).data) != numbers.nbytes:
            raise BadWeights("it became shorter while it was read")
        self.left -= numbers.nbytes
        self.seen[index] = CALLED[TORCH], numbers
        return numbers

    def tensor(self, index: int, dtype: np.dtype[Any]) -> Reading:
        self.seen[index] = CALLED[TORCH], None  # until it is complete
        rank = self.integer()
        if not 0 <= rank <= MAX_DIMENSIONS:
            raise BadWeights(f"it has a tensor of {rank} axes; at most {MAX_DIMENSIONS}")
        size = [self.long() for _ in range(rank)]
        stride = [self.long() for _ in range(rank)]
        offset = self.long() - 1
        storage = yield
        tensor = _view(storage, dtype, size, stride, offset) if rank else np.empty(0, dtype)
        self.seen[index] = CALLED[TORCH], tensor
        return tensor

    def integer(self) -> int:
        (number,) = struct.unpack("<i", self.take(4))
        return int(number)

    def long(self) -> int:
        (number,) = struct.unpack("<q", self.take(8))
        return int(number)

    def text(self) -> str:
        return self.take(self.integer()).decode("latin-1")

    def take(self, count: int) -> bytes:
        """The next `count` bytes, which must be there."""
        if not 0 <= count <= self.left:
            raise BadWeights(f"it is damaged or cut short: {count:,} bytes should follow, and {self.left:,} do")
        self.left -= count
        content = self.file.read(count)
        if len(content) != count:
            raise BadWeights("it became shorter while it was read")
        return content


def _view(storage: Value, dtype: np.dtype[Any], size: list[int], stride: list[int], offset: int) -> Array:
    """Numbers of a storage, seen with a shape; each of them lies inside, in Python's unbounded integers."""
    if not isinstance(storage, np.ndarray) or storage.ndim != 1 or storage.dtype != dtype:
        raise BadWeights(f"it has a tensor of shape {tuple(size)} without a storage of its own type")
    if offset < 0 or min(size) < 0 or min(stride) < 0:
        raise BadWeights("it has a tensor with a negative size, stride or offset")
    count = prod(size)
    if count == 0 and prod(max(n, 1) for n in size) <= MAX_FILE:
        return np.empty(size, dtype)
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if not count or count > storage.size or reach >= storage.size:
        raise BadWeights(
            f"it has a tensor of shape {tuple(size)} that reaches outside its storage of {storage.size:,} numbers"
        )
    width = dtype.itemsize
    steps = [width * step if n > 1 else width for n, step in zip(size, stride, strict=True)]
    return np.ndarray(size, dtype, storage, width * offset, steps)


# --- from values to a network -------------------------------------------------------------------------------


def network(value: Value) -> Object:
    """The network in a file: alone, in a checkpoint's table, or spread over several GPUs."""
    for _ in range(MAX_LEVELS):
        if isinstance(value, dict):
            nest = next((name for name in NESTS if isinstance(value.get(name), dict | Object)), None)
            if nest is None:
                held = ", ".join(sorted(map(str, value))[:5]) or "nothing"
                raise BadWeights(f"there is no network in its table (it holds {held[:200]}); save the network itself")
            value = value[nest]
        elif isinstance(value, Object) and value.kind.endswith(".DataParallelTable"):
            value = next(iter(children(value)), None)
        else:
            break
    if not isinstance(value, Object):
        raise BadWeights("there is no network in it; save the network itself with torch.save")
    return value


def flatten(root: Object) -> tuple[dict[str, dict[str, str | float]], dict[str, Array]]:
    """Every module by its place ("5.2.1.3", the network itself is ""): class and settings; and the tensors.

    A module that stands in two places is there twice.
    """
    modules: dict[str, dict[str, str | float]] = {}
    arrays: dict[str, Array] = {}
    waiting = [("", 0, root)]
    while waiting:
        place, level, module = waiting.pop()
        if len(modules) >= MAX_MODULES or level > MAX_LEVELS:
            raise BadWeights(f"its network has more than {MAX_MODULES:,} modules, or {MAX_LEVELS} within each other")
        modules[place] = {"class": module.kind[:200], **settings(module)}
        start = f"{place}." if place else ""
        for name in NUMBERS:
            value = module.fields.get(name)
            if isinstance(value, np.ndarray) and value.size:
                arrays[start + name] = value
        if len(arrays) > MAX_TENSORS:
            raise BadWeights(f"its network has more than {MAX_TENSORS:,} tensors")
        inner = [(f"{start}{number}", level + 1, child) for number, child in enumerate(children(module), 1)]
        waiting.extend(reversed(inner))
    return modules, arrays


def settings(module: Object) -> dict[str, float]:
    """Of SETTINGS, those it has; true and false as 1 and 0."""
    values = ((name, module.fields.get(name)) for name in SETTINGS)
    return {name: float(value) for name, value in values if isinstance(value, int | float) and math.isfinite(value)}


def children(module: Object) -> list[Object]:
    """The modules within a module, in order."""
    table = module.fields.get("modules")
    if table is None:
        return []
    if not isinstance(table, dict) or len(table) > MAX_MODULES:
        raise BadWeights(f"the modules of its {module.kind[:200]!r} are not in a table, or too many")
    found = [table.get(number) for number in range(1, len(table) + 1)]
    if not all(isinstance(child, Object) for child in found):
        raise BadWeights(f"the modules of its {module.kind[:200]!r} are not numbered from 1, or are no modules")
    return [child for child in found if isinstance(child, Object)]
