"""The arrays and texts of an HDF5 file: little-endian numbers in one piece or in chunks, and attributes that are text.

Chunks may be compressed by gzip and shuffled; other filters are refused by name.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from operator import lt
from typing import Any

import numpy as np

from residual.weights.arrays import MAX_DIMENSIONS, Array
from residual.weights.files import BadWeights
from residual.weights.hdf5_bytes import FILTERS, LAYOUT, SHAPE, TYPE, Cursor, File

MAX_SIDE = 1 << 31
MAX_WASTE = 16  # chunks stick out: in each of four axes, they may be twice as long as their array
SMALL = 1 << 16  # bytes of chunks that no array needs to justify
EXPONENTS = {2: (10, 5, 10, 15), 4: (23, 8, 23, 127), 8: (52, 11, 52, 1023)}  # IEEE 754: place, bits, mantissa, bias
DEFLATE, SHUFFLE = 1, 2  # filters
INTEGERS, FRACTIONS, TEXTS, OF_ANY_LENGTH = 0, 1, 3, 9  # classes of types


def read_array(file: File, messages: Mapping[int, memoryview], path: str) -> Array:
    """An array of numbers, in one piece or in chunks.

    messages: of its header, by what they are about.
    """
    if not {SHAPE, TYPE, LAYOUT} <= messages.keys():
        raise BadWeights(f"the array {path!r} lacks its shape, type or place")
    shape = shape_of(file, Cursor(messages[SHAPE]))
    dtype = _type_of_numbers(Cursor(messages[TYPE]))
    if dtype is None:
        raise BadWeights(f"the array {path!r} holds something else than little-endian numbers")
    size = prod(shape) * dtype.itemsize
    layout = Cursor(messages[LAYOUT])
    version, kind = layout.number(1), layout.number(1)
    if version == 3 and kind == 2:
        return _chunked(file, layout, messages.get(FILTERS), dtype, shape, path)
    if version not in (3, 4) or kind > 1:
        raise BadWeights(f"the array {path!r} is stored in a way that is not read (version {version}, class {kind})")
    if FILTERS in messages and Cursor(messages[FILTERS]).take(2)[1]:
        raise BadWeights(f"the array {path!r} has filters though it is not in chunks")
    if kind == 0:
        numbers = layout.take(layout.number(2))
    else:
        address, extent = file.offset(layout), file.length(layout)
        if size and file.undefined(address):
            raise BadWeights(f"the array {path!r} was never written")
        numbers = file.cursor(address, extent).view if size else memoryview(b"")
    if len(numbers) != size:
        raise BadWeights(f"the array {path!r} has the shape {shape}, {size:,} bytes, but {len(numbers):,} are stored")
    file.spend(size)
    return np.frombuffer(numbers, dtype).reshape(shape)


def _chunked(
    file: File,
    layout: Cursor,
    pipeline: memoryview | None,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    path: str,
) -> Array:
    rank = layout.number(1) - 1
    tree = file.offset(layout)
    sides = tuple(layout.number(4) for _ in range(rank))
    if rank != len(shape) or not rank or 0 in sides or layout.number(4) != dtype.itemsize:
        raise BadWeights(f"the chunks of the array {path!r} have another number of axes or type than the array")
    filters = [] if pipeline is None else _filters(Cursor(pipeline), path)
    grid = tuple(-(-side // chunk) for side, chunk in zip(shape, sides, strict=True))
    extent = prod(sides) * dtype.itemsize
    size = prod(shape) * dtype.itemsize
    if prod(grid) > file.steps or prod(grid) * extent > max(MAX_WASTE * size, SMALL):
        raise BadWeights(f"the array {path!r} of {size:,} bytes is in {prod(grid):,} chunks of {extent:,} bytes each")
    if size and file.undefined(tree):
        raise BadWeights(f"the array {path!r} was never written")
    file.spend(size)
    made = np.zeros(shape, dtype)
    if not size:
        return made
    placed: set[tuple[int, ...]] = set()
    for raw, address in file.leaves(tree, kind=1, key_size=8 + 8 * (rank + 1)):
        key = Cursor(raw)
        stored, skipped = key.number(4), key.number(4)
        starts = [key.number(8) for _ in range(rank)]
        place = tuple(start // side for start, side in zip(starts, sides, strict=True))
        aligned = all(start % side == 0 for start, side in zip(starts, sides, strict=True))
        if place in placed or not aligned or not all(map(lt, place, grid)):
            raise BadWeights(f"the array {path!r} has a chunk twice, or outside its shape")
        placed.add(place)
        content = file.cursor(address, stored).view
        for index, kind in reversed(list(enumerate(filters))):
            if not skipped >> index & 1:
                content = _inflated(content, extent) if kind == DEFLATE else _unshuffled(content, dtype.itemsize)
        if len(content) != extent:
            raise BadWeights(f"a chunk of the array {path!r} has {len(content):,} bytes instead of {extent:,}")
        chunk = np.frombuffer(content, dtype).reshape(sides)
        inside = tuple(
            slice(start, min(start + side, end)) for start, side, end in zip(starts, sides, shape, strict=True)
        )
        made[inside] = chunk[tuple(slice(0, part.stop - part.start) for part in inside)]
    if len(placed) < prod(grid):
        raise BadWeights(f"{prod(grid) - len(placed):,} chunks of the array {path!r} were never written")
    return made


def _filters(cursor: Cursor, path: str) -> list[int]:
    """What was done to each chunk, in the order it was done."""
    version, count = cursor.number(1), cursor.number(1)
    cursor.take(6 if version == 1 else 0)
    if version not in (1, 2) or count > 8:
        raise BadWeights(f"the array {path!r} has {count} filters of version {version}")
    kinds = []
    for _ in range(count):
        kind = cursor.number(2)
        if kind not in (DEFLATE, SHUFFLE):
            raise BadWeights(f"the array {path!r} went through filter {kind}; only gzip (1) and shuffle (2) are read")
        name = cursor.number(2) if version == 1 else 0
        cursor.take(2)
        values = cursor.number(2)
        cursor.take(-(-name // 8) * 8 + 4 * (values + values % 2 if version == 1 else values))
        kinds.append(kind)
    return kinds


def _inflated(content: memoryview, size: int) -> memoryview:
    stream = zlib.decompressobj()
    try:
        made = stream.decompress(content, size + 1)
    except zlib.error as problem:
        raise BadWeights(f"a chunk is damaged: {problem}") from None
    return memoryview(made)


def _unshuffled(content: memoryview, width: int) -> memoryview:
    """Undo the filter that puts all first bytes first, then all second bytes."""
    if len(content) % width:
        raise BadWeights("a chunk is damaged: its bytes are not those of whole numbers")
    return memoryview(np.frombuffer(content, np.uint8).reshape(width, -1).T.tobytes())


# --- shapes and types ---------------------------------------------------------------------------------------


def shape_of(file: File, cursor: Cursor) -> tuple[int, ...]:
    """The shape of an array or attribute."""
    version, rank = cursor.number(1), cursor.number(1)
    if version not in (1, 2) or rank > MAX_DIMENSIONS:
        raise BadWeights(f"an array has {rank} axes (in version {version} of the format); at most {MAX_DIMENSIONS}")
    cursor.take(1)
    if cursor.take(5 if version == 1 else 1)[0] == 2 and version == 2:
        raise BadWeights("an array or attribute has no shape")
    shape = tuple(file.length(cursor) for _ in range(rank))
    if prod(max(side, 1) for side in shape) > MAX_SIDE:
        raise BadWeights(f"an array of shape {shape} is larger than any file we read")
    return shape


def _type(cursor: Cursor) -> tuple[int, int, int]:
    """Class, further bits and bytes of a type."""
    return cursor.number(1) & 15, cursor.number(3), cursor.number(4)


def _type_of_numbers(cursor: Cursor) -> np.dtype[Any] | None:
    """The type of an array's numbers; None if they are not little-endian integers or IEEE fractions."""
    kind, bits, size = _type(cursor)
    if kind == INTEGERS and size in (1, 2, 4, 8) and not bits & 1:
        place, precision = cursor.number(2), cursor.number(2)
        if (place, precision) == (0, 8 * size):
            return np.dtype(f"<{'i' if bits & 8 else 'u'}{size}")
    if (
        kind == FRACTIONS
        and size in EXPONENTS
        and bits & 0x41 == 0
        and bits >> 4 & 3 == 2
        and bits >> 8 == 8 * size - 1
    ):
        place, precision = cursor.number(2), cursor.number(2)
        parts = [cursor.number(1) for _ in range(4)]
        exponent, width, mantissa_bits, bias = EXPONENTS[size]
        ieee = [exponent, width, 0, mantissa_bits]
        if (place, precision, parts, cursor.number(4)) == (0, 8 * size, ieee, bias):
            return np.dtype(f"<f{size}")
    return None


# --- texts --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """How an attribute keeps its texts: each in `size` bytes, or in the heap of texts."""

    size: int
    in_heap: bool = False


def type_of_text(cursor: Cursor) -> Text | None:
    """How an attribute's texts are kept; None if it holds something else."""
    kind, bits, size = _type(cursor)
    if kind == TEXTS and size:
        return Text(size)
    return Text(size, in_heap=True) if kind == OF_ANY_LENGTH and bits & 15 == 1 else None


def texts(file: File, cursor: Cursor, kept: Text, shape: tuple[int, ...]) -> Array:
    """An attribute's texts, as their bytes: (*shape, length of the longest) uint8, ended by zeros."""
    count = prod(shape)
    cell = 4 + file.offset_size + 4 if kept.in_heap else kept.size
    content = Cursor(cursor.take(count * cell))
    found = []
    for _ in range(count):
        file.step()
        if kept.in_heap:
            length, heap, index = content.number(4), file.offset(content), content.number(4)
            text = bytes(file.heap(heap).get(index, memoryview(b""))[:length]) if length else b""
            if len(text) != length:
                raise BadWeights("an attribute's text is missing or cut short")
        else:
            text = bytes(content.take(kept.size))
        file.spend(len(text))
        found.append(text.partition(b"\0")[0])
    file.spend(count * max(map(len, found), default=0))  # an array of bytes is as wide as its longest text
    return np.array(found, dtype=np.bytes_).reshape(*shape, 1).view(np.uint8)
