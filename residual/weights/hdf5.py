"""Arrays out of HDF5 files, read as data; as much of the format as Keras and h5py write by default.

Groups (symbol tables, or links kept in their header), arrays of little-endian numbers that lie in one piece or in
chunks (gzip, shuffle), and text attributes.  What the format offers beyond that is refused by name: links to
other files, data in other files, filters that need code.  Every address is checked against the file, every place is
visited once, and steps are counted, so a file that leads in circles ends in a refusal.

Source: "HDF5 File Format Specification Version 3.0" of the HDF Group.  Checksums are not compared.
No torch here, so that a small process can read.
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from operator import lt

import numpy as np

from residual.weights.arrays import MAX_DIMENSIONS, MAX_TENSORS, Array
from residual.weights.files import BadWeights, open_file

NAME = "HDF5"

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_STEPS = 500_000  # messages, links, nodes, chunks and strings in one file
MAX_SIDE = 1 << 31
MAX_NAME = 1_000  # bytes, of a whole path
MAX_DEPTH = 16  # groups in groups
MAX_GROWTH, FREE_GROWTH = 2, 64 << 20  # all arrays together: at most twice the file's bytes, and 64 MiB
MAX_WASTE = 16  # chunks stick out: in each of four axes, they may be twice as long as their array
SMALL = 1 << 16  # bytes of chunks that no array needs to justify
EXPONENTS = {2: (10, 5, 10, 15), 4: (23, 8, 23, 127), 8: (52, 11, 52, 1023)}  # IEEE 754: place, bits, mantissa, bias
DEFLATE, SHUFFLE = 1, 2


def recognises(head: bytes, path: str | os.PathLike[str]) -> bool:
    """Whether a file is HDF5, by its first eight bytes."""
    del path
    return head.startswith(SIGNATURE)


def read(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays and text attributes of a file, see `read_data`."""
    with open_file(path) as file:
        return read_data(file.read())


def read_data(data: bytes) -> dict[str, Array]:
    """Every array under its path (a/b), and every text attribute of a group as a/b@NAME.

    Arrays that lie in one piece are views of `data`; of a text, the last axis is its bytes (uint8), ended by zeros
    where others are longer.  `BadWeights` for whatever is damaged, unknown or larger than this module's limits.
    """
    file = _File(memoryview(data), growth=MAX_GROWTH * len(data) + FREE_GROWTH)
    found: dict[str, Array] = {}
    seen: set[int] = set()
    waiting = [("", file.root(), 0)]
    while waiting:
        path, address, depth = waiting.pop()
        if address in seen:
            raise BadWeights(f"{path!r} has another name already: its groups lead in a circle, or share an array")
        seen.add(address)
        if len(seen) > MAX_TENSORS:
            raise BadWeights(f"it has more than {MAX_TENSORS:,} groups and arrays")
        if depth > MAX_DEPTH or len(path) > MAX_NAME:
            raise BadWeights(f"its groups nest deeper than {MAX_DEPTH}, or a path is longer than {MAX_NAME} characters")
        messages = list(file.messages(address))
        kinds = {kind for kind, _ in messages}
        if kinds & {0x02, 0x06, 0x11}:
            names = set()
            for name, target in file.links(messages):
                if name in names or not name or "/" in name or "@" in name:
                    raise BadWeights(f"the group {path!r} has the name {name!r} twice, or it is no name")
                names.add(name)
                waiting.append((f"{path}/{name}" if path else name, target, depth + 1))
            found |= {f"{path}@{name}": text for name, text in file.attributes(messages)}
        elif 0x08 in kinds:
            found[path] = file.array(messages, path)
        else:
            raise BadWeights(f"{path!r} is neither a group nor an array")
    return found


@dataclass
class _Cursor:
    """A place in a stretch of bytes that moves on as it is read."""

    view: memoryview
    at: int = 0

    def take(self, count: int) -> memoryview:
        if not 0 <= count <= len(self.view) - self.at:
            raise BadWeights("it is cut short, or a part of it says that it is longer than it is")
        self.at += count
        return self.view[self.at - count : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def expect(self, mark: bytes, what: str) -> None:
        if bytes(self.take(len(mark))) != mark:
            raise BadWeights(f"{what} is not where it should be")

    def rest(self) -> int:
        return len(self.view) - self.at


@dataclass
class _Type:
    """The type of an array's or an attribute's elements: numbers, text of fixed size, or text in the global heap."""

    size: int
    numbers: str = ""  # as numpy writes it; "" for text
    heap: bool = False


@dataclass
class _File:
    """One file's reading; it counts steps and bytes made."""

    data: memoryview
    growth: int
    steps: int = MAX_STEPS
    offset_size: int = 8
    length_size: int = 8
    heaps: dict[int, dict[int, memoryview]] = field(default_factory=dict)

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise BadWeights(f"reading it takes more than {MAX_STEPS:,} steps")

    def spend(self, count: int) -> None:
        self.growth -= count
        if self.growth < 0:
            raise BadWeights(f"its arrays are more than {MAX_GROWTH} times as large as the file")

    def cursor(self, address: int, count: int | None = None) -> _Cursor:
        if address > len(self.data):
            raise BadWeights("it is cut short: a part of it lies behind its end")
        rest = _Cursor(self.data, address)
        return rest if count is None else _Cursor(rest.take(count))

    def offset(self, cursor: _Cursor) -> int:
        """An address; it may be undefined, all ones, which lies behind the end of every file."""
        return cursor.number(self.offset_size)

    def length(self, cursor: _Cursor) -> int:
        return cursor.number(self.length_size)

    def undefined(self, address: int) -> bool:
        return address == (1 << 8 * self.offset_size) - 1

    def root(self) -> int:
        """Where the root group's header is; from the superblock."""
        if bytes(self.data[:8]) != SIGNATURE:
            raise BadWeights(f"it is no HDF5 file: it begins with {bytes(self.data[:8])!r}")
        cursor = self.cursor(8)
        version = cursor.number(1)
        if version in (0, 1):
            cursor.take(4)
            self.offset_size, self.length_size = cursor.number(1), cursor.number(1)
            cursor.take(9 if version == 0 else 13)
        elif version in (2, 3):
            self.offset_size, self.length_size = cursor.number(1), cursor.number(1)
            cursor.take(1)
        else:
            raise BadWeights(f"its superblock has version {version}; 0 to 3 are read")
        if not {self.offset_size, self.length_size} <= {2, 4, 8}:
            raise BadWeights(
                f"its addresses have {self.offset_size} bytes and its lengths {self.length_size}; 2, 4 or 8"
            )
        if self.offset(cursor):
            raise BadWeights("its addresses do not count from its beginning")
        cursor.take((3 if version < 2 else 2) * self.offset_size)
        if version < 2:
            self.offset(cursor)  # of the root's name, which is empty
        return self.offset(cursor)

    # --- objects --------------------------------------------------------------------------------------------

    def messages(self, address: int) -> Iterator[tuple[int, _Cursor]]:
        """Kind and content of each message in an object's header, and in the blocks that continue it."""
        cursor = self.cursor(address)
        new = bytes(self.data[address : address + 4]) == b"OHDR"
        flags = 0
        if new:
            cursor.take(4)
            if (version := cursor.number(1)) != 2:
                raise BadWeights(f"an object's header has version {version}; 1 and 2 are read")
            flags = cursor.number(1)
            cursor.take(16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1))
            size, count = cursor.number(1 << (flags & 3)), MAX_STEPS
        else:
            if (version := cursor.number(1)) != 1:
                raise BadWeights(f"an object's header has version {version}; 1 and 2 are read")
            cursor.take(1)
            count = cursor.number(2)
            cursor.take(4)
            size = cursor.number(4)
            cursor.take(4)
        blocks = [_Cursor(cursor.take(size))]
        seen = {address}
        smallest = 4 + 2 * (flags >> 2 & 1) if new else 8
        while blocks:
            block = blocks.pop()
            while count and block.rest() >= smallest:
                self.step()
                count -= 1
                kind, length, shared = block.number(1 if new else 2), block.number(2), block.number(1) & 2
                block.take(2 * (flags >> 2 & 1) if new else 3)
                content = _Cursor(block.take(length))
                if kind == 0x10:
                    where, extent = self.offset(content), self.length(content)
                    if where in seen:
                        raise BadWeights("an object's header leads in a circle")
                    seen.add(where)
                    blocks.append(self.cursor(where, extent))
                    if new:
                        blocks[-1].expect(b"OCHK", "the continuation of a header")
                        blocks[-1] = _Cursor(blocks[-1].take(max(blocks[-1].rest() - 4, 0)))  # without its checksum
                elif shared and kind in (0x01, 0x03, 0x08, 0x0B, 0x0C):
                    raise BadWeights("it keeps types apart from the arrays that have them, which is not read")
                elif kind == 0x07:
                    raise BadWeights("an array's numbers are in another file, which is never opened")
                else:
                    yield kind, content

    def links(self, messages: list[tuple[int, _Cursor]]) -> Iterator[tuple[str, int]]:
        """Names in a group, and where the objects are."""
        for kind, content in messages:
            cursor = _Cursor(content.view)
            if kind == 0x11:
                yield from self.symbols(self.offset(cursor), self.offset(cursor))
            elif kind == 0x06:
                yield self.link(cursor)
            elif kind == 0x02:
                cursor.take(1)
                cursor.take(8 * (cursor.number(1) & 1))
                self.refuse_dense(self.offset(cursor), "groups")

    def refuse_dense(self, heap: int, what: str) -> None:
        if not self.undefined(heap):
            raise BadWeights(f"its {what} are stored in the newest way; save it again with h5py's default libver")

    def symbols(self, tree: int, heap: int) -> Iterator[tuple[str, int]]:
        """The old form of a group: a B-tree of symbol tables, the names in a heap beside it."""
        cursor = self.cursor(heap)
        cursor.expect(b"HEAP", "a group's heap of names")
        cursor.take(4)
        size = self.length(cursor)
        self.length(cursor)
        names = self.cursor(self.offset(cursor), size).view
        for _, table in self.leaves(tree, kind=0, key_size=self.length_size):
            cursor = self.cursor(table)
            cursor.expect(b"SNOD", "a table of symbols")
            cursor.take(2)
            for _ in range(cursor.number(2)):
                self.step()
                name, header, cached = self.offset(cursor), self.offset(cursor), cursor.number(4)
                cursor.take(20)
                if cached == 2:
                    raise BadWeights("it has links that are paths, which are not followed")
                yield _text(bytes(names[name : name + MAX_NAME]).partition(b"\0")[0]), header

    def link(self, cursor: _Cursor) -> tuple[str, int]:
        """The new form of a link, in a group's header."""
        cursor.take(1)
        flags = cursor.number(1)
        if flags & 8 and cursor.number(1):
            raise BadWeights("it has links that are paths, or lead to other files; they are not followed")
        cursor.take(8 * (flags >> 2 & 1) + (flags >> 4 & 1))
        return _text(bytes(cursor.take(cursor.number(1 << (flags & 3))))), self.offset(cursor)

    def leaves(self, tree: int, *, kind: int, key_size: int) -> Iterator[tuple[memoryview, int]]:
        """Key and child of every entry at the lowest level of a B-tree, version 1."""
        waiting, seen = [(tree, -1)], set()
        while waiting:
            address, expected = waiting.pop()
            self.step()
            if address in seen:
                raise BadWeights("one of its trees leads in a circle")
            seen.add(address)
            cursor = self.cursor(address)
            cursor.expect(b"TREE", "a node of a tree")
            found, level, count = cursor.number(1), cursor.number(1), cursor.number(2)
            if found != kind or expected not in (-1, level):
                raise BadWeights("one of its trees has a node of another kind or level than it should")
            cursor.take(2 * self.offset_size)
            for _ in range(count):
                self.step()
                key, child = cursor.take(key_size), self.offset(cursor)
                if level:
                    waiting.append((child, level - 1))
                else:
                    yield key, child

    # --- attributes -----------------------------------------------------------------------------------------

    def attributes(self, messages: list[tuple[int, _Cursor]]) -> Iterator[tuple[str, Array]]:
        """A group's attributes that are text, or arrays of it."""
        for kind, content in messages:
            cursor = _Cursor(content.view)
            if kind == 0x15:
                cursor.take(1)
                cursor.take(2 * (cursor.number(1) & 1))
                self.refuse_dense(self.offset(cursor), "attributes")
            elif kind == 0x0C:
                version, flags = cursor.number(1), cursor.number(1)
                if version not in (1, 2, 3) or (version > 1 and flags):
                    raise BadWeights(f"it has an attribute of version {version}, flags {flags}, which is not read")
                sizes = [cursor.number(2) for _ in range(3)]
                cursor.take(1 if version == 3 else 0)
                padded = [-(-size // 8) * 8 if version == 1 else size for size in sizes]
                name, type_, space = (cursor.take(size) for size in padded)
                element = self.type(_Cursor(type_), text=True)
                if element is not None:
                    shape = self.shape(_Cursor(space))
                    yield _text(bytes(name).partition(b"\0")[0]), self.strings(cursor, element, shape)

    def strings(self, cursor: _Cursor, element: _Type, shape: tuple[int, ...]) -> Array:
        count = prod(shape)
        cell = 4 + self.offset_size + 4 if element.heap else element.size
        content = _Cursor(cursor.take(count * cell))
        texts = []
        for _ in range(count):
            self.step()
            if element.heap:
                length, heap, index = content.number(4), self.offset(content), content.number(4)
                text = bytes(self.heap(heap).get(index, memoryview(b""))[:length]) if length else b""
                if len(text) != length:
                    raise BadWeights("an attribute's text is missing or cut short")
            else:
                text = bytes(content.take(element.size))
            self.spend(len(text))
            texts.append(text.partition(b"\0")[0])
        self.spend(count * max(map(len, texts), default=0))  # an array of bytes is as wide as its longest text
        return np.array(texts, dtype=np.bytes_).reshape(*shape, 1).view(np.uint8)

    def heap(self, address: int) -> dict[int, memoryview]:
        """The objects of one collection of the global heap, by index."""
        if address not in self.heaps:
            cursor = self.cursor(address)
            cursor.expect(b"GCOL", "the heap of texts")
            cursor.take(4)
            size = self.length(cursor)
            cursor = self.cursor(address, size)
            cursor.take(8 + self.length_size)
            objects = self.heaps[address] = {}
            while cursor.rest() >= 8 + self.length_size:
                self.step()
                index = cursor.number(2)
                cursor.take(6)
                extent = self.length(cursor)
                if not index:
                    break
                objects[index] = cursor.take(extent)
                cursor.take(min(-extent % 8, cursor.rest()))
        return self.heaps[address]

    # --- arrays ---------------------------------------------------------------------------------------------

    def shape(self, cursor: _Cursor) -> tuple[int, ...]:
        version, rank = cursor.number(1), cursor.number(1)
        if version not in (1, 2) or rank > MAX_DIMENSIONS:
            raise BadWeights(f"an array has {rank} axes (in version {version} of the format); at most {MAX_DIMENSIONS}")
        cursor.take(1)
        if cursor.take(5 if version == 1 else 1)[0] == 2 and version == 2:
            raise BadWeights("an array or attribute has no shape")
        shape = tuple(self.length(cursor) for _ in range(rank))
        if prod(max(side, 1) for side in shape) > MAX_SIDE:
            raise BadWeights(f"an array of shape {shape} is larger than any file we read")
        return shape

    def type(self, cursor: _Cursor, *, text: bool) -> _Type | None:
        """The elements' type; None if it is not of the wanted sort (text, or else numbers)."""
        first, bits, size = cursor.number(1), cursor.number(3), cursor.number(4)
        kind = first & 15
        if text:
            if kind == 3 and size:
                return _Type(size)
            return _Type(size, heap=True) if kind == 9 and bits & 15 == 1 else None
        if kind == 0 and size in (1, 2, 4, 8) and not bits & 1:
            place, precision = cursor.number(2), cursor.number(2)
            if (place, precision) == (0, 8 * size):
                return _Type(size, f"<{'i' if bits & 8 else 'u'}{size}")
        if kind == 1 and size in EXPONENTS and bits & 0x41 == 0 and bits >> 4 & 3 == 2 and bits >> 8 == 8 * size - 1:
            place, precision = cursor.number(2), cursor.number(2)
            parts = [cursor.number(1) for _ in range(4)]
            exponent, width, mantissa_bits, bias = EXPONENTS[size]
            ieee = [exponent, width, 0, mantissa_bits]
            if (place, precision, parts, cursor.number(4)) == (0, 8 * size, ieee, bias):
                return _Type(size, f"<f{size}")
        return None

    def array(self, messages: list[tuple[int, _Cursor]], path: str) -> Array:
        """An array of numbers, in one piece or in chunks."""
        contents = {kind: _Cursor(content.view) for kind, content in messages}
        if not {0x01, 0x03, 0x08} <= contents.keys():
            raise BadWeights(f"the array {path!r} lacks its shape, type or place")
        shape = self.shape(contents[0x01])
        element = self.type(contents[0x03], text=False)
        if element is None:
            raise BadWeights(f"the array {path!r} holds something else than little-endian numbers")
        size = prod(shape) * element.size
        layout = contents[0x08]
        version, kind = layout.number(1), layout.number(1)
        if version == 3 and kind == 2:
            return self.chunked(layout, contents.get(0x0B), element, shape, path)
        if version not in (3, 4) or kind > 1:
            raise BadWeights(
                f"the array {path!r} is stored in a way that is not read (version {version}, class {kind})"
            )
        if 0x0B in contents and _Cursor(contents[0x0B].view).take(2)[1]:
            raise BadWeights(f"the array {path!r} has filters though it is not in chunks")
        if kind == 0:
            numbers = layout.take(layout.number(2))
        else:
            address, extent = self.offset(layout), self.length(layout)
            if size and self.undefined(address):
                raise BadWeights(f"the array {path!r} was never written")
            numbers = self.cursor(address, extent).view if size else memoryview(b"")
        if len(numbers) != size:
            raise BadWeights(
                f"the array {path!r} has the shape {shape}, {size:,} bytes, but {len(numbers):,} are stored"
            )
        self.spend(size)
        return np.frombuffer(numbers, element.numbers).reshape(shape)

    def chunked(
        self, layout: _Cursor, filters: _Cursor | None, element: _Type, shape: tuple[int, ...], path: str
    ) -> Array:
        rank = layout.number(1) - 1
        tree = self.offset(layout)
        sides = tuple(layout.number(4) for _ in range(rank))
        if rank != len(shape) or not rank or 0 in sides or layout.number(4) != element.size:
            raise BadWeights(f"the chunks of the array {path!r} have another number of axes or type than the array")
        done = [] if filters is None else self.filters(filters, path)
        grid = tuple(-(-side // chunk) for side, chunk in zip(shape, sides, strict=True))
        extent = prod(sides) * element.size
        size = prod(shape) * element.size
        if prod(grid) > self.steps or prod(grid) * extent > max(MAX_WASTE * size, SMALL):
            raise BadWeights(
                f"the array {path!r} of {size:,} bytes is in {prod(grid):,} chunks of {extent:,} bytes each"
            )
        if size and self.undefined(tree):
            raise BadWeights(f"the array {path!r} was never written")
        self.spend(size)
        made = np.zeros(shape, element.numbers)
        if not size:
            return made
        placed: set[tuple[int, ...]] = set()
        for raw, address in self.leaves(tree, kind=1, key_size=8 + 8 * (rank + 1)):
            key = _Cursor(raw)
            stored, skipped = key.number(4), key.number(4)
            starts = [key.number(8) for _ in range(rank)]
            place = tuple(start // side for start, side in zip(starts, sides, strict=True))
            aligned = all(start % side == 0 for start, side in zip(starts, sides, strict=True))
            if place in placed or not aligned or not all(map(lt, place, grid)):
                raise BadWeights(f"the array {path!r} has a chunk twice, or outside its shape")
            placed.add(place)
            content = self.cursor(address, stored).view
            for index, kind in reversed(list(enumerate(done))):
                if not skipped >> index & 1:
                    content = _inflated(content, extent) if kind == DEFLATE else _unshuffled(content, element.size)
            if len(content) != extent:
                raise BadWeights(f"a chunk of the array {path!r} has {len(content):,} bytes instead of {extent:,}")
            chunk = np.frombuffer(content, element.numbers).reshape(sides)
            inside = tuple(
                slice(start, min(start + side, end)) for start, side, end in zip(starts, sides, shape, strict=True)
            )
            made[inside] = chunk[tuple(slice(0, part.stop - part.start) for part in inside)]
        if len(placed) < prod(grid):
            raise BadWeights(f"{prod(grid) - len(placed):,} chunks of the array {path!r} were never written")
        return made

    def filters(self, cursor: _Cursor, path: str) -> list[int]:
        """What was done to each chunk, in the order it was done."""
        version, count = cursor.number(1), cursor.number(1)
        cursor.take(6 if version == 1 else 0)
        if version not in (1, 2) or count > 8:
            raise BadWeights(f"the array {path!r} has {count} filters of version {version}")
        kinds = []
        for _ in range(count):
            kind = cursor.number(2)
            if kind not in (DEFLATE, SHUFFLE):
                raise BadWeights(
                    f"the array {path!r} went through filter {kind}; only gzip (1) and shuffle (2) are read"
                )
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


def _text(content: bytes) -> str:
    if len(content) > MAX_NAME:
        raise BadWeights(f"a name has more than {MAX_NAME} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BadWeights(f"a name is no text: {content[:MAX_NAME]!r}") from None
