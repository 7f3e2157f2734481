"""Arrays out of HDF5 files, read as data; as much of the format as Keras and h5py write by default.

Groups (symbol tables, or links kept in their header), arrays of little-endian numbers that lie in one piece or in
chunks (gzip, shuffle), and text attributes.  What the format offers beyond that is refused by name: links to
other files, data in other files, filters that need code.

Here are groups; `hdf5_arrays` reads what is in them, `hdf5_bytes` finds and bounds it all.  No torch here, so that a
small process can read.
"""

import os
from collections.abc import Iterable, Iterator

from residual.weights.arrays import MAX_TENSORS, Array
from residual.weights.files import BadWeights, open_file
from residual.weights.hdf5_arrays import read_array, shape_of, texts, type_of_text
from residual.weights.hdf5_bytes import (
    ATTRIBUTE,
    ATTRIBUTE_INFO,
    LAYOUT,
    LINK,
    LINK_INFO,
    MAX_NAME,
    SIGNATURE,
    SYMBOLS,
    Cursor,
    File,
    name_of,
)

NAME = "HDF5"
MAX_DEPTH = 16  # groups in groups


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
    where others are longer.  `BadWeights` for whatever is damaged, unknown or larger than our limits.
    """
    file = File(memoryview(data))
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
        if kinds & {LINK_INFO, LINK, SYMBOLS}:
            names = set()
            for name, target in _links(file, messages):
                if name in names or not name or "/" in name or "@" in name:
                    raise BadWeights(f"the group {path!r} has the name {name!r} twice, or it is no name")
                names.add(name)
                waiting.append((f"{path}/{name}" if path else name, target, depth + 1))
            found |= {f"{path}@{name}": text for name, text in _attributes(file, messages)}
        elif LAYOUT in kinds:
            found[path] = read_array(file, dict(messages), path)
        else:
            raise BadWeights(f"{path!r} is neither a group nor an array")
    return found


def _links(file: File, messages: Iterable[tuple[int, memoryview]]) -> Iterator[tuple[str, int]]:
    """Names in a group, and where the objects are."""
    for kind, content in messages:
        cursor = Cursor(content)
        if kind == SYMBOLS:
            yield from _symbols(file, file.offset(cursor), file.offset(cursor))
        elif kind == LINK:
            yield _link(file, cursor)
        elif kind == LINK_INFO:
            cursor.take(1)
            cursor.take(8 * (cursor.number(1) & 1))
            _refuse_dense(file, file.offset(cursor), "groups")


def _refuse_dense(file: File, heap: int, what: str) -> None:
    if not file.undefined(heap):
        raise BadWeights(f"its {what} are stored in the newest way; save it again with h5py's default libver")


def _symbols(file: File, tree: int, heap: int) -> Iterator[tuple[str, int]]:
    """The old form of a group: a B-tree of symbol tables, the names in a heap beside it."""
    cursor = file.cursor(heap)
    cursor.expect(b"HEAP", "a group's heap of names")
    cursor.take(4)
    size = file.length(cursor)
    file.length(cursor)
    names = file.cursor(file.offset(cursor), size).view
    for _, table in file.leaves(tree, kind=0, key_size=file.length_size):
        cursor = file.cursor(table)
        cursor.expect(b"SNOD", "a table of symbols")
        cursor.take(2)
        for _ in range(cursor.number(2)):
            file.step()
            name, header, cached = file.offset(cursor), file.offset(cursor), cursor.number(4)
            cursor.take(20)
            if cached == 2:
                raise BadWeights("it has links that are paths, which are not followed")
            yield name_of(bytes(names[name : name + MAX_NAME]).partition(b"\0")[0]), header


def _link(file: File, cursor: Cursor) -> tuple[str, int]:
    """The new form of a link, in a group's header."""
    cursor.take(1)
    flags = cursor.number(1)
    if flags & 8 and cursor.number(1):
        raise BadWeights("it has links that are paths, or lead to other files; they are not followed")
    cursor.take(8 * (flags >> 2 & 1) + (flags >> 4 & 1))
    return name_of(bytes(cursor.take(cursor.number(1 << (flags & 3))))), file.offset(cursor)


def _attributes(file: File, messages: Iterable[tuple[int, memoryview]]) -> Iterator[tuple[str, Array]]:
    """A group's attributes that are text, or arrays of it."""
    for kind, content in messages:
        cursor = Cursor(content)
        if kind == ATTRIBUTE_INFO:
            cursor.take(1)
            cursor.take(2 * (cursor.number(1) & 1))
            _refuse_dense(file, file.offset(cursor), "attributes")
        elif kind == ATTRIBUTE:
            version, flags = cursor.number(1), cursor.number(1)
            if version not in (1, 2, 3) or (version > 1 and flags):
                raise BadWeights(f"it has an attribute of version {version}, flags {flags}, which is not read")
            sizes = [cursor.number(2) for _ in range(3)]
            cursor.take(1 if version == 3 else 0)
            padded = [-(-size // 8) * 8 if version == 1 else size for size in sizes]
            name, type_, space = (cursor.take(size) for size in padded)
            if (kept := type_of_text(Cursor(type_))) is not None:
                shape = shape_of(file, Cursor(space))
                yield name_of(bytes(name).partition(b"\0")[0]), texts(file, cursor, kept, shape)
