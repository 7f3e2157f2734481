"""A pack: the good images of a source in a few large tar files, with a record; quick to open, quick to read.

    TARGET/pack.json           classes, counts, fingerprint, how the images were shrunk, SHA-256 of every file
    TARGET/train-00000.tar     000000000.jpg, 000000000.cls, ... as WebDataset reads them too
    TARGET/train-00000.index   where each image lies, its class, its name and its SHA-256 (msgpack)

Every image was decoded whole when it was packed, so opening a pack reads no images; each one's SHA-256 is checked
whenever it is decoded.  Inside a split the images of a folder lie in an order shuffled once, by their names.

Writing is durable, a shard at a time, and `pack.json` comes last: without it there is no pack.  Packing into a
folder where the same packing was cut off goes on after its last whole shard; any other folder that exists is refused.
"""

import hashlib
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, overload

import msgspec
import torch

from residual import records
from residual.data.assemble import SIZE, SMALL, VALIDATION, Entry, Listing, Progress, assemble, held_out, stored_side
from residual.data.decode import BadImage, View
from residual.data.images import Dataset, ImageFiles, Problem
from residual.data.loader import Decoded, File, Pool
from residual.data.shrink import Shrink

FORMAT = 1
RECORD, PLAN = "pack.json", "packing.json"
SHARD = 4096  # images
HELD_OUT_BY_NAME = f"{VALIDATION:.0%} of each class held out by name"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file and its index, as the record knows them."""

    name: str  # of the tar file
    images: int
    bytes: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """One split."""

    counts: dict[str, int]  # class -> images
    fingerprint: str  # SHA-256 over classes, labels and the SHA-256 of every image, in order
    shards: tuple[Shard, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """pack.json."""

    format: int
    origin: str
    classes: tuple[str, ...]
    shrunk: Shrink
    split: dict[str, Any]  # how it was made
    parts: dict[str, Part]  # "train", "validation", "test"
    sizes: dict[str, int]  # "500x375" -> images, as they lie in the pack
    left_out: tuple[Problem, ...]


class _Row(msgspec.Struct, array_like=True):
    """One image in the index of a shard."""

    name: str
    label: int
    offset: int
    size: int
    digest: bytes
    shape: tuple[int, int]  # width, height


class _Index(msgspec.Struct):
    rows: list[_Row]
    left_out: list[tuple[str, str]]  # name, reason
    bytes: int  # of the tar file
    sha256: str  # of the tar file


# --- writing -------------------------------------------------------------------------------------------------------


def write_pack(
    listing: Listing,
    target: Path,
    *,
    shrink: Shrink | None,
    seed: int = 0,
    workers: int,
    progress: Progress | None = None,
) -> Record:
    """Pack the images of a source.  Images that cannot be decoded are left out and listed in the record.

    shrink: None keeps every file as it is.  seed: decides what is held out where the source has no split.
    """
    shrink = shrink or Shrink(shorter=None)
    entries = _ordered(listing, seed)
    _begin(target, _plan(listing, entries, shrink))
    shards = list(_shards(entries))
    missing = [own for name, _, own in shards if _finished(target, name) is None]
    done = len(entries) - sum(map(len, missing))

    def files() -> Iterator[File]:
        for number, entry in enumerate(one for own in missing for one in own):
            if progress is not None:
                progress(done + number, len(entries))
            yield entry.file

    parts: dict[str, list[tuple[Shard, _Index]]] = {}
    with Pool(workers=workers) as pool:
        packed = pool.decode(files(), View(), shrink=shrink)
        for name, split, own in shards:
            written = parts.setdefault(split, [])
            if _finished(target, name) is None:
                _write_shard(packed, target, name, own, first=sum(shard.images for shard, _ in written))
            kept = _finished(target, name)
            assert kept is not None
            written.append(kept)
    indices = [index for written in parts.values() for _, index in written]
    sizes = Counter(f"{width}x{height}" for index in indices for width, height in (row.shape for row in index.rows))
    left_out = [Problem(path=name, reason=reason) for index in indices for name, reason in index.left_out]
    held_out_here = any(entry.split is None for entry in listing.entries)
    record = Record(
        format=FORMAT,
        origin=listing.origin,
        classes=listing.classes,
        shrunk=shrink,
        split=listing.split | ({"made": HELD_OUT_BY_NAME, "seed": seed} if held_out_here else {}),
        parts={split: _part(listing.classes, written) for split, written in parts.items()},
        sizes=dict(sizes.most_common(100)),
        left_out=(*listing.problems, *left_out),
    )
    empty = [name for name in record.classes if not record.parts["train"].counts.get(name)]
    if empty:
        raise ValueError(
            f"class {empty[0]!r} has no image that can be used for training; repair or add images, or remove the "
            f"folder of that class, then delete {target} and pack again"
        )
    records.write_json(target / RECORD, record)
    (target / PLAN).unlink(missing_ok=True)
    records.sync_folder(target)
    return record


def _ordered(listing: Listing, seed: int) -> list[Entry]:
    """All entries, each in its split, by split; files in an order that their names give, rows of tables as they are."""
    entries = list(listing.entries)
    if any(entry.split is None for entry in entries):
        labels = torch.tensor([entry.label for entry in entries])
        held = held_out([entry.file.name for entry in entries], labels, share=VALIDATION, seed=seed)
        entries = [
            replace(entry, split="validation" if out else "train")
            for entry, out in zip(entries, held.tolist(), strict=True)
        ]
    order = {"train": 0, "validation": 1, "test": 2}

    def place(entry: Entry) -> tuple[int, bytes]:
        name = entry.file.name.encode("utf-8", "surrogateescape")
        in_order = entry.file.data is not None  # to read rows of a parquet file in disorder would take days
        return order[entry.split or "train"], b"" if in_order else hashlib.sha256(name).digest()

    return sorted(entries, key=place)


def _plan(listing: Listing, entries: Sequence[Entry], shrink: Shrink) -> dict[str, object]:
    """What a packing is: one that was cut off is gone on with only if this is the same."""
    digest = hashlib.sha256(repr((FORMAT, SHARD, listing.classes)).encode("utf-8", "surrogateescape"))
    for entry in entries:
        told = (entry.file.name, entry.file.stamp, entry.file.span, entry.label, entry.split)
        digest.update(repr(told).encode("utf-8", "surrogateescape"))
    return {"format": FORMAT, "images": len(entries), "sha256": digest.hexdigest(), "shrunk": asdict(shrink)}


def _begin(target: Path, plan: dict[str, object]) -> None:
    if (target / RECORD).is_file():
        raise ValueError(f"{target} holds a pack already; name another folder, or remove that one")
    if (target / PLAN).is_file():
        if records.read_json(target / PLAN, dict[str, object]) != plan:
            raise ValueError(
                f"{target} holds the beginning of another pack (other images, or shrunk otherwise); name another "
                "folder, or remove that one"
            )
        records.remove_leftovers(target)
        return
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is no pack; name a folder that does not exist yet")
    records.make_folder(target)
    records.write_json(target / PLAN, plan)


def _shards(entries: Sequence[Entry]) -> Iterator[tuple[str, str, Sequence[Entry]]]:
    """The name, the split and the images of each shard."""
    for split in ("train", "validation", "test"):
        own = [entry for entry in entries if entry.split == split]
        for number, start in enumerate(range(0, len(own), SHARD)):
            yield f"{split}-{number:05}", split, own[start : start + SHARD]


def _write_shard(packed: Iterator[Decoded], target: Path, name: str, entries: Sequence[Entry], *, first: int) -> None:
    rows: list[_Row] = []
    left_out: list[tuple[str, str]] = []
    with records.DurableFile(target / f"{name}.tar") as file:
        tar = _Tar(file)
        for entry in entries:
            one = next(packed)
            if isinstance(one.pixels, BadImage):
                left_out.append((entry.file.name, str(one.pixels)))
                continue
            assert one.packed is not None
            data, suffix = one.packed
            key = f"{first + len(rows):09}"
            offset = tar.add(f"{key}.{suffix}", data)
            tar.add(f"{key}.cls", str(entry.label).encode())
            rows.append(_Row(entry.file.name, entry.label, offset, len(data), one.digest, one.found))
        tar.end()
    # The index comes last: where it stands, the shard before it is whole.
    index = _Index(rows, left_out, tar.bytes, tar.digest.hexdigest())
    records.write_durably(target / f"{name}.index", msgspec.msgpack.encode(index))


class _Tar:
    """A tar file that is written once, from its beginning to its end."""

    def __init__(self, file: records.DurableFile) -> None:
        self.file, self.bytes, self.digest = file, 0, hashlib.sha256()

    def add(self, name: str, data: bytes) -> int:
        """Write a member; returns where its bytes begin."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        header = info.tobuf(tarfile.USTAR_FORMAT)
        begin = self.bytes + len(header)
        self._write(header + data + bytes(-len(data) % tarfile.BLOCKSIZE))
        return begin

    def end(self) -> None:
        self._write(bytes(2 * tarfile.BLOCKSIZE))

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.bytes += len(data)


def _finished(target: Path, name: str) -> tuple[Shard, _Index] | None:
    """A shard that is whole, and its index; None where it is still to be written."""
    try:
        encoded = (target / f"{name}.index").read_bytes()
        index = msgspec.msgpack.decode(encoded, type=_Index)
        if (target / f"{name}.tar").stat().st_size != index.bytes:
            return None
    except (OSError, msgspec.MsgspecError):
        return None
    shard = Shard(
        name=f"{name}.tar",
        images=len(index.rows),
        bytes=index.bytes,
        sha256=index.sha256,
        index_sha256=hashlib.sha256(encoded).hexdigest(),
    )
    return shard, index


# --- reading -------------------------------------------------------------------------------------------------------


def is_pack(path: Path) -> bool:
    """Whether a pack lies here; refuses one that was never finished."""
    if (path / RECORD).is_file():
        return True
    if (path / PLAN).is_file():
        raise ValueError(f"{path} is a pack that was never finished; give the same `residual data pack` command again")
    return False


def read_pack(
    path: Path, *, size: int | None, view: View | None, seed: int, workers: int, progress: Progress | None = None
) -> Dataset:
    """Open a pack; its arguments are those of `open_dataset`.  Images of one small size are read into memory."""
    record = records.read_json(path / RECORD, Record)
    if record.format != FORMAT:
        raise ValueError(f"{path} is a pack of format {record.format}, and this version reads {FORMAT}: pack it again")
    if "train" not in record.parts or set(record.parts) - {"train", "validation", "test"}:
        raise ValueError(
            f"{path / RECORD}: a pack has train, and may have validation and test, not {list(record.parts)}"
        )
    rows = {split: _rows(path, record, split) for split in record.parts}
    if _all_small(record, size):
        entries = [
            Entry(file=file, label=label, split=split)
            for split, own in rows.items()
            for file, label in zip(own, own.labels.tolist(), strict=True)
        ]
        listing = Listing(entries=entries, classes=record.classes, origin=_origin(path, record), split=record.split)
        data = assemble(listing, size=size, view=view, seed=seed, workers=workers, progress=progress)
        return replace(data, problems=(*record.left_out, *data.problems), made_here=_made_here(record))
    if view is None:
        side = stored_side(size or SIZE)
        view = View(size=side, resize=side)

    def part(split: str) -> ImageFiles | None:
        if split not in rows:
            return None
        own = rows[split]
        return ImageFiles(
            files=own,
            labels=own.labels,
            classes=record.classes,
            names=own.names,
            view=replace(view, keep=0),
            digests=own.digests,
            workers=workers,
        )

    train = part("train")
    assert train is not None
    return Dataset(
        train=train,
        validation=part("validation"),
        test=part("test"),
        classes=record.classes,
        origin=_origin(path, record),
        problems=record.left_out,
        split=record.split | {split: len(own) for split, own in rows.items()},
        made_here=_made_here(record),
        sizes=record.sizes,
    )


class PackedFiles(Sequence[File]):
    """The images of one split as a list of files, each made when it is asked for."""

    def __init__(self, shards: Sequence[tuple[Path, tuple[int, int]]], rows: Sequence[tuple[int, _Row]]) -> None:
        self._shards, self._rows = shards, rows
        self.labels = torch.tensor([row.label for _, row in rows], dtype=torch.int64)
        self.names = tuple(row.name for _, row in rows)
        self.digests = tuple(row.digest for _, row in rows)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> File: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[File]: ...

    def __getitem__(self, place: int | slice) -> File | Sequence[File]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        shard, row = self._rows[place]
        path, stamp = self._shards[shard]
        return File(name=row.name, path=os.fsencode(path), stamp=stamp, span=(row.offset, row.size), digest=row.digest)


def _rows(path: Path, record: Record, split: str) -> PackedFiles:
    """The images of one split, after checking the index files against the record."""
    part = record.parts[split]
    shards: list[tuple[Path, tuple[int, int]]] = []
    rows: list[tuple[int, _Row]] = []
    for shard in part.shards:
        if "/" in shard.name or not shard.name.endswith(".tar"):
            raise ValueError(f"{path / RECORD} names a shard {shard.name!r}; shards lie beside it and end in .tar")
        file = path / shard.name
        try:
            encoded = file.with_suffix(".index").read_bytes()
            status = file.stat()
        except OSError as error:
            raise ValueError(f"{error.filename} cannot be read ({error.strerror}); the pack is not whole") from None
        if hashlib.sha256(encoded).hexdigest() != shard.index_sha256 or status.st_size != shard.bytes:
            raise ValueError(
                f"{file} or its index is not what was written (its size or SHA-256 differs); copy or pack it again"
            )
        try:
            index = msgspec.msgpack.decode(encoded, type=_Index)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{file.with_suffix('.index')} is no index of a pack: {error}") from None
        rows += [(len(shards), row) for row in index.rows]
        shards.append((file, (status.st_size, status.st_mtime_ns)))
    files = PackedFiles(shards, rows)
    if len(files) == 0 or not 0 <= int(files.labels.min()) <= int(files.labels.max()) < len(record.classes):
        raise ValueError(
            f"{path}: the {split} images are none, or of other classes than the {len(record.classes)} named"
        )
    if _fingerprint(record.classes, [row for _, row in rows]) != part.fingerprint:
        raise ValueError(f"{path}: the {split} images are not those of the record (their fingerprint differs)")
    return files


def _part(classes: tuple[str, ...], shards: Sequence[tuple[Shard, _Index]]) -> Part:
    rows = [row for _, index in shards for row in index.rows]
    counts = Counter(row.label for row in rows)
    return Part(
        counts={name: counts[label] for label, name in enumerate(classes)},
        fingerprint=_fingerprint(classes, rows),
        shards=tuple(shard for shard, _ in shards),
    )


def _fingerprint(classes: tuple[str, ...], rows: Sequence[_Row]) -> str:
    digest = hashlib.sha256(repr(classes).encode("utf-8", "surrogateescape"))
    for row in rows:
        digest.update(row.label.to_bytes(4, "little") + row.digest)
    return digest.hexdigest()


def _all_small(record: Record, size: int | None) -> bool:
    sides = set(record.sizes)
    side = next((side for side in range(1, SMALL + 1) if sides == {f"{side}x{side}"}), None)
    return side is not None and size in (None, side)


def _made_here(record: Record) -> bool:
    return record.split.get("made") == HELD_OUT_BY_NAME


def _origin(path: Path, record: Record) -> str:
    shrunk = record.shrunk
    how = "" if shrunk.shorter is None else f", shrunk to {shrunk.shorter} pixels, JPEG {shrunk.quality}"
    return f"pack {path.name} of {record.origin}{how}"
