"""What a pickle may hold: names that stay names, storages, tensors on them, NumPy's arrays; and the tree they make.

Every shape, stride and length is checked in Python's unbounded integers before memory is touched.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np

from residual.weights.arrays import BFLOAT16, MAX_DIMENSIONS, MAX_TENSORS, Array
from residual.weights.files import MAX_FILE, BadWeights

Value: TypeAlias = "Array | str | int | float | list[Value] | tuple[Value, ...] | dict[str | int, Value] | None"

MAX_DEPTH = 64
MAX_VALUES = 100_000  # in the whole tree, each counted as often as it is mentioned

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


@dataclass(frozen=True)
class Name:
    """A name the pickle mentions; it stays a name."""

    name: str


@dataclass(frozen=True)
class Storage:
    """The numbers of one tensor or more, which lie elsewhere in the file under a key."""

    key: str
    dtype: np.dtype[Any]
    count: int  # numbers

    @property
    def length(self) -> int:
        """Bytes."""
        return self.count * self.dtype.itemsize

    def fill(self, content: bytes) -> Array:
        """Its numbers, from its bytes."""
        if len(content) != self.length:
            raise BadWeights(f"storage {self.key!r} has {len(content):,} bytes instead of {self.length:,}")
        if self.dtype == np.bool_ and content.strip(b"\x00\x01"):
            raise BadWeights(f"storage {self.key!r} should hold true and false, but holds other bytes")
        return np.frombuffer(content, dtype=self.dtype)


@dataclass(frozen=True)
class View:
    """A tensor, not yet made: numbers of a storage, seen with a shape."""

    storage: Storage
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
        """The tensor, from the numbers of its storage."""
        if 0 in self.size:
            return np.empty(self.size, dtype=storage.dtype)
        width = storage.dtype.itemsize
        stride = [width * min(step, MAX_FILE) for step in self.stride]  # only where an axis has length 1 is it larger
        return np.ndarray(self.size, storage.dtype, storage, width * self.offset, stride)


@dataclass
class Type:
    """A type of NumPy's; its byte order comes after it."""

    dtype: np.dtype[Any]


@dataclass
class LateArray:
    """An array of NumPy's, whose numbers come after it."""

    array: Array | None = None


def array_of(content: bytes, shape: tuple[object, ...], dtype: np.dtype[Any], order: Literal["C", "F"]) -> Array:
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


@dataclass
class Tree:
    """The values of a pickle with tensors in place; sharing is unfolded, so its size is counted."""

    contents: dict[str, Array]  # of the storages, by key
    values: int = 0
    tensors: int = 0

    def root(self, value: object) -> dict[str | int, Value]:
        """The dict that is all there is."""
        if type(value) is not dict:
            kind = "array" if isinstance(value, LateArray) else type(value).__name__.lower()
            raise BadWeights(f"it holds a {kind}, not a dict of named tensors")
        made = self.build(value, 0)
        assert isinstance(made, dict)
        return made

    def build(self, value: object, depth: int) -> Value:
        """A value with tensors in place, and whatever it holds."""
        self.values += 1
        if depth > MAX_DEPTH:
            raise BadWeights(f"its values nest deeper than {MAX_DEPTH}")
        if self.values > MAX_VALUES:
            raise BadWeights(f"it holds more than {MAX_VALUES:,} values")
        match value:
            case None | str() | int() | float():
                return value
            case View():
                return self.counted(value.on(self.contents[value.storage.key]))
            case LateArray(np.ndarray() as array):
                return self.counted(array)
            case list():
                return [self.build(item, depth + 1) for item in value]
            case tuple():
                return tuple(self.build(item, depth + 1) for item in value)
            case dict():
                return {key: self.build(item, depth + 1) for key, item in value.items()}
        raise BadWeights("it holds a name, bytes or a bare storage where a tensor, a number or text should be")

    def counted(self, array: Array) -> Array:
        """The same array, when it is not one too many."""
        self.tensors += 1
        if self.tensors > MAX_TENSORS:
            raise BadWeights(f"it holds more than {MAX_TENSORS:,} tensors")
        return array
