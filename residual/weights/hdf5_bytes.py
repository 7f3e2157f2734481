"""Places in an HDF5 file: its root, the headers of its objects, its trees and its heap of texts.

Every address is checked against the file, every place of a header or a tree is visited once, and steps are counted,
so a file that leads in circles ends in a refusal.  Checksums are not compared.

Source: "HDF5 File Format Specification Version 3.0" of the HDF Group.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from residual.weights.files import BadWeights

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_STEPS = 500_000  # messages, links, nodes, chunks and strings in one file
MAX_NAME = 1_000  # bytes, of a whole path
MAX_GROWTH, FREE_GROWTH = 2, 64 << 20  # all arrays together: at most twice the file's bytes, and 64 MiB

# What a message in an object's header is about.
SHAPE, LINK_INFO, TYPE, LINK, ELSEWHERE, LAYOUT, FILTERS = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08, 0x0B
ATTRIBUTE, CONTINUATION, SYMBOLS, ATTRIBUTE_INFO = 0x0C, 0x10, 0x11, 0x15


@dataclass
class Cursor:
    """A place in a stretch of bytes that moves on as it is read."""

    view: memoryview
    at: int = 0

    def take(self, count: int) -> memoryview:
        """The next bytes, which must be there."""
        if not 0 <= count <= len(self.view) - self.at:
            raise BadWeights("it is cut short, or a part of it says that it is longer than it is")
        self.at += count
        return self.view[self.at - count : self.at]

    def number(self, size: int) -> int:
        """The next whole number, of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def expect(self, mark: bytes, what: str) -> None:
        if bytes(self.take(len(mark))) != mark:
            raise BadWeights(f"{what} is not where it should be")

    def rest(self) -> int:
        return len(self.view) - self.at


@dataclass
class File:
    """One file's reading; it counts steps and bytes made."""

    data: memoryview
    growth: int = field(init=False)  # bytes that arrays may still take
    steps: int = MAX_STEPS
    offset_size: int = 8
    length_size: int = 8
    heaps: dict[int, dict[int, memoryview]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.growth = MAX_GROWTH * len(self.data) + FREE_GROWTH

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise BadWeights(f"reading it takes more than {MAX_STEPS:,} steps")

    def spend(self, count: int) -> None:
        self.growth -= count
        if self.growth < 0:
            raise BadWeights(f"its arrays are more than {MAX_GROWTH} times as large as the file")

    def cursor(self, address: int, count: int | None = None) -> Cursor:
        """At an address, to the end of the file or of `count` bytes."""
        if address > len(self.data):
            raise BadWeights("it is cut short: a part of it lies behind its end")
        rest = Cursor(self.data, address)
        return rest if count is None else Cursor(rest.take(count))

    def offset(self, cursor: Cursor) -> int:
        """An address; it may be undefined, all ones, which lies behind the end of every file."""
        return cursor.number(self.offset_size)

    def length(self, cursor: Cursor) -> int:
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

    def messages(self, address: int) -> Iterator[tuple[int, memoryview]]:
        """Kind and content of each message in an object's header, and in the blocks that continue it."""
        cursor = self.cursor(address)
        new = bytes(self.data[address : address + 4]) == b"OHDR"
        cursor.take(4 if new else 0)
        if (version := cursor.number(1)) != (2 if new else 1):
            raise BadWeights(f"an object's header has version {version}; 1 and 2 are read")
        if new:
            flags = cursor.number(1)
            cursor.take(16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1))
            size, count = cursor.number(1 << (flags & 3)), MAX_STEPS
        else:
            flags = 0
            cursor.take(1)
            count = cursor.number(2)
            cursor.take(4)
            size = cursor.number(4)
            cursor.take(4)
        blocks = [Cursor(cursor.take(size))]
        seen = {address}
        smallest = 4 + 2 * (flags >> 2 & 1) if new else 8
        while blocks:
            block = blocks.pop()
            while count and block.rest() >= smallest:
                self.step()
                count -= 1
                kind, length, shared = block.number(1 if new else 2), block.number(2), block.number(1) & 2
                block.take(2 * (flags >> 2 & 1) if new else 3)
                content = Cursor(block.take(length))
                if kind == CONTINUATION:
                    where, extent = self.offset(content), self.length(content)
                    if where in seen:
                        raise BadWeights("an object's header leads in a circle")
                    seen.add(where)
                    blocks.append(self.cursor(where, extent))
                    if new:
                        blocks[-1].expect(b"OCHK", "the continuation of a header")
                        blocks[-1] = Cursor(blocks[-1].take(max(blocks[-1].rest() - 4, 0)))  # without its checksum
                elif shared and kind in (SHAPE, TYPE, LAYOUT, FILTERS, ATTRIBUTE):
                    raise BadWeights("it keeps types apart from the arrays that have them, which is not read")
                elif kind == ELSEWHERE:
                    raise BadWeights("an array's numbers are in another file, which is never opened")
                else:
                    yield kind, content.view

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


def name_of(content: bytes) -> str:
    """The name of a group, an array or an attribute."""
    if len(content) > MAX_NAME:
        raise BadWeights(f"a name has more than {MAX_NAME} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BadWeights(f"a name is no text: {content[:MAX_NAME]!r}") from None
