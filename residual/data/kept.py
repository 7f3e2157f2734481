"""Decoded pixels, kept between runs in the user's cache folder, so that a large folder is decoded once.

What is kept belongs to exact files: paths, sizes and modification times, the way they were decoded and the
versions that did it are all part of its name.  Its own SHA-256 is checked before it is used; anything wrong
with it, and the files are decoded again.  Nothing here can fail a run.
"""

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import PIL

from residual import records
from residual.data.decode import Pixels, View
from residual.data.loader import File

FORMAT = 1  # raised when decoding or the file changes
FEWEST = 5_000  # files; fewer are decoded as quickly
MOST = 4 << 30  # bytes of all that is kept; the oldest go first
HEAD = 8  # bytes that hold the length of the description


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """What reading a list of files gave.  Shapes: G good files, side S, C channels."""

    good: list[int]  # places in the list
    bad: dict[int, str]  # place -> reason
    found: Counter[tuple[int, int]]  # (width, height) -> files
    side: int
    pixels: Pixels | None  # (G, S, S, C), or None where they do not fit in memory
    digests: list[bytes] = field(default_factory=list)  # SHA-256 of each good file
    notes: tuple[str, ...] = ()


class _Description(msgspec.Struct):
    good: list[int]
    bad: dict[int, str]
    found: list[tuple[int, int, int]]
    side: int
    channels: int
    digests: list[bytes]
    sha256: bytes  # of the pixels


def cache_folder() -> Path:
    """Where downloads and decoded pixels lie: $RESIDUAL_CACHE, or `residual` in the user's ~/.cache."""
    own = os.environ.get("RESIDUAL_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "residual"


def keep(files: Sequence[File], view: View, size: int | None, harvest: Harvest) -> None:
    """Keep what was read, unless another try might end otherwise (a process died, a file did not open)."""
    place = _place(files, view, size)
    chance = harvest.notes or any(why.startswith("cannot be") for why in harvest.bad.values())
    if place is None or harvest.pixels is None or chance:
        return
    pixels = np.ascontiguousarray(harvest.pixels).reshape(-1)
    description = msgspec.msgpack.encode(
        _Description(
            good=harvest.good,
            bad=harvest.bad,
            found=[(*shape, count) for shape, count in harvest.found.items()],
            side=harvest.side,
            channels=harvest.pixels.shape[3],
            digests=harvest.digests,
            sha256=hashlib.sha256(pixels.data).digest(),
        )
    )
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        _make_room(place.parent, pixels.nbytes)
        with records.DurableFile(place) as file:
            file.write(len(description).to_bytes(HEAD, "little") + description)
            file.write(pixels.data)


def recall(files: Sequence[File], view: View, size: int | None) -> Harvest | None:
    """What was kept of exactly these files, if it is whole."""
    place = _place(files, view, size)
    if place is None:
        return None
    try:
        with place.open("rb") as file:
            length = int.from_bytes(file.read(HEAD), "little")
            rest = os.fstat(file.fileno()).st_size - HEAD - length
            kept = msgspec.msgpack.decode(file.read(min(length, 1 << 30)), type=_Description)
            shape = (len(kept.good), kept.side, kept.side, kept.channels)
            if rest != int(np.prod(shape, dtype=object)) or len(kept.digests) != len(kept.good):
                return None
            pixels = np.empty(shape, np.uint8)
            if file.readinto(pixels.data) != rest:
                return None
    except (OSError, msgspec.MsgspecError, ValueError, MemoryError):
        return None
    if hashlib.sha256(pixels.data).digest() != kept.sha256:
        return None
    found = Counter({(width, height): count for width, height, count in kept.found})
    return Harvest(good=kept.good, bad=kept.bad, found=found, side=kept.side, pixels=pixels, digests=kept.digests)


def _place(files: Sequence[File], view: View, size: int | None) -> Path | None:
    if len(files) < FEWEST or any(file.path is None or file.stamp is None for file in files):
        return None
    digest = hashlib.sha256(repr((FORMAT, PIL.__version__, view, size)).encode())
    for file in files:
        digest.update(repr((file.path, file.stamp)).encode())
    try:
        return cache_folder() / "decoded" / digest.hexdigest()
    except RuntimeError:  # nobody's home
        return None


def _make_room(folder: Path, needed: int) -> None:
    kept = sorted((one.stat().st_mtime, one) for one in folder.iterdir() if one.is_file())
    total = sum(one.stat().st_size for _, one in kept)
    for _, one in kept:
        if total + needed <= MOST:
            return
        total -= one.stat().st_size
        one.unlink()
