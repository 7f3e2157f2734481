"""CIFAR-10 and CIFAR-100 as their authors distribute them (Krizhevsky 2009): Python pickles in a .tar.gz.

A pickle is a program; these are read by an interpreter that knows the few instructions they need and runs
nothing.  Archives are read where they lie, never unpacked to disk, and checked against the published MD5.
"""

import hashlib
import io
import os
import pickle
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from residual.data.images import Dataset, Images

Progress = Callable[[int, int], None]  # bytes so far, bytes in all

MAX_PICKLE = 256 << 20  # bytes; the largest real one has 155 MB


@dataclass(frozen=True, kw_only=True)
class Source:
    """One of the two data sets, as published on cs.toronto.edu/~kriz/cifar.html."""

    title: str
    archive: str
    url: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    names_key: bytes
    labels_key: bytes
    classes: int
    md5s: dict[str, str]  # of the files inside


CIFAR10 = Source(
    title="CIFAR-10",
    archive="cifar-10-python.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test=("test_batch",),
    meta="batches.meta",
    names_key=b"label_names",
    labels_key=b"labels",
    classes=10,
    md5s={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
)
CIFAR100 = Source(
    title="CIFAR-100",
    archive="cifar-100-python.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar-100-python",
    train=("train",),
    test=("test",),
    meta="meta",
    names_key=b"fine_label_names",
    labels_key=b"fine_labels",
    classes=100,
    md5s={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
)


def find_cifar(place: Path) -> tuple[Source, Path] | None:
    """Which CIFAR lies at `place` (the archive, its folder, or a folder with one of them), and where."""
    for source in (CIFAR10, CIFAR100):
        for there in (place, place / source.folder, place / source.archive):
            if there.name == source.archive and there.is_file():
                return source, there
            if there.is_dir() and all((there / name).is_file() for name in (*source.train, source.meta)):
                return source, there
    return None


def read_cifar(source: Source, place: Path) -> Dataset:
    """Read the archive or the folder at `place`."""
    files = _from_archive(source, place) if place.is_file() else _from_folder(source, place)
    names = _unpickle(files[source.meta], source.meta).get(source.names_key, [])
    classes = tuple(str(name, "ascii", "replace") for name in names if isinstance(name, bytes))
    if len(classes) != source.classes:
        raise ValueError(f"{place}: {source.meta} names {len(classes)} classes, not {source.classes}")
    train, test = (
        _images(source, {batch: files[batch] for batch in batches}, classes) for batches in (source.train, source.test)
    )
    return Dataset(
        train=train,
        test=test,
        classes=classes,
        origin=f"{source.title}, the authors' archive",
        split={"made": "by the authors", "train": len(train), "test": len(test)},
        sizes={"32x32": len(train) + len(test)},
    )


def download_cifar(source: Source, folder: Path, *, progress: Progress | None = None) -> Path:
    """Fetch the authors' archive into `folder`, going on where an earlier try stopped; returns its path."""
    target = folder / source.archive
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(source.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            resumed = reply.status == 206
            have = have if resumed else 0
            length = reply.headers.get("Content-Length")
            total = have + int(length or 0)
            with part.open("ab" if resumed else "wb") as file:
                while block := reply.read(1 << 20):
                    file.write(block)
                    have += len(block)
                    if progress is not None:
                        progress(have, total)
                file.flush()
                os.fsync(file.fileno())
        if length is not None and have < total:
            raise OSError(f"it broke off after {have} of {total} bytes")
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: the part is whole already
            raise _not_fetched(source, part, str(error)) from None
    except OSError as error:
        raise _not_fetched(source, part, str(error)) from None
    if (found := _md5(part.read_bytes())) != source.md5:
        part.unlink()
        raise ValueError(
            f"what came from {source.url} has the MD5 {found}, not the published {source.md5}; it was "
            "removed. Try again, or get the archive elsewhere and give its folder as the data"
        )
    part.replace(target)
    return target


def _not_fetched(source: Source, part: Path, why: str) -> ValueError:
    return ValueError(
        f"{source.url} could not be fetched ({why}). What came so far is kept in {part} and the next try "
        "goes on from there; or get the archive elsewhere and give its folder as the data"
    )


def _from_archive(source: Source, archive: Path) -> dict[str, bytes]:
    data = archive.read_bytes()
    if (found := _md5(data)) != source.md5:
        raise ValueError(
            f"{archive} is damaged or another file: its MD5 is {found}, published is {source.md5}. "
            "Remove it and download it again"
        )
    wanted = {f"{source.folder}/{name}": name for name in (*source.train, *source.test, source.meta)}
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        for member in tar:
            if member.isreg() and member.name in wanted and member.size <= MAX_PICKLE:
                content = tar.extractfile(member)
                assert content is not None
                files[wanted[member.name]] = content.read()
    missing = sorted(set(wanted.values()) - set(files))
    if missing:
        raise ValueError(f"{archive} lacks {', '.join(missing)}; remove it and download it again")
    return files


def _from_folder(source: Source, folder: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for name in (*source.train, *source.test, source.meta):
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{folder} lacks {name}; unpack {source.archive} again, or give the archive")
        if path.stat().st_size > MAX_PICKLE:
            raise ValueError(f"{path} is larger than any of {source.title}; unpack {source.archive} again")
        files[name] = path.read_bytes()
        if (found := _md5(files[name])) != source.md5s[name]:
            raise ValueError(
                f"{path} is damaged: its MD5 is {found}, published is {source.md5s[name]}. "
                f"Unpack {source.archive} again"
            )
    return files


def _images(source: Source, batches: dict[str, bytes], classes: tuple[str, ...]) -> Images:
    pixels: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    names: list[str] = []
    for batch, data in batches.items():
        content = _unpickle(data, batch)
        rows, own = content.get(b"data"), content.get(source.labels_key)
        if not isinstance(rows, _Array) or not isinstance(own, list):
            raise ValueError(f"{batch} is no batch of {source.title}: it lacks data or labels")
        planes = rows.uint8(batch)
        if planes.ndim != 2 or planes.shape != (len(own), 3072):
            raise ValueError(f"{batch}: {planes.shape} numbers for {len(own)} labels; a label takes 3072")
        if not all(isinstance(label, int) and 0 <= label < source.classes for label in own):
            raise ValueError(f"{batch}: a label is not in 0..{source.classes - 1}")
        pixels.append(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))  # stored as colour planes
        labels += own
        names += [f"{batch}:{number}" for number in range(len(own))]
    return Images(
        pixels=torch.from_numpy(np.concatenate(pixels)),
        labels=torch.tensor(labels, dtype=torch.int64),
        classes=classes,
        names=tuple(names),
    )


# --- pickles without programs ------------------------------------------------------------------------------


class _Array:
    """Stands where the pickle says numpy.ndarray; holds what it was given and does nothing."""

    shape: tuple[int, ...] = ()
    data: Any = b""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, dtype, fortran, self.data = state
        if not isinstance(dtype, _Kind) or dtype.name not in ("u1", b"u1") or fortran:
            raise pickle.UnpicklingError("an array that is not uint8")

    def uint8(self, where: str) -> NDArray[np.uint8]:
        if not isinstance(self.data, bytes):
            raise ValueError(f"{where} is damaged: the pixels are not bytes")
        size = int(np.prod([int(side) for side in self.shape], dtype=object))
        if size != len(self.data):
            raise ValueError(f"{where} is damaged: {len(self.data)} bytes for an array of {self.shape}")
        return np.frombuffer(self.data, np.uint8).reshape(self.shape)


class _Kind:
    """Stands where the pickle says numpy.dtype."""

    def __init__(self, name: Any = b"", *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


def _empty_array(*_: Any) -> _Array:
    return _Array()


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
}


class _Unpickler(pickle._Unpickler):  # the one in Python: its memo cannot be made to allocate
    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return found

    def persistent_load(self, _: Any) -> Any:
        raise pickle.UnpicklingError("it asks for something outside itself")


def _unpickle(data: bytes, name: str) -> dict[bytes, Any]:
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle may fail in any way
        reason = str(error) or type(error).__name__
        raise ValueError(f"{name} is not what CIFAR's authors published ({reason}); nothing in it was run") from None
    if not isinstance(content, dict):
        raise ValueError(f"{name} is not what CIFAR's authors published: no dictionary")
    return content


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
