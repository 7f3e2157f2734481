"""A zip archive as torch.save writes it, each entry checked before it is read.

Nothing is unpacked: entries are stored, not compressed, and handed on as bytes.
"""

import io
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from residual.weights.files import BadWeights

SIGNATURE = b"PK\x03\x04"
MAX_ENTRIES = 10_000
MAX_DIRECTORY = 4 << 20  # bytes of the list of entries


@dataclass(frozen=True)
class Entries:
    """The entries of an archive, by their names below its one top folder."""

    archive: zipfile.ZipFile
    found: dict[str, zipfile.ZipInfo]

    def __contains__(self, name: str) -> bool:
        return name in self.found

    def size(self, name: str) -> int:
        """Bytes."""
        return self.found[name].file_size

    def read(self, name: str) -> bytes:
        """All of an entry, its checksum compared."""
        entry = self.found[name]
        with self.archive.open(entry) as stream:
            content = stream.read(entry.file_size + 1)  # reading to the end checks the checksum
        if len(content) != entry.file_size:
            raise BadWeights(f"its zip entry {entry.filename[:200]!r} is shorter than it says")
        return content


@contextmanager
def opened(file: BinaryIO) -> Iterator[Entries]:
    """The entries of a zip archive; whatever is wrong with it, in here or while it is read, is a `BadWeights`."""
    _check_directory_size(file)
    try:
        with zipfile.ZipFile(file) as archive:
            yield Entries(archive, _checked(archive.infolist(), os.fstat(file.fileno()).st_size))
    except BadWeights:
        raise
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error) as problem:
        raise BadWeights(f"it is not a sound zip archive: {problem}") from None


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


def _checked(found: list[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries of an archive of `size` bytes, by their names below the one top folder.

    Refused: compression (torch.save does not compress, bombs do), encryption, links, two entries of one name,
    entries that share bytes, names that lead out of the folder.
    """
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
