"""Torch7's binary form, written from its description (torch/torch7, File.lua): what our reader has to agree with.

None, bool, numbers, text and dicts are Lua's own; `Object`, `Tensor` and `Code` are the rest.  A dict, object or tensor
that stands in two places is written once.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DTYPES = {
    "Byte": "u1", "Char": "i1", "Short": "<i2", "Int": "<i4", "Long": "<i8", "Half": "<f2", "Float": "<f4",
    "Double": "<f8", "Cuda": "<f4", "CudaDouble": "<f8", "CudaHalf": "<f2", "CudaLong": "<i8",
}  # fmt: skip


@dataclass(eq=False)
class Object:
    kind: str
    fields: Any = field(default_factory=dict)
    version: str | None = "V 1"


@dataclass(eq=False)
class Storage:
    numbers: np.ndarray
    kind: str = "Float"


@dataclass(eq=False)
class Tensor:
    """Numbers of a storage; offset counts from 1, as in Lua."""

    storage: Storage | None
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 1
    kind: str = "Float"


@dataclass(eq=False)
class Code:
    """A function: bytecode, and the variables around it."""

    bytecode: bytes
    around: Any = field(default_factory=dict)
    type: int = 8


def tensor(numbers: Any, kind: str = "Float") -> Tensor:
    whole = np.ascontiguousarray(numbers, dtype=DTYPES[kind])
    stride = tuple(step // whole.itemsize for step in whole.strides)
    return Tensor(Storage(whole.reshape(-1), kind), whole.shape, stride, kind=kind)


def module(kind: str, *children: Object, **fields: Any) -> Object:
    """A module of nn; its children are in the table `modules`."""
    if children:
        fields["modules"] = dict(enumerate(children, 1))
    return Object(kind, fields)


def write(value: Any) -> bytes:
    parts: list[bytes] = []
    indices: dict[int, int] = {}

    def integer(number: int) -> None:
        parts.append(struct.pack("<i", number))

    def text(string: str | bytes) -> None:
        content = string if isinstance(string, bytes) else string.encode("latin-1")
        integer(len(content))
        parts.append(content)

    def longs(*numbers: int) -> None:
        parts.append(struct.pack(f"<{len(numbers)}q", *numbers))

    def new(kind: int, value: Any) -> bool:
        integer(kind)
        known = id(value) in indices
        integer(indices.setdefault(id(value), len(indices) + 1))
        return not known

    def one(value: Any) -> None:
        if value is None:
            integer(0)
        elif isinstance(value, bool):
            integer(5)
            integer(value)
        elif isinstance(value, int | float):
            integer(1)
            parts.append(struct.pack("<d", value))
        elif isinstance(value, str | bytes):
            integer(2)
            text(value)
        elif isinstance(value, dict):
            if new(3, value):
                integer(len(value))
                for key, entry in value.items():
                    one(key)
                    one(entry)
        elif isinstance(value, Code):
            if value.type == 6:
                integer(6)
            elif not new(value.type, value):
                return
            text(value.bytecode)
            one(value.around)
        elif new(4, value):
            kind = value.kind if isinstance(value, Object) else f"torch.{value.kind}{type(value).__name__}"
            version = getattr(value, "version", "V 1")
            if version is not None:
                text(version)
            text(kind)
            if isinstance(value, Storage):
                longs(len(value.numbers))
                parts.append(value.numbers.tobytes())
            elif isinstance(value, Tensor):
                integer(len(value.size))
                longs(*value.size, *value.stride, value.offset)
                one(value.storage)
            else:
                one(value.fields)

    one(value)
    return b"".join(parts)
